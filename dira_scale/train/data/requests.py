"""Requests to a loader for one step: which images, crops and flips. They are the same for every loader."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.errors import DatasetError
from dira_scale.train.data import random
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.foreground import Foreground
from dira_scale.train.data.groups import COLUMNS, Groups
from dira_scale.train.data.order import EvalOrder, Order, StepSamples
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.sizes import require_fit
from dira_scale.train.data.views import Distortion, Geometry, ViewSpec, draw
from dira_scale.train.data.views.distortion import Stream

# Samples whose views are drawn at once: for 16, NumPy takes as long as for these. The training thread draws them:
# another one takes the interpreter from it at each of so many short calls (beside 2,000 operations 15.6 ms instead of
# 10.7 ms in turn). With a helper other processes do.
TOGETHER = 256
FEW = 8  # steps, of which a share draws the views at once
Positions = Callable[[range, int, int], list[StepSamples]]


@dataclass(frozen=True)
class Request:
    """One rank's part of a step.

    Attributes:
        step, epoch: of the order; ``epoch`` is that of the views.
        index: int64 [b], the samples.
        occurrence: int64 [b], how often each came earlier in the epoch.
        images: per view int64 [b]: the sample whose image it shows.
        geometries: per view the crop boxes and flips, in pixels of the stored images.
        distortions: per view its parameters, for the training device.
        low, high, labels: as of a batch (``train.data.batch.Batch``).
    """

    step: int
    epoch: int
    index: np.ndarray
    occurrence: np.ndarray
    images: tuple[np.ndarray, ...]
    geometries: tuple[Geometry, ...]
    distortions: tuple[Distortion, ...]
    low: np.ndarray
    high: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.index)


class Requests:
    """The requests of an order's steps; arguments as in ``loaders.Loader``.

    Attributes:
        together: of how many steps ``of`` draws the views at once.
        share: which of how many parts of this rank's samples the requests have.

    Raises as :func:`~dira_scale.train.data.sizes.require_fit`, and DatasetError if ``pair`` makes no pair in training.
    """

    def __init__(
        self,
        samples: Samples,
        order: Order | EvalOrder,
        views: ViewSpec,
        seed: int,
        rank: int = 0,
        world: int = 1,
        fixed_epoch: int | None = None,
        classes: Collection[int] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        size = order.size if isinstance(order, EvalOrder) else order.split_size
        assert len(samples) == size, "order of other data"
        require_fit(samples, views)
        self.samples, self.order, self.views, self.seed = samples, order, views, seed
        self.rank, self.world, self.fixed_epoch, self.share = rank, world, fixed_epoch, share
        self._foreground = Foreground(samples, classes) if views.around_foreground else None
        most = FEW if share[1] > 1 else TOGETHER
        self.together = max(1, min(TOGETHER * world * share[1] // order.batch, most))
        self._groups = Groups(samples, views.pair) if views.pair in COLUMNS and views.count > 1 else None
        if self._groups and isinstance(order, Order) and not self._groups.several:
            roots = ", ".join(str(dataset.root) for dataset in samples.datasets)
            raise DatasetError(
                f"no two images of split '{samples.split}' of {roots} are of one {views.pair}, so both views would "
                "show the same",
                lacks=views.pair,
            )

    def of(self, steps: range, positions: Positions | None = None) -> Iterator[Request]:
        """This rank's parts of ``steps``, in order; of other ``positions`` than the order's."""
        for together in (steps[first : first + self.together] for first in range(0, len(steps), self.together)):
            parts = (positions or self.order.positions)(together, self.rank, self.world)
            own = [self.shared(len(part.index)) for part in parts]
            index = np.concatenate([part.index[rows] for part, rows in zip(parts, own, strict=True)])
            occurrence = np.concatenate([part.occurrence[rows] for part, rows in zip(parts, own, strict=True)])
            epochs = [part.epoch if self.fixed_epoch is None else self.fixed_epoch for part in parts]
            sizes = [rows.stop - rows.start for rows in own]
            epoch = np.repeat(epochs, sizes)
            images = [self._images(epoch, index, occurrence, view) for view in self.views.drawn_as]
            drawn = [
                draw(
                    self.views, self.seed, epoch, index, occurrence, view, *self.samples.sides(of_view),
                    spacing=None if self.views.spacing is None else self.samples.spacing(of_view),
                    around=self._around(epoch, index, occurrence, view, of_view),
                )
                for view, of_view in enumerate(images)
            ]  # fmt: skip
            low, high = (np.stack(ends, 1) for ends in zip(*map(self.samples.range, images), strict=True))
            labels, first = self.samples.labels(index), 0
            for step, size, views_epoch in zip(together, sizes, epochs, strict=True):
                span = slice(first, first := first + size)
                geometries, distortions = zip(*((box[span], values[span]) for box, values in drawn), strict=True)
                yield Request(
                    step, views_epoch, index[span], occurrence[span], tuple(of_view[span] for of_view in images),
                    geometries, distortions, low[span], high[span], None if labels is None else labels[span],
                )  # fmt: skip

    def shared(self, samples: int) -> slice:
        """Return which of so many samples of this rank the share has."""
        part, parts = self.share
        return slice(samples * part // parts, samples * (part + 1) // parts)

    def example(self, masks: bool) -> Batch:
        """Return a batch of the first sample, for what its arrays are like."""
        request = next(self.of(range(1), lambda *_: [StepSamples(0, *np.zeros((2, self.share[1]), np.int64))]))
        mask = self.empty_mask(request, pinned=False) if masks else None
        return self.batch(request, self.empty_views(request, pinned=False), mask)

    def _images(self, epoch: np.ndarray, index: np.ndarray, occurrence: np.ndarray, view: int) -> np.ndarray:
        """Return whose image ``view`` of each sample shows: its own, or another one of its group."""
        if self._groups is None or view == 0:
            return index
        others = self._groups.others(index)
        images, several = index.copy(), others > 0
        epoch, index, occurrence = epoch[several], index[several], occurrence[several]
        u = random.uniform(self.seed, epoch, index, occurrence, view, 1, Stream.PARTNER)[:, 0]
        images[several] = self._groups.other(index, random.integers(u, 0, others[several] - 1))
        return images

    def _around(
        self, epoch: np.ndarray, index: np.ndarray, occurrence: np.ndarray, view: int, of_view: np.ndarray
    ) -> np.ndarray | None:
        """Return a voxel of the foreground of each image ``of_view``."""
        if self._foreground is None:
            return None
        u = random.uniform(self.seed, epoch, index, occurrence, view, 2, Stream.FOREGROUND, first=4)
        return self._foreground.draw(of_view, u)

    def empty_views(self, request: Request, pinned: bool) -> tuple[Tensor, ...]:
        """Per view an uninitialised tensor [b, C, *size] of the stored type, to be filled."""
        shape = len(request), self.samples.channels
        return tuple(
            torch.empty(*shape, *view.sides, dtype=self.samples.dtype, pin_memory=pinned) for view in self.views.each
        )

    def empty_mask(self, request: Request, pinned: bool) -> Tensor:
        """Return an uninitialised tensor [b, V, *size] for ``loaders.cpu.fill_masks``."""
        shape = len(request), self.views.count, *self.views.sides
        return torch.empty(shape, dtype=torch.int16, pin_memory=pinned)

    def batch(self, request: Request, views: tuple[Tensor, ...], mask: Tensor | None = None) -> Batch:
        """Return the batch whose ``views``, cropped, resized and flipped, a loader has made or is about to fill.

        ``mask``: int16 [b, V, *size], if masks were asked for.
        """
        labels, chosen = request.labels, self.samples.chosen
        if labels is not None and chosen is not None and any(chosen.smoothed):
            of = self.seed, request.epoch, request.index, request.occurrence
            labels = chosen.smooth(labels, random.uniform(*of, 0, labels.shape[1], Stream.LABELS))
        return Batch(
            views,
            request.distortions,
            torch.from_numpy(request.index),
            torch.from_numpy(request.low),
            torch.from_numpy(request.high),
            request.step,
            request.epoch,
            None if labels is None else torch.from_numpy(labels),
            mask,
            flips=tuple(torch.from_numpy(geometry.flip) for geometry in request.geometries),
            images=torch.from_numpy(np.stack(request.images, 1)),
        )
