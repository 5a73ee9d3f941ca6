"""Cache demand of an order: the shards that some steps touch, and how often the order comes back to them."""

from dataclasses import dataclass, replace

import numpy as np

from dira_scale.arguments import ArgumentError
from dira_scale.data.cache.shards import Shards
from dira_scale.data.order import EvalOrder, Order

STARTS = 4  # places of an epoch that are looked at
FARTHEST = 256  # steps ahead at most
AHEAD = 8  # shards more than are read at once are enough
OFTEN = 16.0  # an order that fetches each shard more often in an epoch is refused
SELDOM = 4.0  # one that does it less often is suggested; above it a run warns
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
    """Shards touched by a growing number of steps, from some places of an epoch; arguments as of :class:`Window`."""

    def __init__(self, order: Order | EvalOrder, shards: Shards, rank: int, world: int, ranks: int) -> None:
        self.order, self.shards, self.rank, self.world, self.ranks = order, shards, rank, world, ranks
        # Training goes on into the next epoch, evaluation ends.
        self.epoch = order.steps_per_epoch if isinstance(order, Order) else order.steps
        self._end = None if isinstance(order, Order) else self.epoch
        self._starts, self._steps = sorted({self.epoch * i // STARTS for i in range(STARTS)}), 0
        self._touched = [self._none() for _ in self._starts]
        self.total = int(shards.sizes[shards.kept].sum())

    def of(self, steps: int) -> Need:
        """The need of so many steps, which grow from call to call."""
        assert steps >= self._steps
        for start, touched in zip(self._starts, self._touched, strict=True):
            self._touch(touched, start + self._steps, start + steps)
        self._steps = steps
        count, most = (max(int(f(t)) for t in self._touched) for f in (np.sum, self._bytes))
        return Need(
            min(self.ranks * count, int(self.shards.kept.sum())), min(self.ranks * most, self.total), self.total
        )

    def times(self, steps: int) -> float:
        """Return how often each shard is fetched in an epoch by a cache that holds what the last ``steps`` touched."""
        new = []
        for start in self._starts:
            held, following = self._none(), self._none()
            self._touch(held, start, start + steps)
            self._touch(following, start + steps, start + 2 * steps)
            new.append(self._bytes(following & ~held))
        return float(self.ranks * np.mean(new) * self.epoch / steps / max(1, self.total))

    def _none(self) -> np.ndarray:
        return np.zeros(len(self.shards.all), bool)

    def _touch(self, touched: np.ndarray, first: int, stop: int) -> None:
        for step in range(first, min(stop, self._end or stop)):
            touched[self.shards.of(self.order.batch_at(step, self.rank, self.world).index)] = True
        touched &= self.shards.kept

    def _bytes(self, touched: np.ndarray) -> int:
        return int(self.shards.sizes[touched].sum())


class Window:
    """The number of steps to fetch ahead, so that a fetched shard stays in the cache until it is used.

    Args:
        order, shards: of the loader; ``rank``, ``world``: its process; ``ranks``: processes of this node.
        least: steps whose samples are read at once.
        most: bytes that the cache holds.

    Attributes:
        steps: to fetch ahead; ``need``: of these steps.
        times: how often each shard is fetched in an epoch, about; 1 where the cache holds them all.

    Raises ArgumentError of ``size``, in GB, with the values that would do, where ``least`` steps do not fit, or shards
    would be fetched again and again.
    """

    def __init__(
        self, order: Order | EvalOrder, shards: Shards, rank: int, world: int, ranks: int, least: int, most: int
    ) -> None:
        demand = Demand(order, shards, rank, world, ranks)
        self.steps, self.need, self.times, horizon = least, demand.of(least), 1.0, least
        if self.need.bytes > most:
            raise _refusal(demand, self.need, None, least, most)
        enough, all_fit = min(self.need.shards + AHEAD, int(shards.kept.sum())), demand.total <= most
        while 2 * horizon <= FARTHEST and not (all_fit and self.need.shards >= enough):
            following = demand.of(2 * horizon)
            if following.bytes > most:
                break
            horizon *= 2
            if self.need.shards < enough:
                self.steps, self.need = horizon, following
        if not all_fit and isinstance(order, Order):
            self.times = demand.times(horizon)
        if self.times > OFTEN:
            raise _refusal(demand, self.need, self.times, least, most)


def _refusal(demand: Demand, need: Need, times: float | None, least: int, most: int) -> ArgumentError:
    often = "many times" if times is None else f"about {times:.0f} times"
    why = (
        f": this order reads {need.shards} shards at once on a node, {need.bytes / MB:,.1f} MB (all have "
        f"{need.total / MB:,.1f} MB), and each would be fetched {often} an epoch"
    )
    if not isinstance(demand.order, Order):
        return ArgumentError("size", most / GB, f"{in_gb(need.bytes)} (in GB){why}")
    text = f"{in_gb(demand.total)} (in GB), which holds all"
    batch, block = demand.order.batch, -(-sum(demand.order.sizes) // len(demand.shards.all))
    # Orders that come back to a shard more seldom, the more random ones first: blocks of a shard's size and larger.
    narrower = [
        replace(demand.order, lanes=lanes, block=block * factor, window=window)
        for lanes in range(batch, 0, -1) if batch % lanes == 0 and lanes % demand.world == 0
        for window in (16, 4, 1)
        for factor in (1, 4)
    ]  # fmt: skip
    for order in narrower:
        other = Demand(order, demand.shards, demand.rank, demand.world, demand.ranks)
        if (smaller := other.of(least)).bytes <= most and other.times(least) <= SELDOM:
            text += (
                f", or in a new run lanes {order.lanes}, block {order.block} and window {order.window} (a less random "
                f"order, which needs {smaller.bytes / MB:,.1f} MB)"
            )
            break
    return ArgumentError("size", most / GB, text + why)


def in_gb(count: int) -> str:
    """Return so many bytes in GB, rounded up."""
    return f"{np.ceil(count / GB * 1000) / 1000:g}"
