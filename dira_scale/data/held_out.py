"""Evaluation over several processes: whole batches are dealt to them, and every sample counts once."""

from collections.abc import Iterator
from dataclasses import dataclass

from dira_scale.data.batch import Batch
from dira_scale.data.loaders import Loader
from dira_scale.data.order import EvalOrder, Positions


@dataclass(frozen=True)
class DistributedEvalOrder(EvalOrder):
    """Whole evaluation batches dealt to ranks in turn, so that an evaluation batch never depends on their number.

    Every rank gets equally many; a batch that is dealt twice to achieve that counts once (:meth:`counts`).

    Attributes:
        batches: the first so many batches are dealt, over all ranks.
        rank, ranks: this process and their number.
    """

    batches: int
    rank: int
    ranks: int

    @property
    def steps(self) -> int:
        """Batches of this rank."""
        return -(-self.batches // self.ranks)

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Positions:
        """Positions of the ``step``-th batch of this rank."""
        return EvalOrder(self.size, self.batch).batch_at((step * self.ranks + self.rank) % self.batches)

    def counts(self, step: int) -> bool:
        """False where another rank counts this batch."""
        return step * self.ranks + self.rank < self.batches


@dataclass(frozen=True)
class HeldOutBatches:
    """A rank's evaluation batches, with views of a fixed epoch."""

    loader: Loader
    order: DistributedEvalOrder

    def batches(self) -> Iterator[tuple[Batch, int]]:
        """Batches with the number of samples that they count for."""
        for step, batch in enumerate(self.loader.iterate(0, self.order.steps)):
            yield batch, len(batch.index) if self.order.counts(step) else 0
