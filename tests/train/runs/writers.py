"""Several writers of a checkpoint in one process."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.checkpoint import Checkpointer, StoredTensors
from dira_scale.train.runs.checkpoint.stored import StoredTensor


def meeting(world: int) -> list[Callable[[Any], list[Any]]]:
    """``gather`` of each of ``world`` writers."""
    barrier, values = threading.Barrier(world, timeout=60), [None] * world

    def gather(rank: int, value: Any) -> list[Any]:
        values[rank] = value
        barrier.wait()
        result = list(values)
        barrier.wait()
        return result

    return [partial(gather, rank) for rank in range(world)]


class Kept(StoredTensors):
    """These tensors, as if they were in a checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.kept, self.tensors = tensors, {name: StoredTensor(t.dtype, t.shape, []) for name, t in tensors.items()}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        return self.kept[name].reshape(-1)[start:stop].clone()

    def __getitem__(self, name: str) -> Tensor:
        return self.kept[name].clone()


def write(
    folder: Path,
    step: int,
    content: dict[str, Tensor],
    world: int = 1,
    keep: int = 9,
    best: dict[str, int] | None = None,
) -> None:
    """A checkpoint, as ``world`` processes would: each writer in its own threads."""
    writers = [Checkpointer(folder, keep, rank, world, gather=gather) for rank, gather in enumerate(meeting(world))]
    for writer in writers:
        writer.save(step, checkpoint.replicated(content), {"stage": 1}, best or {})
    for writer in writers:
        writer.raise_if_not_saved()
