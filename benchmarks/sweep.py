"""Seconds that a sweep's controlling process takes before, while and after its runs do, for 10 to 1,000 runs.

    python -m dira_scale.bench sweep [--runs 10 100 1000] [--json FILE]

The sweeps are made up: half of the runs are done, half are running, each with two tries, a lease and metrics; or all
are done (finished: their status with what they used, for the first time and from then on). SLURM's commands are
programs that print a line for each running job, so this is what we add to SLURM's own time.

expand: the runs that a sweep file means (learning rates x 10 seeds). check: their configurations, on all cores. record:
one file for each. These three are before anything is submitted.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dira_scale.machine.console import Console
from dira_scale.runs.environment import environment
from dira_scale.storage.atomic import write_json
from dira_scale.sweep.check import check_runs
from dira_scale.sweep.config import Phase, Sweep
from dira_scale.sweep.expand import expand
from dira_scale.sweep.records import Run, Submission, SweepFolder, Try
from dira_scale.sweep.results import write_results
from dira_scale.sweep.table import show

RUNS = (10, 100, 1000)
ROWS = 500  # of a run's metrics
GOAL = 5.0  # seconds for the status of 1,000 runs
TURNS = 3
SEEDS = 10
PARTS = ("expand", "check", "record", "status", "finished", "again", "results")


def make(path: Path, runs: int, finished: bool = False) -> SweepFolder:
    """A made-up sweep in ``path``, and SLURM's commands in ``path/bin``."""
    folder, now = SweepFolder(path), time.time()
    names = [f"moco-seed{i}-{i:08x}" for i in range(runs)]
    row = {"stage": "di", "split": "train", "loss": 1.5, "loss/di": 1.0, "images_per_second": 500.0, "time/step": 0.1}
    metrics = "".join(json.dumps({"step": step} | row) + "\n" for step in range(ROWS))
    for i, name in enumerate(names):
        run = Run("pretrain", name, "pretrain", [f"seed={i}"], f"pretrain/{name}/output", [], {"pretrain.seed": i})
        _write(path / run.id / "run.json", asdict(run))
        for number, exit_code in enumerate((75, None if i % 2 and not finished else 0)):
            ended = None if exit_code is None else now
            attempt = Try(number, "slurm", f"12_{i}", 0, [f"n{i % 8}"], now - 900, ended, exit_code, 0, 10)
            _write(path / run.id / "tries" / f"{number:03d}.json", asdict(attempt))
        output = folder.output(run)
        _write(output / "leases" / "000002.json", {"number": 2})
        _write(output / "status.json", {"state": "running", "step": ROWS, "steps": 2 * ROWS, "lease": 2})
        (output / "metrics.jsonl").write_text(metrics)
        (output / "config.yaml").write_text("".join(f"key{k}: {{value: {k}, name: text}}\n" for k in range(60)))
    folder.submitted(Submission("slurm", "12", [f"pretrain/{name}" for name in names], now))
    (path / "bin").mkdir()
    lines = "".join(f"12_{i}|RUNNING|None|n{i % 8}\n" for i in range(1, runs, 4))
    lines += f"12_[{','.join(str(i) for i in range(3, runs, 4))}%64]|PENDING|JobArrayTaskLimit|\n"
    for name, text in (("squeue", lines), ("sacct", "")):
        (path / "bin" / f"{name}.txt").write_text(text)
        (path / "bin" / name).write_text(f"#!/bin/sh\ncat '{path}/bin/{name}.txt'\n")
        (path / "bin" / name).chmod(0o755)
    return folder


def prepare(runs: int) -> dict[str, float]:
    """Seconds of what is done before anything is submitted."""
    rates = [1e-4 * (i + 1) for i in range(-(-runs // SEEDS))]
    values = {"experiment": "small", "data.shards": "shards"}
    phase = Phase("pretrain", set=values, grid={"optim.optimizer.lr": rates}, seeds=min(SEEDS, runs))
    sweep = Sweep("made_up", {"pretrain": phase})
    with tempfile.TemporaryDirectory() as name:
        folder = SweepFolder(Path(name))
        began = time.perf_counter()
        expanded = expand(sweep, folder.path, {})
        after = time.perf_counter()
        check_runs(expanded)
        checked = time.perf_counter()
        for run in expanded:
            folder.add(run)
        return {"expand": after - began, "check": checked - after, "record": time.perf_counter() - checked}


def _write(path: Path, content: dict[str, Any]) -> None:
    """As records are, without waiting for the disk each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def measure(runs: int) -> dict[str, float]:
    """Seconds by what is done."""
    with tempfile.TemporaryDirectory() as name, patch.dict(os.environ):
        going, finished, before = Path(name, "going"), Path(name, "finished"), os.environ["PATH"]
        make(going, runs)
        make(finished, runs, finished=True)
        os.environ["PATH"] = f"{going / 'bin'}:{before}"

        def status(path: Path) -> float:
            return _seconds(lambda: show(SweepFolder(path), Console(file=io.StringIO(), width=160), None))

        return {
            "runs": runs,
            "status": statistics.median(status(going) for _ in range(TURNS)),
            "finished": status(finished),
            "again": status(finished),
            "results": statistics.median(_seconds(lambda: write_results(going)) for _ in range(TURNS)),
        }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="sweep", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=RUNS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"| runs | {' | '.join(f'{part}, s' for part in PARTS)} |\n|{'---|' * (1 + len(PARTS))}")
    result = []
    prepare(1)  # imports
    for runs in options.runs:
        result.append(row := prepare(runs) | measure(runs))
        print(f"| {runs:,} | {' | '.join(f'{row[part]:.2f}' for part in PARTS)} |", flush=True)
    largest = result[-1]
    met = "met" if max(largest["status"], largest["finished"]) * 1000 / max(1000, largest["runs"]) < GOAL else "missed"
    print(f"\ngoal: a status of 1,000 runs in under {GOAL:.0f} s: {met}")
    if options.json:
        write_json(options.json, {"environment": environment(), "sweeps": result})


if __name__ == "__main__":
    main()
