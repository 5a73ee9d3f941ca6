"""Links between GPUs, and how long a collective takes over them."""

import math
from dataclasses import dataclass

from dira_scale.forecast.config import Machine
from dira_scale.forecast.ledger import Collective

GB = 1e9
# Messages of an all-to-all that are under way at once: NCCL groups them, and each of its blocks serves eight GPUs at a
# time (its issue 665). It has several blocks; we count one.
AT_ONCE = 8


@dataclass(frozen=True)
class Links:
    """Nodes of equal GPUs; a group's ranks follow one another, node by node. Bandwidths are one-way, as collectives
    reach them in practice.

    Attributes:
        per_node: GPUs per node.
        within: bytes/s of one GPU's links to the other GPUs of its node.
        between: bytes/s of each of a node's links to the other nodes.
        latency_within: seconds per hop between GPUs of a node.
        latency_between: seconds per hop between GPUs of different nodes.
        links: of a node to the other nodes; a GPU on its own uses one of them.
    """

    per_node: int
    within: float
    between: float
    latency_within: float
    latency_between: float
    links: int = 1

    @classmethod
    def of(cls, machine: Machine, per_node: int) -> "Links":
        """Return the links of a machine as ``plan.*`` describes it."""
        return cls(
            per_node,
            machine.within * GB,
            machine.between * GB,
            machine.latency_within,
            machine.latency_between,
            machine.links,
        )

    def bandwidth(self, ranks: int) -> float:
        """bytes/s at the bottleneck of rings over ``ranks`` GPUs, which enter and leave each node by each link once.

        A node of which fewer GPUs take part than it has links uses as many.
        """
        fewest = ranks % self.per_node or self.per_node
        return self.within if ranks <= self.per_node else min(self.within, min(self.links, fewest) * self.between)

    def ring(self, count: float, ranks: int) -> float:
        """Seconds of a ring all-reduce of ``count`` bytes: 2 (W - 1) rounds of 1/W each (Patarasuk and Yuan,
        J. Parallel Distrib. Comput. 69, 2009)."""
        return 2 * self.gather(count, ranks)

    def tree(self, count: float, ranks: int) -> float:
        """Return the time with two binary trees of nodes that share the links (Sanders, Speck, Träff, Parallel
        Computing 35, 2009); the GPUs of a node are a chain, as in NCCL."""
        nodes = math.ceil(ranks / self.per_node)
        chain = (min(ranks, self.per_node) - 1) * self.latency_within
        depth = math.ceil(math.log2(nodes)) * self.latency_between
        return 0.0 if ranks == 1 else 2 * (count / self.bandwidth(ranks) + chain + depth)

    def all_reduce(self, count: float, ranks: int) -> float:
        """The faster of the two, as NCCL chooses: trees for small messages and many ranks, rings for large ones."""
        return min(self.ring(count, ranks), self.tree(count, ranks))

    def gather(self, count: float, ranks: int) -> float:
        """Seconds of a ring all-gather to ``count`` bytes on every rank, or of a reduce-scatter from them: in W - 1
        hops a part leaves each of several nodes once."""
        nodes = math.ceil(ranks / self.per_node)
        between = min(nodes, ranks - 1) if nodes > 1 else 0
        hops = between * self.latency_between + (ranks - 1 - between) * self.latency_within
        return (ranks - 1) * count / ranks / self.bandwidth(ranks) + hops

    def all_to_all(self, count: float, ranks: int) -> float:
        """Seconds for each rank to send every other rank its part of ``count`` bytes, pair by pair (Thakur,
        Rabenseifner, Gropp, Int. J. High Perform. Comput. Appl. 19, 2005); the GPUs of a node share its links."""
        inside = min(ranks, self.per_node)
        near, far = (inside - 1) / ranks * count, inside * (ranks - inside) / ranks * count
        latency = self.latency_between if ranks > inside else self.latency_within
        busy = max(near / self.within, far / (min(self.links, inside) * self.between))
        return busy + math.ceil((ranks - 1) / AT_ONCE) * latency

    def seconds(self, message: Collective) -> float:
        """Seconds of one message of a method or a layer."""
        models = {"all_reduce": self.all_reduce, "gather": self.gather, "all_to_all": self.all_to_all}
        return models[message.kind](message.size, message.ranks)
