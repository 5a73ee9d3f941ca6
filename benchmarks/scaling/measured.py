"""Measured: steps of pretraining by several processes of this machine, as one job and separately; gloo's links."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.backends import keys_of
from benchmarks.scaling.processes import BYTES, alone, run, torchrun
from dira_scale.forecast.links import Links

IMAGES = 16  # of a process
WARM = 3  # steps not counted
STAGE = "dira"


@dataclass(frozen=True)
class Measured:
    """Seconds of a step of ``processes`` fed by ``loader``: as one job, and as so many jobs beside each other."""

    processes: int
    loader: str
    together: float
    apart: float
    jitter: float  # of the runs apart, as a share of their step

    @property
    def efficiency(self) -> float:
        """1 where being one job costs nothing."""
        return self.apart / self.together


def keys(processes: int) -> list[str]:
    """Of the measured run: every process has one BatchNorm group of IMAGES images."""
    batch = [f"data.batch={IMAGES * processes}", f"model.bn_groups={processes}", "data.remainder=wrap"]
    stages = ["stages.di.epochs=0", "stages.dir.epochs=0", f"stages.{STAGE}.epochs=10000"]
    once = ["parallel.threads=1", "data.workers=1", "data.val_split=null", "checkpoint.every=100000", "log_every=1"]
    return ["experiment=small", "precision=fp32", *batch, *stages, *once]


def measure(processes: int, loader: str, steps: int, shards: Path, out: Path) -> Measured:
    """``steps`` of ``processes`` as one job, then of as many jobs beside each other."""
    rest = [f"data.shards={shards}", f"steps={steps}", *keys_of(loader, out)]
    runs = out / "runs" / loader
    together = [f"run={runs}/together{processes}", *keys(processes), *rest]
    run([torchrun(processes, "pretrain", *together)], out, processes)
    mine = [runs / f"apart{processes}.{i}" for i in range(processes)]
    run([alone("pretrain", f"run={folder}", *keys(1), *rest) for folder in mine], out, processes)
    apart = [times(folder) for folder in mine]
    return Measured(
        processes,
        loader,
        together=statistics.median(times(runs / f"together{processes}")),
        apart=statistics.fmean(map(statistics.median, apart)),
        jitter=statistics.fmean(map(deviation, apart)),
    )


def times(folder: Path) -> list[float]:
    """Seconds of each step of a run that is not warming up."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["time/step"] + row.get("time/data", 0.0) for row in rows if row["split"] == "train"][WARM:]


def deviation(values: Sequence[float]) -> float:
    """Standard deviation as a share of the median, by the median of absolute deviations: few steps, some disturbed."""
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - middle) for value in values) / middle


def gloo(processes: int, out: Path) -> Links:
    """This machine as a cluster of one node, from two sizes of all-reduce."""
    file = out / f"link{processes}.json"
    run([torchrun(processes, "link", str(file))], out, processes)
    small, large = json.loads(file.read_text())
    latency = small / (2 * (processes - 1))
    sent = 2 * (processes - 1) / processes * (BYTES[1] - BYTES[0])
    speed = sent / max(large - small, 1e-9)
    return Links(processes, speed, speed, latency, latency)
