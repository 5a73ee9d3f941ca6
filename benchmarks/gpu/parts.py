"""On a machine with a CUDA GPU: its limits, whether a step never waits and repeats, its speed, the tests.

    python -m dira_scale.bench gpu [--out DIR] [--seconds 540] [--rehearse]

Everything ends within --seconds. Each part is a separate process, ended with all processes that it started; what there
was no time for is named. In this order: `basics` (the machine, a product, 3D convolutions), `steady` (waits, two runs
alike), `recipes` (a step of each, in 2D, 3D and fine-tuning, beside what is planned), `loaders` (a step fed by each),
`ladder` (rungs of speed, the one that compiles last), `tests` (marked gpu).
DIR (by default $OUT, or out/gpu where that is not set) gets three files: gpu.json, which is updated with every figure,
gpu.txt, the same as text, and logs.tar.gz. --rehearse runs everything at tiny sizes, on a CPU too; its figures are
meaningless. `python3 setup/gpu.py check` calls this on a plain checkout without network.
"""

import argparse
import importlib
import importlib.util
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import bounded
from benchmarks.gpu.ladder import BROKEN
from benchmarks.gpu.report import Job, Report, text
from dira_scale.errors import UserError
from dira_scale.storage.atomic import write_atomic

HOME = Path(__file__).parents[2]  # the folder of benchmarks/
# A part's share of the time at most; the last has all that the others leave.
SHARES = {"basics": 0.08, "steady": 0.2, "recipes": 0.22, "loaders": 0.11, "ladder": 0.36, "tests": 1.0}
ENDING = 5.0  # seconds a part has to write down what it did before it is stopped


def require(rehearse: bool) -> None:
    """Raise UserError where there is no GPU to measure."""
    if not (rehearse or torch.cuda.is_available()):
        cause = "this torch is a CPU build" if torch.version.cuda is None else "torch sees none (nvidia-smi?)"
        raise UserError(f"gpu: no CUDA GPU here, {cause}; --rehearse runs all of it at tiny sizes without one")


def _lost(report: Report) -> bool:
    """Whether the last rung took its process down, or the device: the others are for another process."""
    result: dict[str, Any] = report.read().get("ladder", {})
    return bool(result.get("not_run")) and (result["lost"] or result["rungs"][-1].get("failed") == BROKEN)


def run(command: Sequence[str], part: str, job: Job) -> tuple[bool, str]:
    """Whether a part, run by ``command``, came to a good end in time, and how it ended."""
    if part == "tests" and not (HOME / "tests").is_dir():
        return True, "there are none beside an installed package; they are in the checkout"
    if part == "tests" and importlib.util.find_spec("pytest") is None:
        return False, "pytest is not there; python3 setup/gpu.py wheels brings it"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")])}
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # gloo looks a host's name up, which a sandbox may not know
    end, codes = time.perf_counter() + job.seconds, list[int]()
    while not codes or (part == "ladder" and _lost(job.report)):
        left = max(1.0, end - time.perf_counter())
        words = [*command, "--alone", part, "--seconds", f"{left - ENDING}", "--logs", str(job.logs)]
        shown = ["bash", "-o", "pipefail", "-c", f'"$@" 2>&1 | tee -a "{job.logs / part}.log"', part, *words]
        code = bounded.run(shown, left, env=environment, start_new_session=True)
        if code is None:
            return False, "stopped, its time was up"
        codes.append(code)
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
    parser.add_argument("--alone", choices=tuple(SHARES), help=argparse.SUPPRESS)  # in this process, by the other one
    parser.add_argument("--logs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    require(args.rehearse)
    began, out = time.perf_counter(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out)
    if args.alone:
        module = importlib.import_module(f"benchmarks.gpu.{'checks' if args.alone == 'tests' else args.alone}")
        return 0 if module.run(Job(report, args.seconds, args.rehearse, args.logs)) else 1
    report.file.unlink(missing_ok=True)  # of another time
    report.add(rehearsal=args.rehearse, parts={})
    fine = True
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), *(["--rehearse"] if args.rehearse else [])]
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder, "logs")
        logs.mkdir()
        for part in (part for part in SHARES if part in args.parts):
            start = time.perf_counter()
            left = args.seconds - (start - began)
            print(f"== {part}", flush=True)
            seconds = min(left, SHARES[part] / max(SHARES[item] for item in args.parts) * args.seconds)
            well, why = (
                run(command, part, Job(report, seconds, args.rehearse, logs))
                if seconds >= 2 * ENDING
                else (False, "left out, the time was up")
            )
            fine &= well
            taken = {"fine": well, "why": why, "seconds": time.perf_counter() - start}
            report.add(parts=report.read()["parts"] | {part: taken})
            write_atomic(out / "gpu.txt", text(report.read()))
            pack(logs, out)
    print((out / "gpu.txt").read_text(), end="")
    return 0 if fine else 1
