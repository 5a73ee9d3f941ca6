"""On a machine with a CUDA GPU: what is not known of its speed, in one call; by name what is known, and the tests.

    python -m dira_scale.bench gpu [--out DIR] [--seconds 590] [--rehearse]
    python -m dira_scale.bench gpu --parts tests --tests tests/train/models/test_norm_act.py      by name

Everything ends within --seconds. Each part is a separate process, ended with all processes that it started; what there
was no time for is named. In this order: `headline` (images/s of pretrain, beside the released loop), `loaders` (a step
fed by each), `mended` (what changed since it was measured, and its host), `graph` (steps as CUDA graphs: equal, ms,
GiB), `profile` (which kernels take a step's time), `compile` (transformers' blocks), `transformers` (DINOv2, DINO and
MAE of volumes), `alone` (D, norms, a block), `sharded` (FSDP2 and ZeRO-3 of one process). By name: `ladder` (DiRA on
MoCo, one change at a time), `known` (more of it), `volumes`, `basics` (a product, layers of volumes), `steady` (waits
of every recipe, views distorted as on a CPU, two runs alike), `nccl` (collectives in a group of one), `evaluation`
(fine-tuning, sliding windows, embeddings), `segmentation` (ours and nnU-Net for equal minutes: all of --seconds),
`tests` (those marked gpu, or of --tests).
DIR (by default $OUT, or out/gpu where that is not set) gets gpu.json, which is updated with every figure; gpu.txt, a
table of all, each beside what the planner expects on a CPU and beside the last one; and logs.tar.gz. --rehearse runs
everything at tiny sizes, on a CPU too; its figures are meaningless. `python3 setup/gpu.py check` calls this on a plain
checkout without network.
"""

import argparse
import datetime
import gc
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import bounded, expected
from benchmarks.gpu.basics import machine
from benchmarks.gpu.report import EXPECTED, Job, Report
from benchmarks.gpu.table import code, text
from dira_scale.base.errors import UserError
from dira_scale.base.machine.hardware import CPUS_PER_TASK
from dira_scale.base.storage.atomic import write_atomic, write_json

HOME = Path(__file__).parents[2]  # the folder of benchmarks/
# Seconds of a part, of which it has as much as its share of those that are to come; the last has all that is left.
SECONDS = {
    "headline": 110, "loaders": 60, "mended": 60, "graph": 85, "profile": 70, "compile": 90, "transformers": 50,
    "alone": 35, "sharded": 30,
}  # fmt: skip
SECOND_CALL = {
    "ladder": 60, "known": 90, "volumes": 60, "basics": 40, "steady": 110, "nccl": 15, "evaluation": 50,
    "segmentation": 590, "tests": 330,
}  # fmt: skip
PARTS = (*SECONDS, *SECOND_CALL)
MODULES = {
    **dict.fromkeys(("ladder", "transformers", "sharded", "mended", "known", "volumes"), "steps"),
    "profile": "traces", "compile": "compiling", "tests": "checks",
}  # fmt: skip
EXPECTING = "expected"  # goes on beside all others
ENDING = 5.0  # seconds a part has to write down what it did before it is stopped


def require(rehearse: bool) -> None:
    """Raise UserError where there is no GPU to measure."""
    if not (rehearse or torch.cuda.is_available()):
        cause = "this torch is a CPU build" if torch.version.cuda is None else "torch sees none (nvidia-smi?)"
        raise UserError(f"gpu: no CUDA GPU here, {cause}; --rehearse runs all of it at tiny sizes without one")


def run(command: Sequence[str], job: Job) -> tuple[bool, str]:
    """Whether a part, run by ``command``, came to a good end in time, and how it ended.

    One that lost its process or the device goes on in another with the item after that.
    """
    if job.part == "tests" and not (HOME / "tests").is_dir():
        return True, "there are none beside an installed package; they are in the checkout"
    if job.part == "tests" and importlib.util.find_spec("pytest") is None:
        return False, "pytest is not there; python3 setup/gpu.py wheels brings it"
    end, code, ahead, log = time.perf_counter() + job.seconds, 0, -1, job.logs / job.part
    while True:
        left = max(1.0, end - time.perf_counter())
        words = [*command, "--alone", job.part, "--seconds", f"{left - ENDING}", "--logs", str(job.logs)]
        words += ["--tests", *map(str, job.tests)] if job.tests else []
        shown = ["bash", "-o", "pipefail", "-c", f'"$@" 2>&1 | tee -a "{log}.log"', job.part, *words]
        ended = bounded.run(shown, left, env=environment(job.rehearse), start_new_session=True)
        if ended is None:
            return False, "stopped, its time was up"
        code = code or ended
        state: dict[str, Any] = job.report.read().get(job.part, {})
        waiting = len(state["not_run"]) if state.get("lost") else 0
        if waiting in (0, ahead):
            return not code, f"exit code {code}: {last_line(Path(f'{log}.log'))}" if code else "done"
        ahead = waiting


