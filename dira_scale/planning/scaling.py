"""Data-parallel training on more and more GPUs, each with as much work as before: simulated, and held against others'
published measurements."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy.optimize import brentq

from dira_scale.planning.cluster import Cluster
from dira_scale.planning.ledger import Collective
from dira_scale.planning.strategies import Traffic
from dira_scale.planning.timeline import StepTimes

# Arithmetic where nobody has counted it: a backward pass is two products for each of the forward's.
UNCOUNTED = StepTimes(forward=1 / 3, backward=2 / 3)


@dataclass(frozen=True)
class Job:
    """The work of one GPU, and what it moves to and from the others.

    Attributes:
        alone: a step without the others.
        traffic: of parameters and gradients, which arithmetic may hide.
        own: collectives that everything waits for, by the number of GPUs.
    """

    cluster: Cluster
    alone: StepTimes
    traffic: Traffic
    own: Callable[[int], Sequence[Collective]] = lambda ranks: ()

    def step(self, ranks: int) -> StepTimes:
        """Of ``ranks`` GPUs."""
        moved, gather, reduce = self.traffic, self.cluster.gather, self.cluster.all_reduce

        def total(count: float, collective: Callable[[float, int], float]) -> float:
            return moved.messages * collective(count / moved.messages, ranks) if count else 0.0

        return replace(
            self.alone,
            blocking=sum(self.cluster.seconds(message) for message in self.own(ranks)) + total(moved.after, gather),
            ahead=total(moved.ahead, gather),
            behind=total(moved.behind, gather) + total(moved.reduced, reduce),
            buckets=moved.messages,
        )

    def seconds(self, ranks: int) -> float:
        """Of a step of ``ranks`` GPUs."""
        return self.step(ranks).seconds(ranks)

    def efficiency(self, few: int, many: int) -> float:
        """Work of a GPU among ``many`` in the time in which it does 1 among ``few``."""
        return self.seconds(few) / self.seconds(many)

    def taking(self, seconds: float, ranks: int) -> "Job":
        """The same, with as much arithmetic as makes a step of ``ranks`` GPUs take ``seconds``."""

        def with_arithmetic(total: float) -> Job:
            factor = total / (self.alone.forward + self.alone.backward)
            forward, backward = factor * self.alone.forward, factor * self.alone.backward
            return replace(self, alone=replace(self.alone, forward=forward, backward=backward))

        return with_arithmetic(brentq(lambda total: with_arithmetic(total).seconds(ranks) - seconds, 0.0, seconds))


@dataclass(frozen=True)
class Published:
    """Somebody's measurement: on ``many`` GPUs each does ``efficiency`` of what it does on ``few``."""

    what: str
    few: int
    many: int
    efficiency: float
    seconds: float  # of a step on few
    job: Job

    def simulated(self, jitter: float) -> float:
        """Our figure for ``efficiency``."""
        job = replace(self.job, alone=replace(self.job.alone, jitter=jitter))
        return job.taking(self.seconds, self.few).efficiency(self.few, self.many)

    def jitter(self) -> float:
        """The only figure that nobody publishes: the one that makes ours theirs."""
        return float(brentq(lambda jitter: self.simulated(jitter) - self.efficiency, 0.0, 0.2))


# 8 H100 a node: NVLink 450 GB/s one way, 400 Gb/s of RDMA a GPU; about 80 % of each is reached.
GRAND_TETON = Cluster(per_node=8, within=360e9, between=320e9, latency=1e-5)
# FSDP2 of Llama 3.1 8B: bf16 parameters are gathered, fp32 gradients scattered, layer by layer; 2 x 8,192 tokens a GPU.
LLAMA = Job(GRAND_TETON, UNCOUNTED, Traffic(reduced=0, ahead=2 * 8.03e9, behind=6 * 8.03e9, after=0, messages=33))
# 8 A100 a node, NVLink 300 GB/s one way. DDP of ResNet-50: fp32 gradients in buckets of 25 MB; 256 images a GPU.
RESNET = Job(
    Cluster(8, within=240e9, between=240e9, latency=1e-5),
    UNCOUNTED,
    Traffic(reduced=4 * 25.6e6, ahead=0, behind=0, after=0, messages=4),
)


def llama(what: str, few: float, many: float) -> Published:
    """A row of torchtitan's benchmarks/llama3_h100_202412_torchtitan.md, by tokens a second of a GPU."""
    return Published(f"torchtitan, Llama 3.1 8B, {what}", 8, 128, many / few, 2 * 8192 / few, LLAMA)


PUBLISHED = (
    llama("FSDP", 5762, 5605),
    llama("FSDP + compile", 6667, 6514),
    llama("FSDP + compile + Float8", 8532, 8380),
    # NVIDIA's DeepLearningExamples, PyTorch, ResNet-50 v1.5, TF32, images/s.
    Published("NVIDIA, ResNet-50, DDP, TF32", 1, 8, 7248 / (8 * 938), 256 / 938, RESNET),
)
