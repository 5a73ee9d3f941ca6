"""What an order needs of a cache: the shards that it touches within some steps."""

from dataclasses import dataclass, replace

import numpy as np

from dira_scale.data.cache.shards import Shards
from dira_scale.data.order import EvalOrder, Order
from dira_scale.errors import UserError

STARTS = 4  # places of an epoch that are looked at
FARTHEST = 256  # steps ahead at most
AHEAD = 8  # shards more than are read at once are enough
BLOCKS = (16, 64, 256, 1024)  # that are suggested
GB, MB = 10**9, 10**6


@dataclass(frozen=True)
class Need:
    """Shards that some steps touch on all ``ranks`` of a node together.

    Attributes:
        shards, bytes: at once, in the place of the epoch where they are most.
        total: bytes of all shards.
    """

    shards: int
    bytes: int
    total: int


class Demand:
    """What ever more steps of an order touch, seen from some places of its epoch; arguments as of :class:`Window`."""

    def __init__(self, order: Order | EvalOrder, shards: Shards, rank: int, world: int, ranks: int) -> None:
        self.order, self.shards, self.rank, self.world, self.ranks = order, shards, rank, world, ranks
        # Training goes on into the next epoch, evaluation ends.
        epoch = order.steps_per_epoch if isinstance(order, Order) else order.steps
        self._end = None if isinstance(order, Order) else epoch
        self._starts, self._steps = sorted({epoch * i // STARTS for i in range(STARTS)}), 0
        self._touched = [np.zeros(len(shards.all), bool) for _ in self._starts]

    def of(self, steps: int) -> Need:
        """The need of so many steps, which grow from call to call."""
        assert steps >= self._steps
        for start, touched in zip(self._starts, self._touched, strict=True):
            for step in range(start + self._steps, min(start + steps, self._end or start + steps)):
                touched[self.shards.of(self.order.batch_at(step, self.rank, self.world).index)] = True
            touched &= self.shards.kept
        self._steps = steps
        kept, sizes = int(self.shards.kept.sum()), self.shards.sizes
        count, most = (max(int(f(t)) for t in self._touched) for f in (np.sum, lambda t: sizes[t].sum()))
        total = int(sizes[self.shards.kept].sum())
        return Need(min(self.ranks * count, kept), min(self.ranks * most, total), total)


class Window:
    """How far ahead to fetch, so that what is fetched stays until it is used.

    Args:
        order, shards: of the loader; ``rank``, ``world``: its process; ``ranks``: processes of this node.
        least: steps whose samples are read at once.
        most: bytes that the cache holds.

    Attributes:
        steps: to fetch ahead; ``need``: of these steps.

    Raises UserError, with the sizes and values that would do, where ``least`` steps do not fit.
    """

    def __init__(
        self, order: Order | EvalOrder, shards: Shards, rank: int, world: int, ranks: int, least: int, most: int
    ) -> None:
        demand = Demand(order, shards, rank, world, ranks)
        self.steps, self.need = least, demand.of(least)
        if self.need.bytes > most:
            raise UserError(self._refusal(demand, least, most))
        enough = min(self.need.shards + AHEAD, int(shards.kept.sum()))
        while self.need.shards < enough and 2 * self.steps <= FARTHEST:
            following = demand.of(2 * self.steps)
            if following.bytes > most:
                break
            self.steps, self.need = 2 * self.steps, following

    def _refusal(self, demand: Demand, least: int, most: int) -> str:
        need, order = self.need, demand.order
        text = (
            f"this order reads {need.shards} shards at once on a node, {need.bytes / MB:.4g} MB (all have "
            f"{need.total / MB:.4g} MB), and the cache may hold {most / MB:.4g} MB: each would be fetched many times; "
            f"use data.cache_size={np.ceil(need.bytes / GB * 1000) / 1000:g} (in GB)"
        )
        if isinstance(order, Order):
            for other in _narrower(order, demand.world):
                smaller = Demand(other, demand.shards, demand.rank, demand.world, demand.ranks).of(least)
                if smaller.bytes <= most:
                    return text + (
                        f", or in a new run data.lanes={other.lanes} data.block={other.block} (a less random order, "
                        f"which needs {smaller.bytes / MB:.4g} MB)"
                    )
        return text


def _narrower(order: Order, world: int) -> list[Order]:
    """Orders that touch fewer shards at once, the more random ones first."""
    lanes = [count for count in range(order.batch, 0, -1) if order.batch % count == 0 and count % world == 0]
    return [replace(order, lanes=count, block=block, window=1) for count in lanes for block in BLOCKS]
