"""A Python in which packages are not installed and PATH has no program, whatever this environment has.

``python absent.py PACKAGES``, with commas between, imports all modules of ours anew and asks what chooses by what is
installed. It prints, as JSON, which modules cannot be imported, and wrong answers.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OURS = ("dira_scale", "benchmarks")
RUNS_WHEN_IMPORTED = "benchmarks.gpu.__main__"
PROGRAMS = "programs"


class Without:
    """One of Python's finders, for which ``packages`` do not exist: import and ``find_spec`` answer as they do where
    nothing was installed. (None in ``sys.modules`` would not do: ``find_spec`` raises ValueError.)"""

    def __init__(self, finder: Any, packages: Iterable[str]) -> None:
        self.finder, self.packages = finder, tuple(packages)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if within(name, self.packages) else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def hide(packages: Iterable[str]) -> None:
    """They are not installed any more, as far as this process can see; our modules are to be imported anew."""
    for name in [name for name in sys.modules if within(name, (*OURS, *packages))]:
        del sys.modules[name]
    sys.meta_path[:] = [Without(finder, packages) for finder in sys.meta_path]


def within(name: str, packages: Iterable[str]) -> bool:
    """Whether module ``name`` is one of ``packages`` or inside one."""
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def failures() -> dict[str, str]:
    """For each of our modules that cannot be imported, the module that is missing, or else the whole error."""
    found = {}
    for file in sorted(file for package in OURS for file in (ROOT / package).rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != RUNS_WHEN_IMPORTED:
            try:
                importlib.import_module(name)
            except BaseException as error:
                found[name] = _missing(error) or traceback.format_exc()
    return found


def wrong_answers(hidden: Iterable[str]) -> list[str]:
    """What chooses by what is installed: what fails instead of choosing, and what does not see the absence."""
    from dira_scale.base.errors import UserError
    from dira_scale.train.data.loaders.build import choose

    wrong = []
    for package, requested in _questions().items():
        for number, ask in enumerate(requested if within(package, (PROGRAMS, *hidden)) else []):
            try:
                wrong.append(f"{package}, question {number}: not refused, {ask()}")
            except UserError as refusal:
                wrong += [f"{package}: not one line, {refusal}"] * ("\n" in str(refusal))
    for name, device in (("auto", "cpu"), ("cpu", "cpu"), ("stream", "cpu")):
        choose(name, device=device)
    if within("nvidia.dali", hidden):
        choice = choose("auto", device="cuda")
        if choice.name != "cpu" or "nvidia-dali is not installed" not in choice.why:
            wrong.append(f"auto on a GPU: {choice}")
    return wrong


def _questions() -> dict[str, list[Callable[[], object]]]:
    """What asks for a package, or for a program, and has to refuse in one line where it is missing."""

    from dira_scale.base.config.compose import compose
    from dira_scale.base.storage.excel import open_table
    from dira_scale.base.storage.store import locate
    from dira_scale.dataset.metrics.libraries import require_libraries
    from dira_scale.export.formats import _onnx
    from dira_scale.finetune.freezing import _adapt
    from dira_scale.predict.config import require_format
    from dira_scale.sweep.slurm import submit
    from dira_scale.train.data.loaders.build import choose
    from dira_scale.train.data.loaders.ffcv import FfcvLibrary
    from dira_scale.train.distributed.config import Parallel
    from dira_scale.train.distributed.launcher import check_launch
    from dira_scale.train.engine.tracker import require_tracker

    zero: list[Callable[[], object]] = [lambda: check_launch(Parallel(strategy="zero2"), "fp32", None)]
    onnx: list[Callable[[], object]] = [lambda: _onnx(None, 0, "")]
    return {
        "nvidia.dali": [lambda: choose("dali")],
        "ffcv": [FfcvLibrary],
        "deepspeed": zero, "transformers": zero, "onnx": onnx, "onnxscript": onnx,
        "peft": [lambda: _adapt(None, None)],
        "wandb": [lambda: require_tracker("wandb")],
        "mlflow": [lambda: require_tracker("mlflow")],
        "monai": [require_libraries],
        "upath": [lambda: locate("s3://bucket/shards", "data.shards")],
        "highdicom": [lambda: require_format(compose("predict", ["run=r", "out=o", "images=i", "format=dicomseg"]))],
        "openpyxl": [lambda: open_table(ROOT / "x.xlsx").__enter__()],
        "s3fs": [lambda: locate("s3://bucket/shards", "data.shards")],
        "aiohttp": [lambda: locate("https://example.org/shards", "data.shards")],
        PROGRAMS: [lambda: submit(None, None, [], {})],  # nothing is submitted: the sweep's folder would fail next
    }  # fmt: skip


def _missing(error: BaseException | None) -> str:
    """The module that was not found, be it that a UserError says so."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    return (error and error.name) or ""


def main(packages: list[str]) -> None:
    os.environ["PATH"] = ""
    sys.path.insert(0, str(ROOT))
    import accelerate  # noqa: F401
    import timm  # noqa: F401  both with torch and torchvision, which only our own modules are to miss

    hide(packages)
    print(json.dumps({"failed": failures(), "wrong": wrong_answers(packages)}))


if __name__ == "__main__":
    main(sys.argv[1].split(","))
