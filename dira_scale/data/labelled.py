"""A sharded dataset as a torch ``Dataset`` of whole, labelled images, for training and evaluation of your own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.pixels.codecs import decode
from dira_scale.pixels.resize import resize


class LabelledImages(Dataset[tuple[Any, Tensor]]):
    """The 2D images of a split: ``(image, labels)``.

    ``image`` is float32 [C, H, W], stored values from ``low`` to ``high`` scaled to [0, 1], or what ``transform`` makes
    of that; ``labels`` float32 [L] in the order of ``label_names``: NaN = unknown, and
    whatever else the table has, such as -1 = uncertain or grades.

    Args:
        size: resize images to squares of so many pixels; None: as stored, so their sizes may differ.

    Raises ``UserError`` for volumes, a dataset without labels, or a split or dataset that does not exist.
    """

    def __init__(
        self, path: str | Path, split: str, size: int | None = None, transform: Callable[[Tensor], Any] | None = None
    ) -> None:
        self.dataset, self.size, self.transform = ShardedDataset.open(path), size, transform
        self.dataset.require_images("LabelledImages")
        self.rows = self.dataset.rows(split)
        self.label_names = tuple(self.dataset.info.label_names)
        if not self.label_names:
            raise UserError(f"{path} has no labels: shard it again with recipe.labels=… and another out")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        row = int(self.rows[index])
        pixels = decode(self.dataset.read(row), self.dataset.cell("codec", row), self.dataset.shape(row))
        if self.size is not None:
            pixels = resize(pixels, (0, 0, *pixels.shape[:2]), self.size)
        else:
            pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        low, high = (self.dataset.cell(name, row) for name in ("low", "high"))
        image = torch.from_numpy((np.float32(pixels) - low) / (high - low)).clamp_(0, 1)
        labels = torch.from_numpy(self.dataset.labels(np.array([row]))[0])
        return (image if self.transform is None else self.transform(image)), labels
