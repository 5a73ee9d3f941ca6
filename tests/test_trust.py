"""No file of a stranger's decides which code is imported: runs, exports and weights name classes, and none is imported
that is not this package's, unless its module was trusted or the class was typed."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from toy_run import train, write

from dira_scale import embed, evaluate, export, finetune, localize, predict, probe, report, words
from dira_scale.archive.recipe import Recipe
from dira_scale.base.config import trust
from dira_scale.base.config.compose import compose
from dira_scale.base.config.registry import imported
from dira_scale.base.errors import UserError
from dira_scale.finetune.description import task_of
from dira_scale.train.methods.build import method_class
from dira_scale.train.models.architecture import ARCHITECTURE, architecture
from dira_scale.train.runs.description import FILE, read_description

EVIL = "evil.Boom"


@pytest.fixture(autouse=True)
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the working directory; the file that importing it leaves."""
    (tmp_path / "evil.py").write_text("open('ran', 'w')\nclass Boom: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "_TRUSTED", {*trust._TRUSTED})
    yield tmp_path / "ran"
    sys.modules.pop("evil", None)


def of_a_stranger(run: Path) -> Path:
    """A run whose network is ``evil.Boom``, by its configuration and its description."""
    train(run, seed=0)
    (run / FILE).write_text(read_description(run).to_json().replace("TimmUNet", EVIL))
    config = OmegaConf.load(run / "config.yaml")
    config.model._target_ = config.method._target_ = EVIL
    config.task = {"_target_": EVIL}
    OmegaConf.save(config, run / "config.yaml")
    return run


COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "export": (export.main, ["run=run"]),
    "embed": (embed.main, ["run=run", "data.shards=toy", "out=rows"]),
    "probe": (probe.main, ["run=run", "data.shards=toy"]),
    "finetune": (finetune.main, ["task=labels", "init=run", "data.shards=toy", "run=tuned"]),
    "predict": (predict.main, ["run=run", "data.shards=toy", "out=predicted"]),
    "evaluate": (evaluate.main, ["run=run", "data.shards=toy", "out=judged"]),
    "localize": (localize.main, ["run=run", "data.shards=toy", "out=boxes"]),
    "words": (words.main, ["run=run", "data.shards=toy", "out=cubes"]),
    "report": (report.main, ["run=run"]),
}


def test_no_command_imports_what_only_a_run_names(
    tmp_path: Path, evil: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_a_stranger(tmp_path / "run")
    write(tmp_path / "toy")
    for command, (main, arguments) in COMMANDS.items():
        code = main(arguments)
        assert not evil.exists() and "evil" not in sys.modules, command
        printed = capsys.readouterr().err
        if command != "report":  # which shows a run, and builds nothing
            lines = [line for line in printed.splitlines() if "weights of run at step 5" not in line]
            assert code == 2 and len(lines) == 1, command
            refused_before = command in ("predict", "evaluate", "localize", "words")
            assert refused_before or "trust=evil" in printed, command


def test_nor_what_only_weights_name(evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "toy")
    metadata = {ARCHITECTURE: json.dumps({"_target_": EVIL})}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    assert finetune.main(["task=labels", "init=a.safetensors", "data.shards=toy", "run=tuned"]) == 2
    assert "evil.Boom is code of others" in capsys.readouterr().err and not evil.exists()


def test_nor_tasks_methods_and_recipes(evil: Path) -> None:
    recipe = Recipe.from_config(
        OmegaConf.to_container(compose("shard", ["recipe=folder", "recipe.images=x", "out=y"]).recipe)
    )  # type: ignore[arg-type]
    recipe.source["_target_"] = EVIL  # type: ignore[index]
    for make in (lambda: architecture({"_target_": EVIL}), lambda: task_of({"_target_": EVIL}), recipe.make_source):
        with pytest.raises(UserError, match="if you trust it, add trust=evil"):
            make()
    assert method_class({"_target_": EVIL}).__name__ == "Method"  # which only describes it
    assert not evil.exists()


def test_what_was_trusted_or_typed_is_imported(evil: Path) -> None:
    compose("pretrain", ["experiment=small", "data.shards=any", "trust=[other]"])
    with pytest.raises(UserError, match="code of others"):
        architecture({"_target_": EVIL})
    compose("export", ["run=any", "trust=[evil]"])
    with pytest.raises(UserError, match=r"evil.Boom is not a dira_scale.train.models.architecture.Architecture"):
        architecture({"_target_": EVIL})
    assert evil.exists()


def test_what_was_typed_is_imported(evil: Path) -> None:
    with pytest.raises(UserError, match=r"evil.Boom is not a"):
        compose("pretrain", ["experiment=small", "data.shards=any", f"model._target_={EVIL}"])
    assert evil.exists()


@pytest.mark.parametrize("named", ["torch.utils.model_dump.__main__.main", "torch.hub.load", "timm.create_model"])
def test_of_other_packages_only_optimizers_are_trusted(named: str) -> None:
    for name in ("torch.utils.model_dump.__main__", "torch.utils.model_dump"):
        sys.modules.pop(name, None)
    with pytest.raises(UserError, match=r"is code of others|is in a program"):
        architecture({"_target_": named})
    assert "torch.utils.model_dump" not in sys.modules
    assert imported("optim.optimizer._target_", "torch.optim.AdamW") is torch.optim.AdamW


def test_a_program_is_never_imported_and_one_that_exits_ends_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit(0)")
    trust.trust(["evil", "torch"])
    with pytest.raises(UserError, match="is in a program, which importing would run"):
        imported("model._target_", "torch.utils.model_dump.__main__.main")
    with pytest.raises(UserError, match=r"evil.Boom cannot be imported"):
        imported("model._target_", EVIL)
