"""What feeds a step on the GPU: images/s of training from shards by each loader.

`cpu`: decoding threads in the training process (data.helper=false), whose Python also launches the step. `helper`: in a
process of their own, which fills pinned slots of shared memory. `dali`: decoded on the GPU, where DALI is installed.
The network and settings of the ladder's first rung, at the paper's batch per GPU, whose steps are short; the images
are phantoms of 1024 pixels, stored in shards as JPEG of 512. How it is measured, and what the columns say:
benchmarks/end_to_end.py.
"""

import contextlib
import io
import tempfile
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import absent
from benchmarks.gpu.report import Job
from benchmarks.gpu.rungs import BEST, NETWORKS, TINY

NETWORK, COMPARED = "MoCo ResNet-50", ("cpu", "helper", "dali")
TINY_KEYS = *TINY[NETWORK], "data.workers=1", "data.prefetch=1", "data.batch=8", "data.size=32"
KEYS = "model.bn_groups=1", *NETWORKS[NETWORK], *BEST


def compare(rehearse: bool) -> dict[str, Any]:
    """The figures of ``end_to_end``; ``left_out``: the package without which there are no shards."""
    try:
        from benchmarks.backends import make_shards
        from benchmarks.end_to_end import CORES, measure

        with tempfile.TemporaryDirectory() as name:
            with contextlib.redirect_stdout(io.StringIO()):
                shards = make_shards(Path(name), *((2, 128, 64, 1) if rehearse else (32, 1024, 512, CORES)))
            if rehearse:
                return measure(shards, 1, 1, [*KEYS, *TINY_KEYS], COMPARED)
            return measure(shards, 3, 10, [*KEYS, "data.batch=64", "data.size=224"], COMPARED)
    except ModuleNotFoundError as error:
        if package := absent(error.name or ""):
            return {"left_out": f"{package} is missing, which shards need"}
        raise
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def run(job: Job) -> bool:
    """The comparison; whether all that could be measured was."""
    result = compare(job.rehearse)
    job.report.add(loaders=result)
    return "failed" not in result and not any("broken" in row for row in result.get("loaders", {}).values())
