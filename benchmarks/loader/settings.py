"""How a loader is built for a dataset, and the images/s of several such ways in turns."""

from dataclasses import dataclass
from typing import Any

from benchmarks.loader.turns import rates, take_turns
from dira_scale.data.loaders import LoaderSpec
from dira_scale.data.loaders.build import choose
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.order import Order
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError

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
        return f"{self.loader}{' in a process of its own' * self.helper}, {self.workers} thread(s)"

    def build(self, dataset: ShardedDataset) -> Any:
        """The loader. Raises UserError if it cannot read the dataset."""
        order = Order((len(dataset.rows("train")),), seed=0, batch=BATCH, remainder="wrap")
        choice = choose(self.loader, [dataset], self.device)
        spec = LoaderSpec(
            [dataset], "train", order, ViewSpec(size=self.size), seed=0, workers=self.workers,
            prefetch=self.prefetch, device=self.device,
        )  # fmt: skip
        return (choice.in_helper() if self.helper else choice).build(spec)

    def reads(self, dataset: ShardedDataset) -> bool:
        try:
            self.build(dataset)
        except UserError:
            return False
        return True


def speeds(pairs: list[tuple[LoaderSetting, ShardedDataset]], rounds: int, seconds: float) -> list[list[float]]:
    """Images/s of each pair, round by round."""
    loaders = [setting.build(dataset) for setting, dataset in pairs]
    runs = {str(i): lambda batches, loader=loader: loader.iterate(0, batches) for i, loader in enumerate(loaders)}
    result = rates(take_turns(runs, BATCH, rounds, seconds))
    return [result[str(i)] for i in range(len(pairs))]
