"""What a part measures, one after the other: none costs the others, whatever becomes of it.

An item that raises says why; one that ends its process, hangs in it or loses the device is left to itself, and another
process goes on with the next. Items for which there is no time left are named and not run.
"""

import gc
import importlib.util
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from benchmarks.gpu.loops import alone
from benchmarks.gpu.report import Job
from benchmarks.synthetic import wait

BROKEN = "its process ended while it was measured, see the log"
HUNG = 3  # exit code of a process that an item did not give back
OURS = ("dira_scale", "benchmarks", "harness", "needs")  # to lack one of these is a failure
Item = Callable[[], dict[str, Any]]  # its figures; or why it is left out


def run(job: Job, items: Mapping[str, Item], longest_share: float = 0.5, apart: bool = True) -> bool:
    """Run the items that stand in no report yet and fit into ``job.seconds``, and write the report after each. Return
    whether all figures of the part so far are as they must be.

    ``longest_share``: of the part's time, that one of its items may take; a part's only item may take all.
    ``apart``: whether an item leaves the next no process group.
    """
    began, taken = time.perf_counter(), [0.0]
    longest = job.seconds * max(longest_share, 1 / max(1, len(items)))
    state = job.report.read().get(job.part) or {"items": {}, "not_run": list(items)}
    for name in [name for name in items if name in state["not_run"]]:
        start = time.perf_counter()
        if job.seconds - (start - began) < sum(taken) / len(taken):  # it would take no less than the others, likely
            continue
        state["not_run"].remove(name)
        state["items"][name], state["lost"] = {"failed": BROKEN}, True
        job.report.add(**{job.part: state})
        bound = threading.Timer(max(longest, 1.0), os._exit, (HUNG,))
        bound.daemon = True
        bound.start()
        result = attempt(items[name], apart)
        bound.cancel()
        seconds = time.perf_counter() - start
        taken = [*filter(None, taken), seconds]
        state["items"][name], state["lost"] = result | {"seconds": seconds}, lost()
        job.report.add(**{job.part: state})
        print(f"{name}: {result}", flush=True)
        if state["lost"]:
            break
    return sound(state["items"])


def attempt(item: Item, apart: bool = True) -> dict[str, Any]:
    """What ``item`` returns, or why it did not; the device's memory is free again after it."""
    try:
        with alone() if apart else nullcontext():
            return item()
    except torch.cuda.OutOfMemoryError:
        return {"left_out": "out of memory"}  # a small GPU is no fault
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (package := absent(error.name or "")):
            return {"left_out": f"{package} is missing"}
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        gc.collect()
        if torch.cuda.is_available() and not lost():
            torch.cuda.empty_cache()


def sound(items: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether none failed and all figures are as they must be."""
    fine = all(row["fine"] for item in items.values() for row in item.get("figures", {}).values())
    return fine and not any("failed" in item for item in items.values())


def lost() -> bool:
    """Whether the device answers no more: after an illegal access, say, only another process can go on."""
    try:
        wait(torch.device("cuda" if torch.cuda.is_available() else "cpu"))()
    except RuntimeError:
        return True
    return False


def absent(module: str) -> str | None:
    """The package of others that has ``module``, if that is not there; None otherwise."""
    package = module.partition(".")[0]
    shared = package == "nvidia"  # a namespace, which torch's libraries have too
    return module if module and package not in OURS and (shared or importlib.util.find_spec(package) is None) else None
