"""The settings with which this machine loads a dataset fastest, for ``pretrain`` to take.

Loaders and numbers of threads in turns; of those within a few per cent of the fastest, the one with the fewest threads.
Then prefetch, likewise. Then, in ``forms.py``, what another stored form would give.
"""

import shlex
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.loader.forms import compare_forms
from benchmarks.loader.settings import LoaderSetting, speeds
from dira_scale.data.loaders.build import LOADERS
from dira_scale.data.manifest import ShardedDataset

CLOSE = 0.95  # of the fastest: not worth another thread, or more memory
PREFETCH = (1, 2, 4, 8)  # batches


def tune(shards: Path, out: Path, size: int, cores: int, rounds: int, seconds: float, console: Console) -> None:
    """Measure, print, and write ``out``/data/tuned.yaml, for ``pretrain --config-dir OUT data=tuned``.

    Raises UserError for a dataset that cannot be trained on.
    """
    dataset, device = ShardedDataset.open(shards), "cuda" if torch.cuda.is_available() else "cpu"
    dataset.require_images("bench loader")

    def fastest(settings: list[LoaderSetting], cost: Callable[[LoaderSetting], int]) -> LoaderSetting:
        result = speeds([(setting, dataset) for setting in settings], rounds, seconds)
        chosen = _cheapest(settings, result, cost)
        console.print(_table(settings, result, chosen))
        return chosen

    threads = sorted({1, *(2**i for i in range(8) if 2**i < cores), cores})
    best = fastest(_settings(dataset, threads, size, device), lambda setting: setting.workers)
    best = fastest([replace(best, prefetch=prefetch) for prefetch in PREFETCH], lambda setting: setting.prefetch)
    command = compare_forms(dataset, best, rounds, seconds, console)
    file = out / "data" / "tuned.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"# bench loader --tune, for views of {size} pixels, on {cores} cores and {device}.\n"
        f"# Another stored form: {command or 'none was faster without a visible loss'}\n"
        f"defaults: [default]\n\nloader: {best.loader}\nhelper: {str(best.helper).lower()}\n"
        f"workers: {best.workers}\nprefetch: {best.prefetch}\n"
    )
    console.print(f"\n{file}: {best}, prefetch {best.prefetch}", highlight=False, soft_wrap=True)
    words = ["--config-dir", str(out), "data=tuned", f"data.shards={shards}"]
    console.print(f"next: python -m dira_scale.pretrain {shlex.join(words)}", highlight=False, soft_wrap=True)


def _settings(dataset: ShardedDataset, threads: list[int], size: int, device: str) -> list[LoaderSetting]:
    """Every loader that reads this dataset, with every number of threads; in a process of its own only beside a GPU."""
    result = []
    for loader in LOADERS:
        first = LoaderSetting(loader, False, 1, 4, size, device)
        if loader == "cpu" or first.reads(dataset):  # what even cpu cannot read, it says
            helpers = (False, True) if device == "cuda" and loader != "dali" else (False,)
            result += [replace(first, helper=helper, workers=workers) for helper in helpers for workers in threads]
    return result


def _cheapest(
    settings: list[LoaderSetting], result: list[list[float]], cost: Callable[[LoaderSetting], int]
) -> LoaderSetting:
    """The one of least cost that is nearly as fast as the fastest; of equal costs, the faster one."""
    medians = list(map(statistics.median, result))
    near = [i for i, speed in enumerate(medians) if speed >= CLOSE * max(medians)]
    return settings[min(near, key=lambda i: (cost(settings[i]), -medians[i]))]


def _table(settings: list[LoaderSetting], result: list[list[float]], chosen: LoaderSetting) -> Table:
    table = Table("loader", "prefetch", "images/s", "lowest", "highest", "")
    for setting, speed in zip(settings, result, strict=True):
        figures = (f"{value:.0f}" for value in (statistics.median(speed), min(speed), max(speed)))
        table.add_row(str(setting), str(setting.prefetch), *figures, "chosen" if setting == chosen else "")
    return table
