"""Which loader feeds a step on the GPU: images/s of training from shards, and how much less than the steps alone?

    python -m benchmarks.gpu.loaders OUT [--batch 64] [--size 224] [--rehearse]

`cpu`: decoding threads in the training process (data.helper=false), whose Python also launches the step. `helper`: in a
process of their own, which fills pinned slots of shared memory. `dali`: decoded on the GPU, where DALI is installed.
The network and settings of the ladder's first rung, at the paper's batch per GPU, whose steps are short; the images
are phantoms of 512 pixels, stored as JPEG. How it is measured, and what the columns say: benchmarks/end_to_end.py.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import overlap
from benchmarks.gpu.checks import declared
from benchmarks.gpu.report import Report
from benchmarks.gpu.rungs import BEST, NETWORKS, TINY

NETWORK, COMPARED = "MoCo ResNet-50", ("cpu", "helper", "dali")
ROUNDS, STEPS, PATIENTS, SIDE = 3, 10, 16, 512


def compare(keys: Sequence[str], rehearse: bool) -> dict[str, Any]:
    """The figures of ``end_to_end``; ``left_out``: the package without which there are no shards."""
    try:
        from benchmarks.backends import make_shards
        from benchmarks.end_to_end import measure

        with tempfile.TemporaryDirectory() as folder:
            with contextlib.redirect_stdout(io.StringIO()):
                shards = make_shards(Path(folder), *((2, 64) if rehearse else (PATIENTS, SIDE)))
            return measure(shards, *((1, 1) if rehearse else (ROUNDS, STEPS)), keys, COMPARED)
    except ModuleNotFoundError as error:
        if package := declared(error.name or ""):
            return {"left_out": f"{package} is missing, which shards need"}
        raise
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def text(found: Mapping[str, Any]) -> str:
    """The table, or why there is none."""
    for state in ("left_out", "failed"):
        if state in found:
            return f"loaders {state.replace('_', ' ')}: {found[state]}"
    return overlap.text(found)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--rehearse", action="store_true")
    asked = parser.parse_args(argv)
    if asked.rehearse:
        asked.batch, asked.size = 8, 32
    keys = ["model.bn_groups=1", *NETWORKS[NETWORK], *BEST, f"data.batch={asked.batch}", f"data.size={asked.size}"]
    keys += (*TINY[NETWORK], "data.workers=1", "data.prefetch=1") if asked.rehearse else ()
    found = compare(keys, asked.rehearse)
    print(text(found), flush=True)
    Report(asked.out).add(loaders=found)
    broken = [name for name, row in found.get("loaders", {}).items() if "broken" in row]
    return 1 if broken or "failed" in found else 0


if __name__ == "__main__":
    sys.exit(main())
