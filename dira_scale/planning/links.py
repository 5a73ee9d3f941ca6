"""Links between GPUs, and how long a collective takes over them."""

import math
from dataclasses import dataclass

from dira_scale.planning.ledger import Collective


@dataclass(frozen=True)
class Links:
    """Nodes of equal GPUs. Bandwidths are one-way, as collectives reach them in practice.

    Attributes:
        per_node: GPUs per node.
        within: bytes/s of one GPU's links to the other GPUs of its node.
        between: bytes/s of all links of a node to the other nodes together.
        latency: seconds per hop.
    """

    per_node: int
    within: float
    between: float
    latency: float

    def bandwidth(self, ranks: int) -> float:
        """bytes/s at the bottleneck of a ring over ``ranks`` GPUs, which enters and leaves each node once."""
        return self.within if ranks <= self.per_node else min(self.within, self.between)

    def ring(self, count: float, ranks: int) -> float:
        """Seconds of a ring all-reduce of ``count`` bytes: 2 (W - 1) rounds of 1/W each (Patarasuk and Yuan,
        J. Parallel Distrib. Comput. 69, 2009)."""
        return 2 * self.gather(count, ranks)

    def tree(self, count: float, ranks: int) -> float:
        """The same with two binary trees that share the links (Sanders, Speck, Träff, Parallel Computing 35, 2009)."""
        return 0.0 if ranks == 1 else 2 * (count / self.bandwidth(ranks) + math.ceil(math.log2(ranks)) * self.latency)

    def all_reduce(self, count: float, ranks: int) -> float:
        """The faster of the two, as NCCL chooses: trees for small messages and many ranks, rings for large ones."""
        return min(self.ring(count, ranks), self.tree(count, ranks))

    def gather(self, count: float, ranks: int) -> float:
        """Seconds of a ring all-gather to ``count`` bytes on every rank, or of a reduce-scatter from them."""
        return (ranks - 1) * (count / ranks / self.bandwidth(ranks) + self.latency)

    def all_to_all(self, count: float, ranks: int) -> float:
        """Seconds for each rank to send every other rank its part of ``count`` bytes, pair by pair (Thakur,
        Rabenseifner, Gropp, Int. J. High Perform. Comput. Appl. 19, 2005); the GPUs of a node share its links."""
        inside = min(ranks, self.per_node)
        near, far = (inside - 1) / ranks * count, inside * (ranks - inside) / ranks * count
        return max(near / self.within, far / self.between) + (ranks - 1) * self.latency

    def seconds(self, message: Collective) -> float:
        """Seconds of one message of a method or a layer."""
        models = {"all_reduce": self.all_reduce, "gather": self.gather, "all_to_all": self.all_to_all}
        return models[message.kind](message.size, message.ranks)
