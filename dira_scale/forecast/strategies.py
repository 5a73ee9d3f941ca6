"""What a rehearsed step costs under each strategy: bytes that a rank holds, bytes that it sends.

Follows what dira_scale.engine.parallel does with torch and DeepSpeed, including their buffers.
"""

from dataclasses import dataclass

from dira_scale.distributed.deepspeed import BUCKET as ZERO_BUCKET
from dira_scale.forecast.rehearsal import Rehearsal

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
FLOAT = 4  # parameters, gradients and states are fp32 under every precision
BUCKET = 25 * 2**20  # bytes of gradients that DDP sends at a time
DEEPSPEED_BUCKET = ZERO_BUCKET * FLOAT  # always allocated in full


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    Attributes:
        parameters: of the generator, without momentum networks.
        momentum: momentum networks and buffers (queue, statistics).
        gradients: at their peak.
        optimizer: its states, and DeepSpeed's own copy of the parameters.
        adversary: the discriminator, its gradients and states; never sharded.
        communication: buffers, and parameters gathered from other ranks.
        activations: at their peak.
        peak: of everything; below the sum of the above, since activations are freed as gradients appear.
        loader: an estimate of what decoding on the GPU takes; part of the peak.
    """

    parameters: float
    momentum: float
    gradients: float
    optimizer: float
    adversary: float
    communication: float
    activations: float
    peak: float
    loader: float = 0.0


@dataclass(frozen=True)
class Traffic:
    """Bytes of the generator's parameters and gradients that collectives move in one optimizer step.

    Attributes:
        reduced: all-reduced.
        ahead: gathered for forward passes.
        behind: gathered again for backward passes, or scattered from them.
        after: gathered after the optimizer's step.
        messages: number of messages that each of these is split into.
    """

    reduced: float
    ahead: float
    behind: float
    after: float
    messages: int

    def sent(self, ranks: int) -> float:
        """Bytes a rank sends: a ring all-reduce 2 (W - 1) / W of the total, a gather or scatter half of that."""
        return (ranks - 1) / ranks * (2 * self.reduced + self.ahead + self.behind + self.after)


def memory(strategy: str, ranks: int, step: Rehearsal, offload: bool = False) -> Memory:
    """What a rank of ``ranks`` holds under ``strategy``; ``offload``: optimizer states are in CPU memory."""
    sharded = 1 / ranks
    zero = strategy.startswith("zero")
    networks = sharded if strategy in ("fsdp2", "zero3") else 1.0
    gradients = 1.0 if strategy in ("ddp", "zero1") else sharded
    states = 1.0 if strategy == "ddp" else sharded
    master = sharded * step.trained if zero else 0.0
    optimizer = 0.0 if zero and offload else states * step.optimizer + master
    communication = _buffers(strategy, ranks, step)
    fixed = networks * (step.trained + step.resting) + step.buffers + optimizer + step.adversary + communication
    in_passes = max(live.others + gradients * live.gradients for live in step.live_in_passes)
    in_update = max(states * live.others + gradients * live.gradients for live in step.live_in_update)
    return Memory(
        parameters=networks * (step.trained + step.idle),
        momentum=networks * step.momentum + step.buffers,
        gradients=gradients * step.trained,
        optimizer=optimizer,
        adversary=step.adversary,
        communication=communication,
        activations=step.activations,
        peak=fixed + max(in_passes, in_update),
    )


def traffic(strategy: str, step: Rehearsal, accumulate: int) -> Traffic:
    """What ``strategy`` moves in a step of ``accumulate`` micro-batches.

    ``ddp`` and ``zero1`` reduce after the last micro-batch; ``zero2`` and ``zero3`` after each, since they keep only
    sharded gradients. ``fsdp2`` gathers a block for every pass through it. ``zero3`` gathers every parameter for the
    forward passes of a micro-batch and again for its backward pass, momentum networks for the forward pass only.
    """
    gradients, everything = step.trained, step.trained + step.resting
    if strategy == "ddp":
        return Traffic(gradients, 0, 0, 0, messages=max(1, round(gradients / BUCKET)))
    if strategy == "fsdp2":
        root = everything - sum(block.size for block in step.blocks)
        once = root * accumulate  # stays gathered for the whole micro-batch
        forward = sum(block.size * (block.learning + block.looking) for block in step.blocks)
        backward = sum(block.size * block.learning for block in step.blocks)
        passes = sum(block.learning > 0 for block in step.blocks)
        return Traffic(0, once + forward, backward + _scattered(step, accumulate), 0, messages=max(1, passes))
    messages = max(1, round(gradients / DEEPSPEED_BUCKET))
    if strategy == "zero3":
        ahead = everything * accumulate
        return Traffic(0, ahead, 2 * gradients * accumulate, 0, messages=max(1, len(step.blocks)))
    reductions = accumulate if strategy == "zero2" else 1
    return Traffic(0, 0, gradients * reductions, gradients, messages)


def _buffers(strategy: str, ranks: int, step: Rehearsal) -> float:
    if ranks == 1 and strategy == "ddp":
        return 0.0
    if strategy == "ddp":
        return step.trained  # its buckets, beside .grad
    if strategy == "fsdp2":
        largest = max((block.size for block in step.blocks), default=0)
        root = step.trained + step.resting - sum(block.size for block in step.blocks)
        return root + 3 * largest  # the current block, the next one, and gradients being sent
    if strategy == "zero3":  # gathered parameters stay if they are reused within 10^9 parameters
        return step.trained + step.resting + DEEPSPEED_BUCKET
    return 2 * DEEPSPEED_BUCKET  # one fills while the other is sent


def _scattered(step: Rehearsal, accumulate: int) -> float:
    """Bytes of gradients that fsdp2 scatters: blocks do so after every pass of the last micro-batch."""
    blocks = sum(block.size * block.learning / accumulate for block in step.blocks)
    return blocks + step.trained - sum(block.size for block in step.blocks if block.learning)
