"""Single files, PIL and torch's DataLoader: what most people do. It takes the same crops as our loaders, in grey.

Without dira_scale: ``peers.py`` uses it where there is none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

SIZE = 224


@dataclass(frozen=True)
class Crops:
    """Both views of a grey image, as uint8 or uint16 [2, 1, 224, 224]: the crops that were drawn beforehand."""

    boxes: np.ndarray
    flips: np.ndarray

    def __call__(self, image: Image.Image, position: int) -> torch.Tensor:
        position %= len(self.boxes)
        views = []
        for (y, x, h, w), flip in zip(self.boxes[position].tolist(), self.flips[position], strict=True):
            box = (x, y, x + w, y + h)
            view = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
            views.append(view[:, ::-1] if flip else view)
        return torch.from_numpy(np.stack(views)[:, None])


class Files(Dataset[torch.Tensor]):
    """Image files; position p is file p modulo their number."""

    def __init__(self, files: Sequence[Path], crops: Crops) -> None:
        self.files, self.crops = [str(file) for file in files], crops

    def __getitem__(self, position: int) -> torch.Tensor:
        with Image.open(self.files[position % len(self.files)]) as file:
            return self.crops(file.convert("L"), position)


class TurnSampler(Sampler[list[int]]):
    """The batches of one turn; their number may change between turns, while the workers live on."""

    def __init__(self, batch: int) -> None:
        self.batch, self.batches = batch, 0

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(i * self.batch, (i + 1) * self.batch)) for i in range(self.batches))

    def __len__(self) -> int:
        return self.batches


class Workers:
    """A DataLoader whose processes stay between turns. Forked from a server: this process has threads by then."""

    def __init__(self, dataset: Dataset[torch.Tensor], workers: int, batch: int) -> None:
        self.turns = TurnSampler(batch)
        self.loader = DataLoader(
            dataset, batch_sampler=self.turns, num_workers=workers, persistent_workers=True,
            multiprocessing_context="forkserver",
        )  # fmt: skip

    def __call__(self, batches: int) -> Iterator[Sequence[Any]]:
        self.turns.batches = batches
        return (views.unbind(1) for views in self.loader)

    def close(self) -> None:
        """End the processes."""
        iterator: Any = self.loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()
            self.loader._iterator = None
