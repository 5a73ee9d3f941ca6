"""Links between GPUs: how long a collective takes over them, and a step of many processes, whose communication
arithmetic hides in part."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from dira_scale.fleet.forecast.ledger import CollectiveMessage
from dira_scale.fleet.forecast.strategies import Traffic
from dira_scale.train.engine.signals import interval
from dira_scale.train.planned import Machine

GB = 1e9
# Messages of an all-to-all that are under way at once: NCCL groups them, and each of its blocks serves eight GPUs at a
# time (its issue 665). It has several blocks; we count one.
AT_ONCE = 8
# How much the speed of equal GPUs varies from step to step; nobody publishes it. With it torchtitan's 97.3 % is
# simulated (Llama 3.1 8B, FSDP, 8 to 128 H100); docs/evidence/scale.md has more of what it gives.
JITTER = 0.02397


@dataclass(frozen=True)
class Links:
    """Nodes of equal GPUs; a group's ranks follow one another, node by node. Bandwidths are one-way, as collectives
    reach them in practice, in bytes/s; latencies are seconds per hop."""

    per_node: int  # GPUs
    within: float  # bandwidth of one GPU's links to the other GPUs of its node
    between: float  # bandwidth of each of a node's links to the other nodes
    latency_within: float  # between GPUs of a node
    latency_between: float  # between GPUs of different nodes
    links: int = 1  # of a node to the other nodes; a GPU on its own uses one of them

    @classmethod
    def of(cls, machine: Machine, per_node: int) -> "Links":
        """Return the links of a machine as ``plan.*`` describes it."""
        latencies = machine.latency_within, machine.latency_between
        return cls(per_node, machine.within * GB, machine.between * GB, *latencies, machine.links)

    def of_replicas(self, shards: int) -> "Links":
        """Return the links of a rank with those that hold the same of ``shards``, whose neighbours use them, too."""
        beside = min(shards, self.per_node)
        between = min(self.within, self.links * self.between / beside)
        return replace(self, per_node=self.per_node // beside, between=between, links=1)

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

    def seconds(self, message: CollectiveMessage) -> float:
        """Seconds of one message of a method or a layer."""
        models = {"all_reduce": self.all_reduce, "gather": self.gather, "all_to_all": self.all_to_all}
        return models[message.kind](message.size, message.ranks)


@dataclass(frozen=True)
class StepTimes:
    """One optimizer step; all times in seconds."""

    forward: float  # a rank's arithmetic, of all micro-batches
    backward: float  # the same, and the optimizer's
    beside: float | None = None  # the part of ``backward`` after all gradients are sent at once; None: sent by bucket
    blocking: float = 0.0  # blocking collectives (BatchNorm statistics, the discriminator's gradients)
    asynchronous: float = 0.0  # collectives that start with the backward pass and are awaited at its end (keys)
    ahead: float = 0.0  # collectives that the forward pass can hide: parameters gathered while earlier layers compute
    behind: float = 0.0  # collectives that the backward pass can hide: gradients, and parameters gathered again
    buckets: int = 1  # number of equal messages that those are split into
    host: float = 0.0  # of a rank's host, to launch what the device computes; it works ahead of the device
    # Of the processes' message whether a signal arrived; it is sent in a step and awaited in the next, or its share of
    # the steps in between.
    control: float = 0.0
    jitter: float = 0.0  # standard deviation of a rank's arithmetic and host work, as a share of it

    def seconds(self, ranks: int) -> float:
        """Expected seconds per step of ``ranks`` processes that wait for one another, or of what takes longer than
        their devices."""
        return sum(self.parts(ranks).values())

    def parts(self, ranks: int) -> dict[str, float]:
        """Split these seconds by cause. The last two: by how much each outlasts the device and those before it."""
        arithmetic, late = self.forward + self.backward, self.jitter * slowest(ranks)
        gradients = replace(self, asynchronous=0.0).exposed
        parts = {
            "arithmetic": arithmetic,
            "stragglers": arithmetic * late,
            "gradients": gradients,
            "asynchronous": self.exposed - gradients,
            "blocking": self.blocking,
        }
        for name, seconds in {"host": self.host * (1 + late), "control": self.control}.items():
            parts[name] = max(0.0, seconds - sum(parts.values()))
        return parts

    @property
    def exposed(self) -> float:
        """Seconds of ``ahead``, ``asynchronous`` and ``behind`` that arithmetic does not hide."""
        ahead = exposed(self.forward, self.ahead, self.buckets)
        return ahead + exposed(self.backward, self.behind, self.buckets, self.asynchronous)


@dataclass(frozen=True)
class Workload:
    """The work of one GPU, and its traffic with the others."""

    links: Links
    alone: StepTimes  # on one GPU
    traffic: Traffic  # of parameters and gradients; arithmetic may hide it
    messages: Callable[[int], Sequence[CollectiveMessage]] = lambda ranks: ()  # the method's, by the number of GPUs
    control: float = 0.0  # seconds per hop of the ring in which gloo passes on whether a signal arrived

    def step(self, ranks: int) -> StepTimes:
        """A step on ``ranks`` GPUs."""
        traffic, gather, reduce = self.traffic, self.links.gather, self.links.all_reduce
        messages, shards = self.messages(ranks), self.traffic.shards or ranks
        across = self.links.of_replicas(shards).all_reduce

        def total(count: float, collective: Callable[[float, int], float], of: int = ranks) -> float:
            return traffic.messages * collective(count / traffic.messages, of) if count else 0.0

        def own(asynchronous: bool) -> float:
            return sum(self.links.seconds(message) for message in messages if message.asynchronous == asynchronous)

        reduced, beside = total(traffic.reduced, reduce), self.alone.beside
        late = 0.0 if beside is None else max(0.0, reduced - beside)
        return replace(
            self.alone,
            blocking=own(asynchronous=False) + total(traffic.after, gather) + late,
            asynchronous=own(asynchronous=True),
            ahead=total(traffic.ahead, gather, shards),
            behind=total(traffic.behind, gather, shards)
            + total(traffic.across, across, ranks // shards)
            + (reduced if beside is None else 0.0),
            buckets=traffic.messages,
            control=2 * (ranks - 1) * self.control / interval(ranks),  # a ring, however small the message
        )

    def seconds(self, ranks: int) -> float:
        """Seconds per step on ``ranks`` GPUs."""
        return self.step(ranks).seconds(ranks)


def exposed(compute: float, communication: float, buckets: int, before: float = 0.0) -> float:
    """Seconds by which ``communication`` outlasts the ``compute`` that it overlaps with.

    Message i of n is sent when the i-th part of the arithmetic is done and message i - 1 is out. On fast links only the
    last message is exposed; on slow ones, all but what n - 1 parts of the arithmetic hide. (Parameters gathered ahead
    of a forward pass are the same in reverse.) Other messages of ``before`` seconds come first, and wait for nothing.
    """
    behind = max(communication / buckets, communication - compute * (1 - 1 / buckets)) if communication else 0.0
    return max(behind, before + communication - compute)


def slowest(ranks: int) -> float:
    """Expected largest of ``ranks`` standard normal draws."""
    z = np.linspace(-9.0, 9.0, 7201)
    below = ndtr(z) ** ranks  # the probability that all are below z
    return float(np.trapezoid(np.where(z > 0, 1 - below, -below), z)) if ranks > 1 else 0.0
