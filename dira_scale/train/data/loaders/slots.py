"""Batches in memory that processes share: a slot is a batch, whose arrays lie one after another."""

import mmap
import os
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from dira_scale.train.data.batch import Batch

ALIGNED = 16  # bytes, at whose multiples arrays begin


class Layout:
    """The places of a batch's arrays in a slot. ``example``: a batch of one sample."""

    def __init__(self, example: Batch) -> None:
        self.example = example.each_tensor(lambda tensor: tensor.to("meta"))  # pickled, too, whatever its type
        self._parts = self.example.tensors()

    def starts(self, samples: int) -> list[int]:
        """Return the byte at which each array of so many samples begins, and that at which the last one ends."""
        return [0, *accumulate(-(-samples * part.nbytes // ALIGNED) * ALIGNED for part in self._parts)]

    def batch(self, memory: Tensor, samples: int, step: int = 0, epoch: int = 0) -> Batch:
        """Return the batch that lies in ``memory``, uint8."""
        arrays = (
            memory[start : start + samples * part.nbytes].view(part.dtype).view(samples, *part.shape[1:])
            for start, part in zip(self.starts(samples), self._parts, strict=False)
        )
        return self.example.each_tensor(lambda _: next(arrays), step=step, epoch=epoch)


@dataclass(frozen=True)
class SlotBatch:
    """A batch of so many samples in a slot's ``memory``, until that is filled again."""

    layout: Layout
    memory: Tensor
    samples: int
    step: int
    epoch: int = 0

    def copy_to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``, by one copy, without waiting; on a CPU in memory of its own."""
        copied = self.memory[: self.layout.starts(self.samples)[-1]].to(device, non_blocking=True, copy=True)
        return self.layout.batch(copied, self.samples, self.step, self.epoch)


class Slots:
    """``count`` pieces of memory of ``size`` bytes, and ``now``, the number of the iterator that they are filled for.

    On a GPU the training process pins them.
    """

    def __init__(self, count: int, size: int, descriptor: int | None = None) -> None:
        self.count, self.size, self._pinned = count, size, False
        self.descriptor = os.memfd_create("slots") if descriptor is None else descriptor
        length = ALIGNED + count * size
        if descriptor is None:
            os.ftruncate(self.descriptor, length)
        self._memory = torch.frombuffer(mmap.mmap(self.descriptor, length), dtype=torch.uint8)
        if descriptor is not None:
            os.close(descriptor)  # what is mapped keeps the memory
        self.now = self._memory[:8].view(torch.int64)

    def __getitem__(self, slot: int) -> Tensor:
        start = ALIGNED + slot * self.size
        return self._memory[start : start + self.size]

    def pin(self) -> None:
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), self._memory.nbytes, 0))
        self._pinned = True

    def close(self) -> None:
        if self._pinned:
            torch.cuda.synchronize()  # the last copies
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr()))
        os.close(self.descriptor)
