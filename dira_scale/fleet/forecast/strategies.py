"""The costs of a rehearsed step under each strategy: bytes that a rank holds, bytes that it sends.

Follows what dira_scale.train.engine.parallel does with torch and DeepSpeed, including their buffers.
"""

from dataclasses import dataclass

import numpy as np

from dira_scale.fleet.forecast.rehearsal import Rehearsal
from dira_scale.train.distributed.deepspeed import BUCKET as ZERO_BUCKET

# Of what each rank keeps 1/W.
SHARDED: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "fsdp2": ("networks", "gradients", "states"),
    "zero1": ("states",),
    "zero2": ("gradients", "states"),
    "zero3": ("networks", "gradients", "states"),
}
STRATEGIES = tuple(SHARDED)
FLOAT = 4  # parameters, gradients and states are fp32 under every precision
GROUP = 34  # operations that a group of FSDP2 takes the host (measured on an H200: .84 ms)
DEEPSPEED_BUCKET = ZERO_BUCKET * FLOAT  # always allocated in full


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    parameters: float  # of the generator, without momentum networks
    momentum: float  # momentum networks and buffers (queue, statistics)
    gradients: float  # at their peak
    optimizer: float  # its states, and DeepSpeed's own copy of the parameters
    adversary: float  # the discriminator, its gradients and states; never sharded
    communication: float  # buffers, and parameters gathered from other ranks
    activations: float  # at their peak
    peak: float  # of everything; below the sum of the above, since activations are freed as gradients appear
    loader: float = 0.0  # an estimate of what decoding on the GPU takes; part of the peak


@dataclass(frozen=True)
class Traffic:
    """Bytes of the generator's parameters and gradients that collectives move in one optimizer step."""

    reduced: float = 0.0  # all-reduced
    ahead: float = 0.0  # gathered for forward passes
    behind: float = 0.0  # gathered again for backward passes, or scattered from them
    after: float = 0.0  # gathered after the optimizer's step
    messages: int = 1  # that each of these is split into
    across: float = 0.0  # all-reduced between replicas, whose shards go on together
    shards: int = 0  # ranks among which ``ahead`` and ``behind`` go; 0: all

    def sent(self, ranks: int) -> float:
        """Bytes a rank sends: a ring all-reduce 2 (W - 1) / W of the total, a gather or scatter half of that."""
        shards = self.shards or ranks
        within = (shards - 1) / shards * (self.ahead + self.behind)
        return within + (ranks - 1) / ranks * (2 * self.reduced + self.after) + 2 * (1 - shards / ranks) * self.across


def memory(strategy: str, ranks: int, step: Rehearsal, offload: bool = False, loader: float = 0.0) -> Memory:
    """Return what a rank of ``ranks`` holds under ``strategy``; ``offload``: optimizer states are in CPU memory;
    ``loader``: bytes per image that decoding on the GPU takes."""
    parts, after = _held(strategy, ranks, step, offload)
    decoding = loader * step.images
    return Memory(**parts, activations=step.activations, peak=float(after.max()) + decoding, loader=decoding)


def largest(
    strategy: str, ranks: int, few: Rehearsal, many: Rehearsal, limit: float, offload: bool = False, loader: float = 0.0
) -> int:
    """The most images per step with which a rank holds ``limit`` bytes or less; 0 if a single one is too many.

    The bytes after each operation are on a line through those with the images of ``few`` and ``many``; where more
    images take more operations, as corruptions in chunks do, the peaks nearly are (a few per cent too many).
    """
    first, second = (_held(strategy, ranks, step, offload)[1] + loader * step.images for step in (few, many))
    if len(first) != len(second):
        first, second = first.max(keepdims=True), second.max(keepdims=True)
    slopes = np.maximum((second - first) / (many.images - few.images), 1e-9)
    return max(0, int(few.images + ((limit - first) / slopes).min()))


