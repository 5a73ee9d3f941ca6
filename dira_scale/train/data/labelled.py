"""A sharded dataset as a torch ``Dataset`` of whole, labelled images, for training and evaluation of your own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import DatasetError, nearest
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.planes import resize
from dira_scale.train.data.batch import unit_interval


class LabelledImages(Dataset[tuple[Any, Tensor]]):
    """The 2D images of a split: ``(image, labels)``, or ``(image, class)`` with a ``label`` of several classes.

    ``image`` is float32 [C, H, W], stored values from ``low`` to ``high`` scaled to [0, 1], or what ``transform`` makes
    of that; ``labels`` float32 [L] in the order of ``label_names``: NaN = unknown, and
    whatever else the table has, such as -1 = uncertain or grades; of a label of classes the number of the class.
    ``class`` is that number alone, int64, from 0 in the order of ``classes``, their names; where it is unknown
    ``UNKNOWN``, which torch's ``cross_entropy`` ignores.

    Args:
        size: resize images to squares of so many pixels; None: as stored, so their sizes may differ.
        label: a label of classes. None: all labels as numbers, or, if there is only one and
            it has classes, that one.

    Raises DatasetError for volumes, a dataset without labels, or a split or dataset that does not exist; ArgumentError
    for a label that is none of classes.
    """

    UNKNOWN = -100

    def __init__(
        self,
        path: str | Path,
        split: str,
        size: int | None = None,
        transform: Callable[[Tensor], Any] | None = None,
        label: str | None = None,
    ) -> None:
        self.dataset, self.size, self.transform = ShardedDataset.open(path), size, transform
        self.dataset.require(2, "LabelledImages")
        self.rows = self.dataset.rows(split)
        self.label_names = tuple(self.dataset.info.label_names)
        if not self.label_names:
            raise DatasetError(f"{path} has no labels", lacks="labels")
        classes = self.dataset.info.classes
        if label is not None and label not in classes:
            has = f"it has {', '.join(classes)}{nearest(label, classes)}" if classes else "none of its labels has any"
            raise ArgumentError("label", label, f"a label of classes of {path}: {has}")
        self.label = label or (self.label_names[0] if self.label_names == tuple(classes)[:1] else None)
        self.classes = tuple(classes[self.label]) if self.label else ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        row = int(self.rows[index])
        pixels = self.dataset.pixels(row)
        if self.size is not None:
            pixels = resize(pixels, (0, 0, *pixels.shape[:2]), self.size)
        else:
            pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        low, high = (torch.from_numpy(end) for end in self.dataset.range(np.array([row])))
        image = unit_interval(torch.from_numpy(np.float32(pixels))[None], low, high)[0]
        labels = torch.from_numpy(self.dataset.labels(np.array([row]))[0])
        if self.label:
            labels = labels[self.label_names.index(self.label)].nan_to_num(self.UNKNOWN).long()
        return (image if self.transform is None else self.transform(image)), labels
