"""On a machine with a CUDA GPU: the tests that need one, and the ladder of speeds from the authors' loop to ours.

    python -m dira_scale.bench gpu [--out out/gpu] [--parts tests ladder] [--seconds 450] [-- FLAGS OF THE LADDER]

Each part is a process that ends within --seconds, whatever it is doing; what it had not come to is named. OUT holds
tests.json with the tests' logs, ladder.json, and all that was printed in gpu.txt. --rehearse runs the ladder with tiny
networks, on a CPU too: all that the real one does, at figures that say nothing. `make gpu-check` calls this on a plain
checkout without network. What the ladder's flags are: python -m benchmarks.gpu.ladder --help.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu import bounded, ladder
from dira_scale.errors import UserError
from dira_scale.files import write_atomic

HOME = Path(__file__).parents[2]  # the folder of benchmarks/
OPTIONAL = {"nvidia-dali-cuda130": "DALI", "ffcv": "FFCV", "deepspeed": "DeepSpeed"}
ENDING = 20.0  # seconds a part has to write down what it did before it is stopped


def require(rehearse: bool) -> None:
    """Raise UserError where there is no GPU to measure."""
    if not (rehearse or torch.cuda.is_available()):
        cause = "this torch is a CPU build" if torch.version.cuda is None else "torch sees none (nvidia-smi?)"
        raise UserError(f"gpu: no CUDA GPU here, {cause}; --rehearse runs the ladder at tiny sizes without one")


def about() -> str:
    """The machine and what of the optional packages it has, in a line each."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    lines = [f"GPU: {gpu}; torch {torch.__version__}; Python {sys.version.split()[0]}"]
    for package, name in OPTIONAL.items():
        try:
            lines.append(f"{name}: {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{name}: not there; what needs it is left out")
    return "\n".join(lines)


def run(command: Sequence[str], seconds: float, log: Path) -> int:
    """Run a part with its output here and in ``log``, and end it with all its processes after ``seconds``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")])}
    shown = ["bash", "-o", "pipefail", "-c", f'"$@" 2>&1 | tee -a "{log}"', "part", *command]
    code = bounded.run(shown, seconds, env=environment, start_new_session=True)
    if code is None:
        print(f"stopped after {seconds:.0f} s", flush=True)
    return 1 if code is None else code


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="dira_scale.bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--parts", nargs="+", choices=("tests", "ladder"), default=("tests", "ladder"))
    parser.add_argument("--seconds", type=float, default=450, help="of each part, at most")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks, no GPU needed")
    asked, rest = parser.parse_known_args(argv)
    require(asked.rehearse)
    rest = [word for word in rest if word != "--"]
    asked.out.mkdir(parents=True, exist_ok=True)
    log = (asked.out / "gpu.txt").resolve()
    write_atomic(log, about() + "\n")
    print(about(), flush=True)
    codes = []
    if "tests" in asked.parts:
        codes.append(tests(asked.out, asked.seconds, log))
    if "ladder" in asked.parts:
        flags = [*(["--rehearse"] if asked.rehearse else []), "--seconds", f"{asked.seconds - ENDING}", *rest]
        codes.append(run([sys.executable, "-m", "benchmarks.gpu.ladder", str(asked.out), *flags], asked.seconds, log))
        report = asked.out / "ladder.json"
        if report.exists():
            write_atomic(asked.out / "ladder.txt", ladder.text(json.loads(report.read_text())))
    return max(codes)


def tests(out: Path, seconds: float, log: Path) -> int:
    """The part ``tests``, where there are tests and something to run them with."""
    if not (HOME / "tests").is_dir():
        print("tests: there are none beside an installed package; they are in the checkout")
        return 0
    if importlib.util.find_spec("pytest") is None:
        raise UserError("gpu: pytest is not there; make gpu-wheels brings it, --parts ladder does without")
    command = [sys.executable, "-m", "benchmarks.gpu.checks", str(out / "tests"), "--seconds", f"{seconds - ENDING}"]
    return run(command, seconds, log)


if __name__ == "__main__":
    code = main()
    if code:
        sys.exit(code)