def environment(rehearse: bool) -> dict[str, str]:
    """That a part runs in."""
    result = os.environ | {"PYTHONPATH": os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")])}
    result |= {CPUS_PER_TASK: "1"} if rehearse else {}  # tiny steps want one core
    result.setdefault("GLOO_SOCKET_IFNAME", "lo")  # gloo looks a host's name up, which a sandbox may not know
    return result


def last_line(log: Path) -> str:
    """The last line that a part printed."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "nothing was printed")


def expecting(command: Sequence[str], chosen: Sequence[str], logs: Path, rehearse: bool) -> subprocess.Popen[bytes]:
    """A process that computes what is expected: on a core, without the GPU, behind those that measure (if they do)."""
    words = [*command, "--alone", EXPECTING, "--parts", *chosen, "--seconds", "0", "--logs", str(logs)]
    with (logs / f"{EXPECTING}.log").open("wb") as log:
        return subprocess.Popen(
            words if rehearse else ["nice", "-n", "19", *words],  # a rehearsal times nothing
            env=environment(rehearse) | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def pack(logs: Path, out: Path) -> None:
    """All logs so far in one file."""
    temporary = out / ".logs.tmp"
    with tarfile.open(temporary, "w:gz") as tar:
        tar.add(logs, "logs")
    temporary.replace(out / "logs.tar.gz")


def begin(report: Report, chosen: Sequence[str], rehearse: bool) -> None:
    """Drop what another time has measured of these parts; figures of other parts stay, but for a rehearsal's."""
    before = report.read()
    if before.get("rehearsal") != rehearse:
        before = {}
    ended = {part: how for part, how in before.get("parts", {}).items() if part not in chosen}
    kept = {name: value for name, value in before.items() if name not in (*chosen, "environment", "device")}
    about = {"rehearsal": rehearse, "parts": ended, "expectation": f"by the planner, of {expected.machine()}"}
    about |= {"date": f"{datetime.date.today():%d %B %Y}", "code": code()}
    write_json(report.file, kept | about)


def write(report: Report, logs: Path) -> None:
    """Everything so far, with what is expected so far."""
    known, before = report.file.with_name(EXPECTED), report.read().get("expected", {})
    report.add(expected=before | (json.loads(known.read_text()) if known.exists() else {}))
    write_atomic(report.file.with_name("gpu.txt"), text(report.read()))
    pack(logs, report.file.parent)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="dira_scale.bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "out/gpu"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(SECONDS))
    parser.add_argument("--seconds", type=float, default=590, help="of everything, at most")
    parser.add_argument("--tests", nargs="+", type=Path, default=(), help="files or folders of the part `tests`")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks, no GPU needed")
    # In this process, by the other one.
    parser.add_argument("--alone", choices=(*PARTS, EXPECTING), help=argparse.SUPPRESS)
    parser.add_argument("--logs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    require(args.rehearse)
    for path in args.tests:
        if not (HOME / path).exists():
            raise UserError(f"--tests {path}: there is no such file or folder in {HOME}")
    began, out = time.perf_counter(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out)
    if args.alone:
        module = importlib.import_module(f"benchmarks.gpu.{MODULES.get(args.alone, args.alone)}")
        gc.freeze()  # what is imported is looked through no more, half a second an item
        if args.alone != EXPECTING and "environment" not in report.read():
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
            report.add(environment=machine(), device=device)
        job = Job(report, args.seconds, args.rehearse, args.logs, args.alone, (*args.tests,), (*args.parts,))
        return 0 if module.run(job) else 1
    (out / EXPECTED).unlink(missing_ok=True)  # of another time
    fine, chosen, seconds_of = True, tuple(part for part in PARTS if part in args.parts), SECONDS | SECOND_CALL
    waiting = list(chosen)
    begin(report, chosen, args.rehearse)
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), *(["--rehearse"] if args.rehearse else [])]
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder, "logs")
        logs.mkdir()
        beside = expecting(command, chosen, logs, args.rehearse)
        try:
            while waiting:
                start, part = time.perf_counter(), waiting[0]
                seconds = (
                    (args.seconds - (start - began)) * seconds_of[part] / sum(map(seconds_of.__getitem__, waiting))
                )
                print(f"== {waiting.pop(0)}", flush=True)
                job = Job(report, seconds, args.rehearse, logs, part, (*args.tests,))
                well, why = run(command, job) if seconds >= 2 * ENDING else (False, "left out, the time was up")
                fine &= well
                taken = {"fine": well, "why": why, "seconds": time.perf_counter() - start}
                report.add(parts=report.read()["parts"] | {part: taken})
                write(report, logs)
            left = args.seconds - (time.perf_counter() - began)
            if left > 0:
                beside.wait(left)
        except subprocess.TimeoutExpired:
            print(f"{EXPECTING}: not done", flush=True)
        finally:
            if beside.poll() is None:
                bounded.end(beside.pid)
            beside.wait()
        write(report, logs)
    (out / EXPECTED).unlink(missing_ok=True)
    print(text(report.read(), tables=False), end="")
    return 0 if fine else 1
