"""Cache demand of an order: the shards that its steps touch at once, and how often it comes back to each."""

from dataclasses import dataclass, replace

import numpy as np

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.cache.shards import Shards
from dira_scale.train.data.order import EvalOrder, Order

PLACES = 4  # of an epoch that are looked at
MOST_STEPS = 256  # fetched ahead
MORE_SHARDS = 8  # than are read at once are enough to fetch ahead
MOST_FETCHES = 16.0  # of each shard in an epoch: an order with more is refused
FEW_FETCHES = 4.0  # an order with at most these is suggested; with more a run warns
GB, MB = 10**9, 10**6


@dataclass(frozen=True)
class Need:
    """Shards that some steps touch on all processes of a node together.

    Attributes:
        shards, bytes: at once, in the place of the epoch where they are most.
        total: bytes of all shards.
    """

    shards: int
    bytes: int
    total: int


class Demand:
    """Shards that a growing number of steps need, from some places of an epoch on; arguments as of :class:`Window`."""

    def __init__(self, order: Order | EvalOrder, shards: Shards, rank: int, world: int, ranks: int) -> None:
        self.order, self.shards, self.rank, self.world, self.ranks = order, shards, rank, world, ranks
        # Training goes on into the next epoch, evaluation ends.
        self.epoch = order.steps_per_epoch if isinstance(order, Order) else order.steps
        self._end = None if isinstance(order, Order) else self.epoch
        self._starts, self._steps = sorted({self.epoch * i // PLACES for i in range(PLACES)}), 0
        self._touched = [self._shards(start, start) for start in self._starts]
        self.total = int(shards.sizes[shards.kept].sum())

    def need(self, steps: int) -> Need:
        """Return the need of so many steps, which grow from call to call."""
        assert steps >= self._steps
        for start, touched in zip(self._starts, self._touched, strict=True):
            touched |= self._shards(start + self._steps, start + steps)
        self._steps = steps
        count = max(int(touched.sum()) for touched in self._touched)
        size = max(int(self.shards.sizes[touched].sum()) for touched in self._touched)
        return Need(
            min(self.ranks * count, int(self.shards.kept.sum())), min(self.ranks * size, self.total), self.total
        )

    def fetches(self, steps: int) -> float:
        """Return how often each shard is fetched in an epoch by a cache that holds what the last ``steps`` touched."""
        new = []
        for start in self._starts:
            held, following = self._shards(start, start + steps), self._shards(start + steps, start + 2 * steps)
            new.append(int(self.shards.sizes[following & ~held].sum()))
        return float(self.ranks * np.mean(new) * self.epoch / steps / max(1, self.total))

    def _shards(self, first: int, stop: int) -> np.ndarray:
        """Return which shards the steps from ``first`` to ``stop`` - 1 read through the cache, bool [shards]."""
        touched = np.zeros(len(self.shards.all), bool)
        for step in range(first, min(stop, self._end or stop)):
            touched[self.shards.of(self.order.batch_at(step, self.rank, self.world).index)] = True
        return touched & self.shards.kept


class Window:
    """The number of steps to fetch ahead, so that a fetched shard stays in the cache until it is used.

    Args:
        order, shards: of the loader; ``rank``, ``world``: its process; ``ranks``: processes of this node.
        at_once: steps whose samples are read at once.
        capacity: bytes that the cache holds.

    Attributes:
        steps: to fetch ahead; ``need``: of these steps.
        fetches: of each shard in an epoch, about; 1 where the cache holds them all.

    Raises ArgumentError of ``size``, in GB, with the values that would do, where ``at_once`` steps do not fit, or
    shards would be fetched again and again.
    """

    def __init__(
        self, order: Order | EvalOrder, shards: Shards, rank: int, world: int, ranks: int, at_once: int, capacity: int
    ) -> None:
        demand = Demand(order, shards, rank, world, ranks)
        self.steps, self.need, self.fetches, horizon = at_once, demand.need(at_once), 1.0, at_once
        if self.need.bytes > capacity:
            raise _refusal(demand, self.need, "many times", at_once, capacity)
        enough, all_fit = min(self.need.shards + MORE_SHARDS, int(shards.kept.sum())), demand.total <= capacity
        while 2 * horizon <= MOST_STEPS and not (all_fit and self.need.shards >= enough):
            following = demand.need(2 * horizon)
            if following.bytes > capacity:
                break
            horizon *= 2
            if self.need.shards < enough:
                self.steps, self.need = horizon, following
        if not all_fit and isinstance(order, Order):
            self.fetches = demand.fetches(horizon)
        if self.fetches > MOST_FETCHES:
            raise _refusal(demand, self.need, f"about {self.fetches:.0f} times", at_once, capacity)


def _refusal(demand: Demand, need: Need, often: str, at_once: int, capacity: int) -> ArgumentError:
    why = (
        f": this order reads {need.shards} shards at once on a node, {need.bytes / MB:,.1f} MB (all have "
        f"{need.total / MB:,.1f} MB), and each would be fetched {often} an epoch"
    )
    order = demand.order
    if not isinstance(order, Order):
        return ArgumentError("size", capacity / GB, f"{in_gb(need.bytes)} (in GB){why}")
    text = f"{in_gb(demand.total)} (in GB), which holds all"
    block = -(-sum(order.sizes) // len(demand.shards.all))
    # Orders that come back to a shard more seldom, the more random ones first: blocks of a shard's size and larger.
    narrower = [
        replace(order, lanes=lanes, block=block * factor, window=window)
        for lanes in range(order.batch, 0, -1) if order.batch % lanes == 0 and lanes % demand.world == 0
        for window in (16, 4, 1)
        for factor in (1, 4)
    ]  # fmt: skip
    for proposed in narrower:
        other = Demand(proposed, demand.shards, demand.rank, demand.world, demand.ranks)
        if (smaller := other.need(at_once)).bytes <= capacity and other.fetches(at_once) <= FEW_FETCHES:
            text += (
                f", or in a new run lanes {proposed.lanes}, block {proposed.block} and window {proposed.window} (a "
                f"less random order, which needs {smaller.bytes / MB:,.1f} MB)"
            )
            break
    return ArgumentError("size", capacity / GB, text + why)


def in_gb(count: int) -> str:
    """Return so many bytes in GB, rounded up."""
    return f"{np.ceil(count / GB * 1000) / 1000:g}"