def _held(strategy: str, ranks: int, step: Rehearsal, offload: bool) -> tuple[dict[str, float], np.ndarray]:
    """The parts of ``Memory`` that stay, and the bytes of everything after each operation."""
    share = {part: 1 / ranks if part in SHARDED[strategy] else 1.0 for part in SHARDED["fsdp2"]}
    networks, gradients, states = share["networks"], share["gradients"], share["states"]
    zero, groups = strategy.startswith("zero"), [group.size for group in step.groups]
    everything = step.trained + step.idle + step.momentum
    buffers: dict[str, float] = {
        "ddp": 0,
        # What is in no group; the current group, the next one, and gradients being sent.
        "fsdp2": everything - sum(groups) + 3 * max(groups, default=0),
        "zero1": 2 * DEEPSPEED_BUCKET,  # one fills while the other is sent
        "zero2": 2 * DEEPSPEED_BUCKET,
        "zero3": everything + DEEPSPEED_BUCKET,  # gathered parameters stay if they are reused within 10^9 parameters
    }
    parts = {
        "parameters": networks * (step.trained + step.idle),
        "momentum": networks * step.momentum + step.buffers,
        "optimizer": 0.0 if zero and offload else states * (step.optimizer + zero * step.trained),
        "adversary": float(step.adversary),
        "communication": buffers[strategy],
    }
    grouped = sum(group.size for group in step.groups if group.learning)
    late = max(0, step.trained - grouped) if strategy == "fsdp2" else 0  # whole until the backward pass ends
    peak = gradients * (step.trained - late) + late
    passes, update = (np.array(live, float).reshape(-1, 2) for live in (step.live_in_passes, step.live_in_update))
    live = np.concatenate([passes @ (peak / max(1, step.trained), 1.0), update @ (gradients, states)])
    if strategy == "ddp" and ranks > 1:  # gradients beside what is sent of them
        live = np.append(live, 2.0 * step.trained)
    return {"gradients": peak} | parts, sum(parts.values()) + live


def operations(strategy: str, step: Rehearsal) -> int:
    """Return what the host launches in a step, as a number of torch's operations."""
    return step.operations + (GROUP * (1 + len(step.groups)) if strategy == "fsdp2" else 0)


def checkpointed(step: Rehearsal) -> float:
    """Return the bytes of a checkpoint."""
    return step.trained + step.idle + step.momentum + step.buffers - step.teachers + step.optimizer + step.adversary


def traffic(strategy: str, step: Rehearsal, accumulate: int, shards: int = 0, narrow: float = 1.0) -> Traffic:
    """Return the bytes that ``strategy`` moves in a step of ``accumulate`` micro-batches. ``shards``: over how many
    ranks ``fsdp2`` shards; 0: all. ``narrow``: what it gathers, as a share of fp32's bytes.

    ``ddp`` and ``zero1`` reduce after the last micro-batch; ``zero2`` and ``zero3`` after each, since they keep only
    sharded gradients. ``fsdp2`` gathers a group for every pass through it and scatters its gradients after every pass
    of the last micro-batch. ``zero3`` gathers every parameter for the forward passes of a micro-batch and again for its
    backward pass, momentum networks for the forward pass only.
    """
    gradients, everything = step.trained, step.trained + step.idle + step.momentum
    messages = max(1, round(gradients / DEEPSPEED_BUCKET))
    if strategy == "ddp":
        return Traffic(reduced=gradients)
    if strategy == "fsdp2":
        learning = [group for group in step.groups if group.learning]
        again = sum(group.size * group.learning for group in learning)
        looked = sum(group.size * group.looking for group in step.groups)
        root = (everything - sum(group.size for group in step.groups)) * accumulate  # gathered once a micro-batch
        scattered = again / accumulate + gradients - sum(group.size for group in learning)
        sizes = {"ahead": narrow * (root + again + looked), "behind": narrow * again + scattered}
        return Traffic(**sizes, messages=max(1, len(learning)), across=gradients / max(1, shards), shards=shards)
    if strategy == "zero3":
        behind = 2 * gradients * accumulate
        return Traffic(ahead=everything * accumulate, behind=behind, messages=max(1, step.blocks))
    reductions = accumulate if strategy == "zero2" else 1
    return Traffic(behind=gradients * reductions, after=gradients, messages=messages)
