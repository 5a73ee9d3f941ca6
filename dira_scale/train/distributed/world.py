"""The processes of a run, as seen by each of them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from dira_scale.train.distributed import precision


@dataclass(frozen=True)
class World:
    """This process and how many there are; strategies need Accelerate's ``accelerator``.

    ``idle``: the cores for this process's threads that other programs left idle when it started. ``shard``: over how
    many processes FSDP2 shards; 0 if nothing is, or that is still to be chosen.
    """

    accelerator: Accelerator
    precision: str
    idle: int = 1
    shard: int = 0

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def ranks(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Return whether this process writes and prints for all."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def used(self) -> dict[str, Any]:
        """What ``auto`` stands for, as the run records it."""
        used: dict[str, Any] = {"precision_used": self.precision}
        if self.ranks == 1 and self.device.type == "cpu":
            used["threads_used"] = torch.get_num_threads()
        return used | ({"mesh_used": [self.ranks // self.shard, self.shard]} if self.shard else {})

    def autocast(self) -> AbstractContextManager[Any]:
        return precision.autocast(self.device, self.precision)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def end(self) -> None:
        """Leave the process group together: a launcher ends every process soon after the first has ended."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
