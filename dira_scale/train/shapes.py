"""The shapes of what a loader would return: enough to rehearse a task's step without its data."""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch

from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.data.views.distortion import ViewNumbers
from dira_scale.train.engine.task import TaskBatch


class Shapes(Protocol):
    """A task's data by the shapes and types of its tensors."""

    def batch(self, samples: int) -> TaskBatch:
        """A rank's batch as its loader would return it, of arbitrary values."""

    def resized(self, size: int) -> Self:
        """Return the same with views of a stage's size (``StagePlan.size``)."""


@dataclass(frozen=True)
class ViewShapes:
    """Views of images or volumes in sharded datasets."""

    views: ViewSpec
    channels: int = 1
    dtype: torch.dtype = torch.uint8  # of the stored pixels
    labels: int | None = None  # how many each sample has; None: the batch has none
    mask: bool = False  # whether the batch has masks

    def resized(self, size: int) -> Self:
        return replace(self, views=self.views.resized(size))

    def batch(self, samples: int) -> Batch:
        """See :class:`Shapes`. Distortions are really drawn: how many there are depends on the views."""
        count, index = self.views.count, np.arange(samples)
        ends = samples, count, *([self.channels] if self.channels > 1 else [])  # each channel has a range of its own
        drawn = []
        for view in self.views.entries:
            stored = np.tile(view.least or view.sides, (samples, 1))
            drawn += [view.draw(ViewNumbers(0, 0, index, np.zeros(samples, np.int64), 0), stored, None)[1]] * view.count
        return Batch(
            views=tuple(torch.empty(samples, self.channels, *view.sides, dtype=self.dtype) for view in self.views.each),
            distortions=tuple(drawn),
            index=torch.empty(samples, dtype=torch.int64),
            low=torch.empty(*ends),
            high=torch.empty(*ends),
            step=0,
            epoch=0,
            labels=None if self.labels is None else torch.empty(samples, self.labels),
            mask=torch.empty(samples, count, *self.views.sides, dtype=torch.int16) if self.mask else None,
            flips=tuple(torch.empty(samples, self.views.dimensions, dtype=torch.bool) for _ in range(count)),
            images=torch.empty(samples, count, dtype=torch.int64),
        )
