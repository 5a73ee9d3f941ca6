"""Evaluation over several processes: they share out whole batches, and every sample counts once."""

from collections.abc import Iterator
from dataclasses import dataclass

from dira_scale.train.data.batch import Batch
from dira_scale.train.data.loaders import Loader
from dira_scale.train.data.order import EvalOrder, StepSamples


@dataclass(frozen=True)
class DistributedEvalOrder(EvalOrder):
    """Whole evaluation batches assigned to ranks round-robin, so that a batch never depends on the number of ranks.

    Every rank gets equally many; a batch assigned twice for that reason counts once (:meth:`counts`).
    """

    batches: int  # over all ranks, from the first on
    rank: int  # of this process
    ranks: int

    @property
    def steps(self) -> int:
        """Batches of this rank."""
        return -(-self.batches // self.ranks)

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> StepSamples:
        """Samples of the ``step``-th batch of this rank."""
        return EvalOrder(self.size, self.batch).batch_at((step * self.ranks + self.rank) % self.batches)

    def counts(self, step: int) -> bool:
        """False if another rank counts this batch."""
        return step * self.ranks + self.rank < self.batches


@dataclass(frozen=True)
class HeldOutBatches:
    """A rank's evaluation batches, with views of a fixed epoch."""

    loader: Loader
    order: DistributedEvalOrder

    @property
    def samples(self) -> int:
        """The number of samples of all ranks."""
        return min(self.order.size, self.order.batches * self.order.batch)

    def batches(self) -> Iterator[tuple[Batch, int]]:
        """Each batch with the number of its samples that this rank counts."""
        for step, batch in enumerate(self.loader.iterate(0, self.order.steps)):
            yield batch, len(batch.index) if self.order.counts(step) else 0
