"""Weak scaling of data-parallel training: published measurements, and the same simulated."""

from dataclasses import dataclass, replace

from scipy.optimize import brentq

from dira_scale.forecast.links import Links
from dira_scale.forecast.strategies import Traffic
from dira_scale.forecast.timeline import StepTimes, Workload

# Where FLOPs are not counted: a backward pass has two products for each of the forward pass.
UNCOUNTED = StepTimes(forward=1 / 3, backward=2 / 3)


def efficiency(work: Workload, few: int, many: int) -> float:
    """Throughput per GPU on ``many`` relative to ``few``."""
    return work.seconds(few) / work.seconds(many)


def fitted(work: Workload, seconds: float, ranks: int) -> Workload:
    """The same work with its arithmetic scaled so that a step on ``ranks`` GPUs takes ``seconds``."""

    def with_arithmetic(total: float) -> Workload:
        factor = total / (work.alone.forward + work.alone.backward)
        forward, backward = factor * work.alone.forward, factor * work.alone.backward
        return replace(work, alone=replace(work.alone, forward=forward, backward=backward))

    return with_arithmetic(brentq(lambda total: with_arithmetic(total).seconds(ranks) - seconds, 0.0, seconds))


@dataclass(frozen=True)
class Published:
    """A published measurement: throughput per GPU on ``many`` is ``efficiency`` times that on ``few``."""

    what: str
    few: int
    many: int
    efficiency: float
    seconds: float  # of a step on few
    work: Workload

    def simulated(self, jitter: float) -> float:
        """The simulated ``efficiency``."""
        work = replace(self.work, alone=replace(self.work.alone, jitter=jitter))
        return efficiency(fitted(work, self.seconds, self.few), self.few, self.many)

    def jitter(self) -> float:
        """The jitter, which nobody publishes, at which simulated and measured efficiency agree."""
        return float(brentq(lambda jitter: self.simulated(jitter) - self.efficiency, 0.0, 0.2))


# 8 H100 per node: NVLink 450 GB/s one way, 400 Gb/s of RDMA per GPU; about 80 % of each is reached. Latencies: NCCL's.
GRAND_TETON = Links(per_node=8, within=360e9, between=40e9, latency_within=4e-6, latency_between=1.4e-5, links=8)
# FSDP2 of Llama 3.1 8B: gathers bf16 parameters, scatters fp32 gradients, layer by layer; 2 x 8,192 tokens per GPU.
LLAMA = Workload(GRAND_TETON, UNCOUNTED, Traffic(reduced=0, ahead=2 * 8.03e9, behind=6 * 8.03e9, after=0, messages=33))
# 8 A100 per node, NVLink 300 GB/s one way. DDP of ResNet-50: fp32 gradients in buckets of 25 MB; 256 images per GPU.
RESNET = Workload(
    Links(8, within=240e9, between=22e9, latency_within=4e-6, latency_between=1.4e-5, links=8),
    UNCOUNTED,
    Traffic(reduced=4 * 25.6e6, ahead=0, behind=0, after=0, messages=4),
)


def llama(what: str, few: float, many: float) -> Published:
    """A row of torchtitan's benchmarks/llama3_h100_202412_torchtitan.md, in tokens/s per GPU."""
    return Published(f"torchtitan, Llama 3.1 8B, {what}", 8, 128, many / few, 2 * 8192 / few, LLAMA)


PUBLISHED = (
    llama("FSDP", 5762, 5605),
    llama("FSDP + compile", 6667, 6514),
    llama("FSDP + compile + Float8", 8532, 8380),
    # NVIDIA's DeepLearningExamples, PyTorch, ResNet-50 v1.5, TF32, images/s.
    Published("NVIDIA, ResNet-50, DDP, TF32", 1, 8, 7248 / (8 * 938), 256 / 938, RESNET),
)
