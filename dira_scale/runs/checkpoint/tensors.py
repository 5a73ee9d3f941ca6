"""The tensors of a checkpoint, and which process writes which."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of the next checkpoint; each process may hold only a part of it."""

    shape: torch.Size
    dtype: torch.dtype
    whole: Callable[[], Tensor]  # collective: every process calls it, for all tensors in the same order

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


def replicated(tensors: Mapping[str, Tensor]) -> dict[str, CheckpointTensor]:
    """Checkpoint entries of tensors that every process holds completely."""
    return {name: CheckpointTensor(t.shape, t.dtype, lambda t=t: t) for name, t in tensors.items()}  # type: ignore[misc]


def names_of_writer(pieces: Mapping[str, CheckpointTensor], rank: int, world: int) -> list[str]:
    """The names that ``rank`` writes: the largest first, each goes to the writer with the fewest bytes so far."""
    load, mine = [0] * world, []
    for name in sorted(pieces, key=lambda n: (-pieces[n].nbytes, n)):
        writer = load.index(min(load))
        load[writer] += pieces[name].nbytes
        if writer == rank:
            mine.append(name)
    return mine
