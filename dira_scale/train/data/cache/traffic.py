"""What a node fetches through a bounded cache for the steps of an order, counted by the order itself."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from dira_scale.train.data.cache.ahead import in_order
from dira_scale.train.data.cache.folder import GB, MB
from dira_scale.train.data.cache.shards import Shards
from dira_scale.train.data.order import Order

LOOKED_AT = 2**17  # samples of an epoch, the order of which is computed in a fifth of a second; the rest is estimated
TIMES = 16  # that a window of blocks is looked at, in which samples are shuffled: then nearly all its shards are met
WINDOWS = 4  # at least, as each begins with other shards
OFTEN = 4  # times what is used: more asks for another cache or order


def traffic(order: Order, shards: Shards, capacity: float, nodes: int) -> str:
    """Return a line on the bytes that each node fetches through a cache of ``capacity`` bytes, against those of the
    samples that it uses."""
    first, epoch, stored = fetched(order, shards.of, np.where(shards.kept, shards.sizes, 0), capacity, nodes)
    some = np.arange(0, order.split_size, max(1, order.split_size // LOOKED_AT))
    used = order.epoch_size / nodes * float(shards.samples.column("size", some).mean())
    amount, waits, holding = (
        f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / MB:,.1f} MB" for count in (epoch, first, stored)
    )
    fetches, waits = f"{amount} a node, {epoch / used:,.1f} x what it uses", f"the first step waits for {waits}"
    if stored <= capacity:
        return f"data: the first epoch fetches {fetches}, later ones what the cache lacks; {waits}"
    remedy = f": raise data.cache_size to hold all {holding}, or in a new run use data.block=auto and fewer data.lanes"
    return f"data: each epoch fetches {fetches}; {waits}{remedy * (epoch > OFTEN * used)}"


def fetched(
    order: Order, of: Callable[[np.ndarray], np.ndarray], sizes: np.ndarray, capacity: float, nodes: int
) -> tuple[float, float, float]:
    """Count what one of ``nodes`` fetches before the first step, and in an epoch if its cache is empty at the start.

    That epoch is the second, as the first one alone begins where a shard does. The cache forgets what was needed
    longest ago. Of a long epoch some steps are looked at: spread over it as far as windows of blocks allow, which bring
    other shards at once, else the first ones; then the rest is as if the shards of later steps were drawn at random.

    Args:
        of: the numbers of the shards, int64 [b], of samples [b].
        sizes: of all shards, in bytes or what else is counted.

    Returns both, and the sum of ``sizes`` of the shards that have samples.
    """
    there = np.arange(0, order.split_size, max(1, order.split_size // (4 * len(sizes))))
    total = max(1.0, float(sizes[np.unique(of(there))].sum()))
    steps, samples = order.steps_per_epoch, order.batch // nodes
    window = order.window * order.block * (order.lanes or order.batch) // order.batch  # steps
    window = window if set(order.weights or [1]) == {1} else 1  # with weights, samples are of all shards
    stride = max(1, min(-(-steps * samples // LOOKED_AT), window // TIMES))
    looks = range(steps, 2 * steps, stride)[: max(2, LOOKED_AT // samples, WINDOWS * window // stride)]
    kept, held, count, counts = OrderedDict[int, float](), 0.0, 0.0, [0.0]
    for part in order.positions(looks, 0, nodes):
        for shard in in_order(of(part.index)):
            if shard in kept:
                kept.move_to_end(shard)
                continue
            kept[shard] = float(sizes[shard])
            count, held = count + kept[shard], held + kept[shard]
            while held > capacity and len(kept) > 1:
                held -= kept.popitem(last=False)[1]
        counts.append(count)
    first = float(sizes[np.unique(of(order.batch_at(0, 0, nodes).index))].sum())
    if stride > 1 and counts[min(window // stride, len(looks))] > capacity:  # those of one window do not fit
        return first, count * steps / len(looks), total
    if (rest := round(steps / stride) - len(looks)) > 0:
        half, middle = len(counts) // 2, counts[3 * len(counts) // 4]
        lacking = 1 - min(middle, capacity) / total  # the share of shards that the cache did not have
        fresh = (count - counts[half]) / (len(counts) - 1 - half) / lacking if lacking > 0 else 0.0
        for _ in range(rest):
            count += fresh * max(0.0, 1 - min(count, capacity) / total)
    return first, count, total
