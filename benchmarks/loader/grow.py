"""How the loader grows: with threads, with rows and shards, and over time."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.loader import synthetic
from benchmarks.loader.contenders import ours
from benchmarks.loader.goals import Goal
from benchmarks.loader.inputs import CASES, LoaderInputs
from benchmarks.loader.turns import Spread, rates, take_turns

SIZES = [(10**4, 10), (10**5, 10), (10**6, 10), (10**6, 100), (10**6, 1000), (10**6, 10**4), (10**7, 1000)]
RESUMED = (10**6, 1000)  # the rows and shards of the goal
SAMPLES = 100_000  # over which memory should stay flat
SECONDS = 600  # bound on the wait for a process
CASE = CASES["jpg8-512"]


def threads(inputs: LoaderInputs, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images/s of the cpu loader with 1, 2, 4 … threads up to the cores."""
    numbers = sorted({1, 2, *(2**i for i in range(8) if 2**i <= inputs.workers), inputs.workers})
    runs = {str(n): ours.loader("cpu", replace(inputs, workers=n))[0].run for n in numbers}
    return rates(take_turns(runs, inputs.batch, rounds, seconds))


def datasets(folder: Path, sizes: list[tuple[int, int]], samples: int, rounds: int) -> dict[str, Any]:
    """Opening datasets of ``sizes`` (rows, shards); and the memory of reading ``samples`` of the first of them."""
    base = synthetic.small(folder / "base")
    result = []
    for rows, shards in sizes:
        out = synthetic.enlarge(base, folder / f"{rows}-{shards}", rows, shards)
        result.append(_process("open", out, rounds, 0))
        shutil.rmtree(out)
    rows, shards = sizes[0]
    out = synthetic.enlarge(base, folder / "read", rows, shards)
    return {"opening": result, "memory": _process("read", out, samples, 2)}


def goals(grown: dict[str, Any]) -> list[Goal]:
    """Resuming within a second; memory that does not grow."""
    result = [
        Goal("seconds from opening a manifest of 1,000,000 to the first batch", Spread.of(row["whole"]), 1, below=True)
        for row in grown["opening"]
        if (row["rows"], row["shards"]) == RESUMED
    ]
    resident = grown["memory"]["resident_mb"]
    text = f"memory after {grown['memory']['samples']:,} samples / after the first"
    return [*result, Goal(text, Spread.of([resident[-1] / resident[0]]), 1.05, below=True)]


def _process(what: str, dataset: Path, *numbers: int) -> dict[str, Any]:
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.loader.opened", what, str(dataset), *map(str, numbers)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
