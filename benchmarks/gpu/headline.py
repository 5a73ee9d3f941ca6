"""The headline: images/s of `pretrain` from shards to weights, beside the released loop (benchmarks/headline.py)."""

from functools import partial
from typing import Any

from benchmarks.gpu import items
from benchmarks.gpu.report import Job, figure

BATCHES = (256, 64)


def compare(rehearse: bool, batch: int) -> dict[str, Any]:
    from benchmarks.headline import measure  # needs pyarrow

    sides = measure(("cpu", "dali"), batch, rehearse)
    return {
        "figures": {
            side if name == "images/s" else f"{side}: {name}": figure(value, name if name == "images/s" else "")
            for side, (row,) in sides.items()
            for name, value in row.items()
        }
    }


def run(job: Job) -> bool:
    """Measure with both batches; return whether all that could be measured was."""
    batches = BATCHES[: 1 if job.rehearse else None]
    return items.run(job, {f"batch {batch}": partial(compare, job.rehearse, batch) for batch in batches}, 0.7)
