"""A made-up sweep: one shard run, and pretraining runs that need it; SLURM's commands as programs that say what a test
wants and count their calls."""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dira_scale.base.storage.atomic import write_json
from dira_scale.base.storage.owned import MARK
from dira_scale.sweep.records import Run, SweepFolder, Try

SHARDS = "shards/tiny"
Tools = Callable[..., Path]  # puts stand-ins of sbatch and srun on the path (conftest.py)


def made_up_sweep(path: Path, runs: int) -> SweepFolder:
    """Nothing has begun yet; the shard run is job 5, the pretraining runs are the tasks of array 6."""
    mark(path)
    folder = SweepFolder(path)
    folder.add(Run("shards", "tiny", "shard", ["recipe=phantom_cxr"], f"{SHARDS}/output"))
    ids = []
    for i in range(runs):
        varied = {"pretrain.optim.lr": [0.1, 0.01][i % 2], "pretrain.seed": i // 2}
        name = f"lr{varied['pretrain.optim.lr']}-seed{i // 2}"
        words = [f"optim.lr={varied['pretrain.optim.lr']}", f"seed={i // 2}"]
        run = Run("pretrain", name, "pretrain", words, f"pretrain/{name}/output", [SHARDS], varied)
        folder.add(run)
        ids.append(run.id)
    folder.submitted({SHARDS: "5_0"})
    folder.submitted({run_id: f"6_{task}" for task, run_id in enumerate(ids)})
    return SweepFolder(path)


def mark(path: Path) -> None:
    """Mark the folder as the command does that starts a sweep."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / MARK, {"made_by": "dira_scale", "kind": "a sweep"})


def begin(
    folder: SweepFolder,
    run_id: str,
    job: str,
    node: str = "n1",
    seconds: float = 1000,
    cluster: str = "slurm",
    **ended: object,
) -> Try:
    """A try that began ``seconds`` ago; with ``ended``, how it ended."""
    mark(folder.path)
    item = folder.begin(run_id, Try(0, cluster, job, 0, [node], time.time() - seconds, step_before=0))
    if ended:
        item = replace(item, ended=time.time() - 1, **ended)  # type: ignore[arg-type]
        folder.write(run_id, item)
    return item


def train(folder: SweepFolder, run_id: str, step: int, silent: float = 0) -> None:
    """Write what a run of 100 steps has written at ``step``, with a lease whose beat is ``silent`` seconds old."""
    output = folder.output(folder.run(run_id))
    (output / "leases").mkdir(parents=True, exist_ok=True)
    lease = output / "leases" / "000001.json"
    lease.write_text("{}")
    os.utime(lease, (time.time() - silent,) * 2)
    status = {"state": "running", "step": step, "steps": 100, "exit_code": None, "lease": 1}
    (output / "status.json").write_text(json.dumps(status))
    common = {"stage": "di", "lease": 1, "epoch": 0.1}
    rows = [
        {"step": done, "split": split, "loss": loss / done, "images_per_second": 80.0} | common
        for done in range(1, step + 1) for split, loss in (("train", 10), ("val", 99))[: 1 + (done % 10 == 0)]
    ]  # fmt: skip
    (output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half a ro')
    (output / "config.yaml").write_text("optim: {lr: 0.1}\nseed: 0\n")


class Slurm:
    """SLURM's commands as files in ``bin``, first on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin, self.calls_file = folder / "bin", folder / "calls"
        self.bin.mkdir()
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")
        for name in ("squeue", "sacct", "usage", "scancel"):
            self.says(name)

    def says(self, name: str, jobs: Mapping[str, str] | None = None, error: str = "") -> None:
        """From now on command ``name`` prints a line ``ID|REST`` for each of ``jobs``, or fails with ``error``.

        ``usage``: sacct where it is called for the time and resources of jobs.
        """
        columns = "||" if name == "sacct" else ""  # those that a test leaves out
        lines = "".join(f"{job}|{rest}{columns}\n" for job, rest in (jobs or {}).items())
        header = "JobID|State|ExitCode|NodeList\n" if name == "sacct" else ""
        (self.bin / f"{name}.txt").write_text(header + lines)
        end = f"echo '{error}' >&2; exit 1" if error else f"cat '{self.bin / name}.txt'"
        usage = f'case "$*" in *ElapsedRaw*) . {self.bin}/usage; exit;; esac\n' if name == "sacct" else ""
        first = f"#!/bin/sh\necho {name} \"$@\" >> '{self.calls_file}'\n" if name != "usage" else ""
        (self.bin / name).write_text(f"{first}{usage}{end}\n")
        (self.bin / name).chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """Every call so far, as a line."""
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []


def options(text: str) -> dict[str, str]:
    """The options in a script for sbatch."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
