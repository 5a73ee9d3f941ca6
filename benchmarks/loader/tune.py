"""The settings with which this machine loads a dataset fastest, for ``pretrain`` to take.

Loaders and numbers of threads in turns; of those within a few per cent of the fastest, the one with the fewest threads.
Then prefetch, likewise.
"""

import shlex
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import tables
from benchmarks.turns import rates, take_turns, turn_of
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import LOADERS, choose
from dira_scale.train.data.order import Order
from dira_scale.train.data.views import ViewSpec

CLOSE = 0.95  # of the fastest: not worth another thread, or more memory
PREFETCH = (1, 2, 4, 8)  # batches
BATCH = 32


@dataclass(frozen=True)
class LoaderSetting:
    """A loader, and its settings.

    Attributes:
        size: pixels of a view.
        device: where the batches are wanted.
    """

    loader: str
    helper: bool
    workers: int
    prefetch: int
    size: int
    device: str

    def __str__(self) -> str:
        return f"{self.loader}{' in processes of its own' * self.helper}, {self.workers} thread(s)"

    def build(self, dataset: ShardedDataset) -> Any:
        """The loader. Raises UserError if it cannot read the dataset."""
        order = Order((len(dataset.rows("train")),), seed=0, batch=BATCH, remainder="wrap")
        choice = choose(self.loader, [dataset], self.device)
        spec = LoaderSpec(
            [dataset], "train", order, ViewSpec(size=self.size), seed=0, workers=self.workers,
            prefetch=self.prefetch, device=self.device,
        )  # fmt: skip
        return choice.build(spec, choice.processes(self.helper, self.device, self.workers))

    def reads(self, dataset: ShardedDataset) -> bool:
        try:
            self.build(dataset)
        except UserError:
            return False
        return True


def tune(shards: Path, out: Path, size: int, cores: int, rounds: int, seconds: float, console: Console) -> None:
    """Measure, print, and write ``out``/data/tuned.yaml, for ``pretrain --config-dir OUT data=tuned``.

    Raises UserError for a dataset that cannot be trained on.
    """
    dataset, device = ShardedDataset.open(shards), "cuda" if torch.cuda.is_available() else "cpu"
    dataset.require(2, "bench loader")

    def fastest(settings: list[LoaderSetting], cost: Callable[[LoaderSetting], int]) -> LoaderSetting:
        turns = {str(i): turn_of(partial(each.build(dataset).iterate, 0), BATCH) for i, each in enumerate(settings)}
        result = list(rates(take_turns(turns, rounds, seconds)).values())
        chosen = _cheapest(settings, result, cost)
        _tell(console, settings, result, chosen)
        return chosen

    threads = sorted({1, *(2**i for i in range(8) if 2**i < cores), cores})
    best = fastest(_settings(dataset, threads, size, device), lambda setting: setting.workers)
    best = fastest([replace(best, prefetch=prefetch) for prefetch in PREFETCH], lambda setting: setting.prefetch)
    file = out / "data" / "tuned.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"# bench loader --tune, for views of {size} pixels, on {cores} cores and {device}.\n"
        f"defaults: [default]\n\nloader: {best.loader}\nhelper: {str(best.helper).lower()}\n"
        f"workers: {best.workers}\nprefetch: {best.prefetch}\n"
    )
    console.print(f"\n{file}: {best}, prefetch {best.prefetch}", highlight=False, soft_wrap=True)
    words = ["--config-dir", str(out), "data=tuned", f"data.shards={shards}"]
    console.print(f"next: python -m dira_scale.pretrain {shlex.join(words)}", highlight=False, soft_wrap=True)


def _settings(dataset: ShardedDataset, threads: list[int], size: int, device: str) -> list[LoaderSetting]:
    """Every loader that reads this dataset, with every number of threads; in processes of its own only beside a GPU."""
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


def _tell(console: Console, settings: list[LoaderSetting], result: list[list[float]], chosen: LoaderSetting) -> None:
    rows = []
    for setting, speed in zip(settings, result, strict=True):
        figures = (f"{value:.0f}" for value in (statistics.median(speed), min(speed), max(speed)))
        rows.append((f"{setting}", f"{setting.prefetch}", *figures, "chosen" if setting == chosen else ""))
    tables.tell(console, "", ["loader", "prefetch", "images/s", "lowest", "highest", ""], rows, {})
