"""Memory that processes share, for the large tensors of batches; only small ones (labels, parameters) are pickled.

On a GPU the training process pins it, and batches are copied to the device straight from it.
"""

import mmap
import os
from dataclasses import replace
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor

from dira_scale.train.data.batch import Batch

ALIGNED = 16  # bytes; slots begin at multiples of it


class Slots:
    """``count`` pieces of memory of at least ``size`` bytes; pickled to another process, both map the same."""

    def __init__(self, count: int, size: int, shared: Any = None) -> None:
        self.count, self.pinned = count, False
        self.size = size = -(-size // ALIGNED) * ALIGNED
        self._descriptor = os.memfd_create("slots") if shared is None else shared.detach()  # of a DupFd
        if shared is None:
            os.ftruncate(self._descriptor, count * size)
        self._memory = torch.frombuffer(mmap.mmap(self._descriptor, count * size), dtype=torch.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self.count, self.size, DupFd(self._descriptor))

    def pin(self) -> None:
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), self._memory.nbytes, 0))
        self.pinned = True

    def fill(self, slot: int, batch: Batch) -> Batch:
        """Copy a batch's views and masks into a slot; returns what is left to send, with tensors without memory in
        their places and distortions that are no part of larger memory."""
        large = _large(batch)
        for part, tensor in zip(self._parts(slot, large), large, strict=True):
            part.copy_(tensor)
        left = _with_large(batch, [tensor.to("meta") for tensor in large])
        return replace(left, distortions=tuple(values.clone() for values in batch.distortions))

    def batch(self, slot: int, batch: Batch) -> Batch:
        """``batch``, as ``fill`` left it, with the views and masks of a slot: on a CPU, where nothing is copied on,
        copies of them."""
        parts = self._parts(slot, _large(batch))
        return _with_large(batch, parts if self.pinned else [part.clone() for part in parts])

    def _parts(self, slot: int, large: list[Tensor]) -> list[Tensor]:
        parts, start = [], slot * self.size
        for tensor in large:
            parts.append(self._memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
            start += tensor.nbytes
        return parts

    def close(self) -> None:
        if self.pinned:
            torch.cuda.synchronize()  # the last copies
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr()))
        os.close(self._descriptor)


def _large(batch: Batch) -> list[Tensor]:
    """Return the tensors that are not pickled. Masks come first: their values have two bytes and must begin at even
    addresses; those of views may have one."""
    return [*([] if batch.mask is None else [batch.mask]), *batch.views]


def _with_large(batch: Batch, large: list[Tensor]) -> Batch:
    mask, views = (None, large) if batch.mask is None else (large[0], large[1:])
    return replace(batch, mask=mask, views=tuple(views))
