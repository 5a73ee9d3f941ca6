"""``data.missing=skip``: other samples in place of those whose shard is unavailable."""

import logging
from dataclasses import replace

import numpy as np

from dira_scale.data import random
from dira_scale.data.cache.ahead import in_order
from dira_scale.data.cache.shards import MissingShardError, ShardCache, Shards
from dira_scale.data.order import EvalOrder, Order, Positions
from dira_scale.errors import UserError

logger = logging.getLogger(__name__)
REPETITION = 2**15  # the first number of a substitute among its sample's occurrences: views of its own
STREAM = 100  # of random numbers; the views' are smaller


class Substitutes:
    """An order in which samples of missing shards are replaced.

    A substitute is drawn from the shards of the same batch, by a generator keyed by seed, epoch and sample: the same
    shards missing give the same batches, and no further shard is fetched. Asking for a step waits for its shards.
    """

    def __init__(self, order: Order | EvalOrder, shards: Shards, cache: ShardCache, seed: int) -> None:
        self.order, self.shards, self.cache, self.seed = order, shards, cache, seed
        self._told: set[int] = set()
        self._samples = shards.samples
        self._selected: np.ndarray | None = None  # bool [n]; None: all
        if isinstance(order, Order) and order.selection is not None:
            self._selected = np.zeros(order.split_size, bool)
            self._selected[order.selection.samples] = True

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Positions:
        """As the order's; raises UserError where all shards of this process's part of the batch are missing."""
        positions = self.order.batch_at(step, rank, world)
        shard = self.shards.of(positions.index)
        missing = [number for number in in_order(shard) if self._is_missing(number)]
        lost = np.isin(shard, missing)
        if not lost.any():
            return positions
        if lost.all():
            raise UserError(f"all shards of step {step} are missing, the last: {self._error(missing[-1])}")
        index, occurrence = positions.index.copy(), positions.occurrence.copy()
        index[lost] = self._drawn(positions.epoch, positions.index[lost], positions.occurrence[lost], shard[~lost])
        occurrence[lost] = REPETITION + np.flatnonzero(lost) % REPETITION
        self.cache.seconds.add(skipped=int(lost.sum()))
        return replace(positions, index=index, occurrence=occurrence)

    def _drawn(self, epoch: int, index: np.ndarray, occurrence: np.ndarray, there: np.ndarray) -> np.ndarray:
        """A sample for each of ``index``: of the shard of a sample that is there, any one."""
        draws = random.uniform(self.seed, epoch, index, occurrence, view=0, n=2, stream=STREAM)
        substitutes = np.empty_like(index)
        for i, (which, row) in enumerate(draws):
            members = self.shards.members(int(there[int(which * len(there))]))
            if self._selected is not None:
                members = members[self._selected[members]]
            substitutes[i] = members[int(row * len(members))]
        return substitutes

    def _is_missing(self, number: int) -> bool:
        shard = self.shards.all[number]
        try:
            self.cache.ensure(shard)
        except MissingShardError as error:
            if number not in self._told:
                self._told.add(number)
                logger.warning(
                    "%s; samples of other shards take the place of its %d (data.missing=skip)",
                    error.why, len(self.shards.members(number)), extra={"every_rank": True},
                )  # fmt: skip
            return True
        return False

    def _error(self, number: int) -> str:
        return self.cache.failed[self.shards.all[number].name].why
