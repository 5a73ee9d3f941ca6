"""How fast is a training step, from the authors' loop to our fastest settings, one change per rung?

    python -m benchmarks.gpu.ladder OUT [--name ladder] [--batch 256] [--size 224] [--rehearse] [--rungs PART ...]

Each rung (benchmarks/gpu/rungs.py) starts from the same weights and images; the losses of its first steps must be those
of IEEE fp32 within its precision's tolerance, else its speed is invalid. Rungs for which there is no time left are
named and not run. The table in OUT/gpu.json, under --name, is updated after every rung; rungs that it already has are
not run again.

images/s and ms: median over turns of five steps. x authors: at the same batch. Host ms: of a step on eight images,
where the GPU always waits for the host. Launches: of such a step, counted after all rungs were timed. TFLOP/s: the
products that a step of our loop needs, as torch.utils.flop_counter counts them, divided by its time; unneeded ones of
the authors' loop are not counted. Share of peak: of the vendor's figure for the rung's kind of product
(benchmarks/gpu/peaks.py). Memory: torch's peak allocation. The second table has the parts of each step
(benchmarks/gpu/split.py). `bench gpu` calls this and stops it when its time is up.
"""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks import synthetic
from benchmarks.gpu import launches
from benchmarks.gpu.figures import CHECKED, build, measure
from benchmarks.gpu.loops import FEW, alone, loopback
from benchmarks.gpu.report import Report
from benchmarks.gpu.rungs import COMPILED, SHARDED, TINY, Rung, rungs
from benchmarks.gpu.table import HEAD, finish, line, sound

BROKEN = "its process ended while it was measured"


def climb(asked: argparse.Namespace) -> dict[str, Any]:
    """All rungs that stand in no report yet and fit into ``asked.seconds``; the report is written after each."""
    began, longest, file = time.perf_counter(), 0.0, Report(asked.out)
    report = (file.read().get(asked.name) or _empty(asked)) | {"lost": False}
    reference = file.read().get("ladder", {}).get("rungs", []) if asked.name != "ladder" else []
    network = None
    for rung in [rung for rung in rungs() if rung.title in report["not_run"]]:
        start = time.perf_counter()
        if asked.seconds - (start - began) < longest:  # it would take no less than the longest so far
            continue
        report["not_run"].remove(rung.title)
        row: dict[str, Any] = {"network": rung.network, "rung": rung.name, "kind": rung.kind, "authors": rung.authors}
        row |= {"alike": rung.alike, "failed": BROKEN}
        report["rungs"].append(row)
        file.add(**{asked.name: report})
        result = attempt(rung, chosen(rung, asked), asked.rehearse, asked.turns)
        del row["failed"]
        row |= result
        longest = max(longest, time.perf_counter() - start)
        finish([*report["rungs"], *reference], report["device"])
        print(*([rung.network] if rung.network != network else []), line(row), sep="\n", flush=True)
        network = rung.network
        file.add(**{asked.name: report})
        if lost():
            report["lost"] = True
            file.add(**{asked.name: report})
            return report
    tally(report, asked, began + asked.seconds, file)
    return report


def chosen(rung: Rung, asked: argparse.Namespace, batch: int | None = None) -> list[str]:
    """A rung's keys that are not its own: its batch, or another, and size."""
    batch = batch or (rung.batch if rung.batch and not asked.rehearse else asked.batch)
    return [f"data.batch={batch}", f"data.size={asked.size}", *(TINY[rung.network] if asked.rehearse else ())]


def tally(report: dict[str, Any], asked: argparse.Namespace, end: float, file: Report) -> None:
    """Count the launches of each rung's step, once all are timed: the profiler might slow what comes after it.

    Rungs that differ in their batch alone are counted once. What cannot be counted stays empty.
    """
    known, longest = {rung.title: rung for rung in rungs()}, 0.0
    result: dict[tuple[object, ...], int] = {}
    for row in report["rungs"]:
        rung = known[f"{row['network']}: {row['rung']}"]
        if "seconds_per_step" not in row or "launches" in row or rung.name == COMPILED:  # it would compile anew
            continue
        start = time.perf_counter()
        same = rung.network, rung.keys, rung.authors, rung.free
        if same not in result and end - start < longest:
            report["launches_unknown"] = "of some rungs, the time was up"
            break
        try:
            result[same] = result[same] if same in result else launched(rung, chosen(rung, asked, FEW))
        except Exception as error:  # the speeds stand
            report["launches_unknown"] = " ".join(str(error).split())[:300]
            break
        row["launches"] = result[same]
        longest = max(longest, time.perf_counter() - start)
        file.add(**{asked.name: report})
    file.add(**{asked.name: report})


def launched(rung: Rung, keys: Sequence[str]) -> int:
    """CUDA launches of a step.

    Raises:
        NotCountedError: see :func:`launches.count`.
    """
    if not torch.cuda.is_available():
        raise launches.NotCountedError("there is no GPU to launch on")
    with alone():
        loop, _ = build(rung, keys)
        for number in range(CHECKED):
            loop.step(number)
        return launches.count(lambda: loop.step(CHECKED), loop.device)


def _empty(asked: argparse.Namespace) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    report: dict[str, Any] = {"device": device, "batch": asked.batch, "size": asked.size, "torch": torch.__version__}
    titles = [rung.title for rung in rungs()]
    # What is not run is named from the start: this may be stopped from outside at any time.
    named = [title for title in titles if asked.rungs is None or any(part in title for part in asked.rungs)]
    return report | {"rehearsal": asked.rehearse, "rungs": [], "not_run": named}


def attempt(rung: Rung, keys: Sequence[str], rehearse: bool, seconds: float) -> dict[str, Any]:
    """``measure``, or why it did not come to an end; the device's memory is free again after it."""
    if rung.keys == SHARDED and not loopback():  # torch would try for half an hour
        return {"left_out": "this machine's loopback network is down, which a process group needs"}
    try:
        with traced_only() if rehearse else nullcontext(), alone():
            return measure(rung, keys, *((0, 1) if rehearse else (seconds,)))
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory: a smaller --batch fits"}
    except Exception as error:  # a rung that breaks must not cost the others
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        gc.collect()
        if torch.cuda.is_available() and not lost():
            torch.cuda.empty_cache()


def traced_only() -> AbstractContextManager[Any]:
    """Compiled blocks are traced and differentiated, but no machine code is made, which takes a CPU minutes."""
    return mock.patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))


def lost() -> bool:
    """Whether the device answers no more: after an illegal access, say, only another process can go on."""
    try:
        synthetic.wait(torch.device("cuda" if torch.cuda.is_available() else "cpu"))()
    except RuntimeError:
        return True
    return False


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=440, help="for all rungs")
    parser.add_argument("--turns", type=float, default=3, help="seconds of measuring a rung")
    parser.add_argument("--name", default="ladder", help="of the table in gpu.json")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks, on the CPU too: does all of it run?")
    parser.add_argument("--rungs", nargs="+", help="only those whose title has one of these parts")
    asked = parser.parse_args(argv)
    if asked.rehearse:
        asked.batch, asked.size = 8, 32
    asked.out.mkdir(parents=True, exist_ok=True)
    print(HEAD, flush=True)
    report = climb(asked)
    for title in report["not_run"]:
        print(f"not run, the time was up: {title}")
    return 0 if sound(report) else 1


if __name__ == "__main__":
    sys.exit(main())
