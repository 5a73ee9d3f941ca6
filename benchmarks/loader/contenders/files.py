"""Single files, PIL and torch's DataLoader: what DiRA's authors, lightly and solo-learn do.

``files, PIL`` takes the same crops as our loaders, in grey, and nothing else. ``files, released`` is the whole
augmentation of the authors' code (MoCo v2's, without hue and saturation, which leave grey images as they are): RGB,
crops, brightness and contrast, blur, flip, float tensors. Its crops are its own, of the same distribution. It is also
measured on the original PNGs, since nobody who runs that code shards first.

Without dira_scale, and without torchvision but for ``Released``: ``peers_run.py`` uses it where neither is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
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

    def __init__(self, files: Sequence[Path], mode: str, views: Callable[[Image.Image, int], torch.Tensor]) -> None:
        self.files, self.mode, self.views = [str(file) for file in files], mode, views

    def __getitem__(self, position: int) -> torch.Tensor:
        with Image.open(self.files[position % len(self.files)]) as file:
            return self.views(file.convert(self.mode), position)


class ReleasedTransforms:
    """The released augmentation, two views of an RGB image: float32 [2, 3, size, size]."""

    def __init__(self, size: int = SIZE) -> None:
        from torchvision import transforms

        self.transform = transforms.Compose([
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4)], p=0.8),
            transforms.RandomApply([blur], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ])  # fmt: skip

    def __call__(self, image: Image.Image, position: int) -> torch.Tensor:
        return torch.stack([self.transform(image) for _ in range(2)])


def blur(image: Image.Image) -> Image.Image:
    """MoCo v2's, a Gaussian with a standard deviation of 0.1 to 2 pixels."""
    return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(0.1, 2.0))))


class TurnSampler(Sampler[list[int]]):
    """The batches of one turn; their number may change between turns, while the workers live on."""

    def __init__(self, batch: int) -> None:
        self.batch, self.batches = batch, 0

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(i * self.batch, (i + 1) * self.batch)) for i in range(self.batches))

    def __len__(self) -> int:
        return self.batches


class Workers:
    """A DataLoader whose processes stay between turns. Forked from a server: this process has threads by then.

    Args:
        pinned: whether batches are copied to memory from which a GPU can be fed at full speed.
    """

    def __init__(self, dataset: Dataset[torch.Tensor], workers: int, batch: int, pinned: bool = False) -> None:
        self.turns = TurnSampler(batch)
        self.loader = DataLoader(
            dataset, batch_sampler=self.turns, num_workers=workers, persistent_workers=True,
            multiprocessing_context="forkserver", pin_memory=pinned,
        )  # fmt: skip

    def __call__(self, batches: int) -> Iterator[Sequence[Any]]:
        return (views.unbind(1) for views in self.stacked(batches))

    def stacked(self, batches: int) -> Iterator[torch.Tensor]:
        """Batches as they are collated, [B, 2, C, size, size]."""
        self.turns.batches = batches
        return iter(self.loader)

    def close(self) -> None:
        """End the processes."""
        iterator: Any = self.loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()
            self.loader._iterator = None
