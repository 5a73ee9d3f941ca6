"""What feeds a step on the GPU: images/s of training from shards by each loader, and by the authors' code as a whole.

    python -m benchmarks.gpu.loaders OUT [--batch 64] [--size 224] [--rehearse]

`cpu`: decoding threads in the training process (data.helper=false), whose Python also launches the step. `helper`: in a
process of their own, which fills pinned slots of shared memory. `dali`: decoded on the GPU, where DALI is installed.
The network and settings of the ladder's first rung, at the paper's batch per GPU, whose steps are short; the images
are phantoms of 1024 pixels, stored in shards as JPEG of 512. How it is measured, and what the columns say:
benchmarks/end_to_end.py. `authors`: their loop fed by their loader (benchmarks/gpu/theirs.py) from the same phantoms as
PNGs of 1024 pixels, as ChestX-ray14 has them, and from the shards' own JPEGs as single files. `x authors`: images/s
with steps as a multiple of theirs from PNGs.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import overlap
from benchmarks.gpu.checks import declared
from benchmarks.gpu.report import Report
from benchmarks.gpu.rungs import BEST, NCHW, NETWORKS, TINY

NETWORK, COMPARED = "MoCo ResNet-50", ("cpu", "helper", "dali")
ROUNDS, STEPS, IMAGES, SIDE, STORED = 3, 10, 32, 1024, 512
SLOW = "data.workers=1", "data.prefetch=1"  # rehearsals
THEIRS = 32  # steps of their turn: twice the batches that 16 processes make at once


def compare(keys: Sequence[str], rehearse: bool, report: Report) -> dict[str, Any]:
    """The figures of ``end_to_end``, and in ``authors`` those of ``theirs``; ``left_out``: the package without which
    there are no shards. Written to ``report`` as soon as they are known."""
    try:
        from benchmarks.end_to_end import CORES, measure
        from benchmarks.gpu import phantoms

        with tempfile.TemporaryDirectory() as name:
            folder, ours = Path(name), [*keys, *BEST, *((*TINY[NETWORK], *SLOW) if rehearse else ())]
            with contextlib.redirect_stdout(io.StringIO()):
                count, side, stored = (2, 128, 64) if rehearse else (IMAGES, SIDE, STORED)
                pngs = phantoms.draw(folder / "png", count, side, 1 if rehearse else CORES)
                shards = phantoms.shards(pngs, folder / "shards", stored)
            result = measure(shards, *((1, 1) if rehearse else (ROUNDS, STEPS)), ours, COMPARED)
            report.add(loaders=result)
            plain = [*keys, "precision=fp32", NCHW, *(TINY[NETWORK] if rehearse else ())]
            result["authors"] = authors(pngs, shards, *((1, 1) if rehearse else (THEIRS, CORES)), plain)
            return relate(result)
    except ModuleNotFoundError as error:
        if package := declared(error.name or ""):
            return {"left_out": f"{package} is missing, which shards need"}
        raise
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def authors(pngs: Sequence[Path], shards: Path, steps: int, workers: int, keys: Sequence[str]) -> dict[str, Any]:
    """``theirs.measure`` on the PNGs and the JPEGs of their shards, or in its row why there is none."""
    if find_spec("torchvision") is None:
        return {"loaders": {"authors": {"left_out": "torchvision is missing, which their loader needs"}}}
    try:
        from benchmarks.gpu import theirs

        return theirs.measure(theirs.single_files(pngs, shards), steps, workers, keys)
    except Exception as error:  # ours are measured by then
        traceback.print_exc()
        return {"loaders": {"authors": {"broken": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}}}


def relate(result: dict[str, Any]) -> dict[str, Any]:
    """Each loader with ``times_authors``: its steps' images/s as a multiple of those of the authors' first row."""
    theirs = result["authors"]["loaders"]
    first = next(iter(theirs.values()))
    for row in [*result["loaders"].values(), *theirs.values()]:
        if "both" in row and "both" in first:
            row["times_authors"] = row["both"] / first["both"]
    return result


def text(result: Mapping[str, Any]) -> str:
    """The table, or why there is none."""
    for state in ("left_out", "failed"):
        if state in result:
            return f"loaders {state.replace('_', ' ')}: {result[state]}"
    theirs = result.get("authors", {"loaders": {}})
    lines = [overlap.text({**result, "loaders": result["loaders"] | theirs["loaders"]})]
    if "step" in theirs:
        first = next(iter(theirs["loaders"]))
        lines.append(f"the authors' steps alone, to which their rows refer: {theirs['step']:,.1f} images/s")
        lines.append(f"x authors: images/s with steps as a multiple of those of '{first}'")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--rehearse", action="store_true")
    asked = parser.parse_args(argv)
    if asked.rehearse:
        asked.batch, asked.size = 8, 32
    keys = ["model.bn_groups=1", *NETWORKS[NETWORK], f"data.batch={asked.batch}", f"data.size={asked.size}"]
    report = Report(asked.out)
    result = compare(keys, asked.rehearse, report)
    print(text(result), flush=True)
    report.add(loaders=result)
    rows = result.get("loaders", {}) | result.get("authors", {}).get("loaders", {})
    return 1 if "failed" in result or any("broken" in row for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
