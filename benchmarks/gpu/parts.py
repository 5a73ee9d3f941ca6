"""On a machine with a CUDA GPU: its limits, whether a step is correct and never waits, its speed, the tests.

    python -m dira_scale.bench gpu [--out DIR] [--seconds 540] [--rehearse]

Everything ends within --seconds. Each part is a separate process, ended with all processes that it started; what there
was no time for is named. In this order: `basics` (the machine, copies, a product, launches, decoding, 3D convolutions),
`steady` (distortion as on the CPU, waits, two runs alike), `ladder` (rungs of speed), `loaders` (a step fed by each,
and the authors' code as a whole), `compile` (the rung that compiles), `tests` (marked gpu).
DIR (by default $OUT, or out/gpu where that is not set) gets three files: gpu.json, which is updated with every figure,
gpu.txt, the same as text, and logs.tar.gz. --rehearse runs everything at tiny sizes, on a CPU too, by a Python that has
no more packages than GPU containers have and what is carried there (benchmarks/gpu/machine.py); its figures are
meaningless. `python3 setup/gpu.py check` calls this on a plain checkout without network.
"""

import argparse
import importlib.util
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import bounded, page
from benchmarks.gpu.ladder import BROKEN
from benchmarks.gpu.machine import pretended
from benchmarks.gpu.report import Report
from benchmarks.gpu.rungs import COMPILED, rungs
from dira_scale.errors import UserError
from dira_scale.storage.atomic import write_atomic

HOME = Path(__file__).parents[2]  # the folder of benchmarks/
# A part's share of the time at most; the last has all that the others leave.
SHARES = {"basics": 0.1, "steady": 0.2, "ladder": 0.45, "loaders": 0.18, "compile": 0.4, "tests": 1.0}
MODULES = {"compile": "ladder", "tests": "checks"}
ENDING = 5.0  # seconds a part has to write down what it did before it is stopped


def require(rehearse: bool) -> None:
    """Raise UserError where there is no GPU to measure."""
    if not (rehearse or torch.cuda.is_available()):
        cause = "this torch is a CPU build" if torch.version.cuda is None else "torch sees none (nvidia-smi?)"
        raise UserError(f"gpu: no CUDA GPU here, {cause}; --rehearse runs all of it at tiny sizes without one")


def commands(
    python: Path, part: str, out: Path, logs: Path, rehearse: bool, seconds: float, report: Report
) -> Iterator[list[str]]:
    """What a part runs; ladders go on in another process where one has lost the device."""
    module = [str(python), "-m", f"benchmarks.gpu.{MODULES.get(part, part)}", str(out)]
    tiny = ["--rehearse"] if rehearse else []
    match part:
        case "tests":
            yield [*module, str(logs), "--seconds", f"{seconds}"]
        case "ladder" | "compile":
            chosen = [rung.title for rung in rungs() if (rung.name == COMPILED) == (part == "compile")]
            end, first = time.perf_counter() + seconds, True
            while (now := _not_run(report, part, chosen)) and (first or _lost(report, part)):
                first = False
                yield [*module, "--name", part, "--seconds", f"{end - time.perf_counter()}", *tiny, "--rungs", *now]
        case _:
            yield [*module, *tiny]


def _lost(report: Report, part: str) -> bool:
    """Whether the last rung took its process down, or the device: the others are for another process."""
    result: dict[str, Any] = report.read().get(part, {})
    return bool(result) and (result["lost"] or result["rungs"][-1].get("failed") == BROKEN)


def _not_run(report: Report, part: str, chosen: list[str]) -> list[str]:
    titles: list[str] = report.read().get(part, {}).get("not_run", chosen)
    return titles


def run(python: Path, part: str, out: Path, logs: Path, rehearse: bool, seconds: float) -> tuple[bool, str]:
    """Whether a part, run by ``python``, came to a good end within ``seconds``, and how it ended."""
    if part == "tests" and not (HOME / "tests").is_dir():
        return True, "there are none beside an installed package; they are in the checkout"
    if part == "tests" and importlib.util.find_spec("pytest") is None:
        return False, "pytest is not there; python3 setup/gpu.py wheels brings it"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")])}
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # gloo looks a host's name up, which a sandbox may not know
    end, codes = time.perf_counter() + seconds, []
    for command in commands(python, part, out, logs, rehearse, seconds - ENDING, Report(out)):
        shown = ["bash", "-o", "pipefail", "-c", f'"$@" 2>&1 | tee -a "{logs / part}.log"', part, *command]
        left = end - time.perf_counter()
        codes.append(bounded.run(shown, max(1.0, left), env=environment, start_new_session=True))
        if codes[-1] is None:
            return False, "stopped, its time was up"
    return not any(codes), "done" if not any(codes) else f"exit code {next(filter(None, codes))}"


def pack(logs: Path, out: Path) -> None:
    """All logs so far in one file."""
    temporary = out / ".logs.tmp"
    with tarfile.open(temporary, "w:gz") as tar:
        tar.add(logs, "logs")
    temporary.replace(out / "logs.tar.gz")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="dira_scale.bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "out/gpu"))
    parser.add_argument("--parts", nargs="+", choices=tuple(SHARES), default=tuple(SHARES))
    parser.add_argument("--seconds", type=float, default=540, help="of everything, at most")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks, no GPU needed")
    asked = parser.parse_args(argv)
    require(asked.rehearse)
    began, out = time.perf_counter(), asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out)
    report.file.unlink(missing_ok=True)  # of another time
    report.add(rehearsal=asked.rehearse, parts={})
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        python = pretended(Path(folder, "python")) if asked.rehearse else Path(sys.executable)
        logs = Path(folder, "logs")
        logs.mkdir()
        for part in (part for part in SHARES if part in asked.parts):
            start = time.perf_counter()
            left = asked.seconds - (start - began)
            print(f"== {part}", flush=True)
            seconds = min(left, SHARES[part] / max(SHARES[item] for item in asked.parts) * asked.seconds)
            well, why = (
                run(python, part, out, logs, asked.rehearse, seconds)
                if seconds >= 2 * ENDING
                else (False, "left out, the time was up")
            )
            fine &= well
            taken = {"fine": well, "why": why, "seconds": time.perf_counter() - start}
            report.add(parts=report.read()["parts"] | {part: taken})
            write_atomic(out / "gpu.txt", page.text(report.read()))
            pack(logs, out)
    print((out / "gpu.txt").read_text(), end="")
    return 0 if fine else 1
