"""Links between processes, and how long a collective takes over them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs. Bandwidths are of one direction, as collectives reach them.

    Attributes:
        per_node: GPUs of a node.
        within: bytes/s of one GPU's links to the others of its node.
        between: bytes/s of all links of a node to the other nodes together.
        latency: seconds of one hop.
    """

    per_node: int
    within: float
    between: float
    latency: float

    def bandwidth(self, ranks: int) -> float:
        """bytes/s at the narrowest place of a ring over ``ranks`` GPUs, which enters and leaves each node once."""
        return self.within if ranks <= self.per_node else min(self.within, self.between)

    def ring(self, count: float, ranks: int) -> float:
        """Seconds of an all-reduce of ``count`` bytes by a ring: 2 (W - 1) rounds of a W-th each (Patarasuk and Yuan,
        J. Parallel Distrib. Comput. 69, 2009)."""
        return 2 * self.gather(count, ranks)

    def tree(self, count: float, ranks: int) -> float:
        """The same by two binary trees that share the links (Sanders, Speck, Träff, Parallel Computing 35, 2009)."""
        return 0.0 if ranks == 1 else 2 * (count / self.bandwidth(ranks) + math.ceil(math.log2(ranks)) * self.latency)

    def all_reduce(self, count: float, ranks: int) -> float:
        """The faster of the two, as NCCL chooses: trees for small messages and many ranks, rings for large ones."""
        return min(self.ring(count, ranks), self.tree(count, ranks))

    def gather(self, count: float, ranks: int) -> float:
        """Seconds of an all-gather to ``count`` bytes on every rank, or of a reduce-scatter from them; a ring."""
        return (ranks - 1) * (count / ranks / self.bandwidth(ranks) + self.latency)
