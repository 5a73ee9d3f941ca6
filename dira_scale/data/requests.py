"""What one step asks of a loader: which images, which crops, which flips. The same for every loader."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.order import EvalOrder, Order, Positions
from dira_scale.data.patients import Patients
from dira_scale.data.samples import Samples
from dira_scale.data.views import Distortion, Geometry, ViewSpec, draw, draw_partner


@dataclass(frozen=True)
class Request:
    """One rank's part of a step.

    Attributes:
        step, epoch: of the order; ``epoch`` is that of the views.
        index: int64 [b], the samples.
        images: per view int64 [b]: the sample whose image it shows.
        geometries: per view the crop boxes and flips, in pixels of the stored images.
        distortions: per view its parameters, for the training device.
    """

    step: int
    epoch: int
    index: np.ndarray
    images: tuple[np.ndarray, ...]
    geometries: tuple[Geometry, ...]
    distortions: tuple[Distortion, ...]

    def __len__(self) -> int:
        return len(self.index)


class Requests:
    """The requests of an order's steps; arguments as in ``loaders.Loader``.

    Raises UserError when the datasets are not what the order was made for.
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
    ) -> None:
        size = order.size if isinstance(order, EvalOrder) else sum(order.sizes)
        assert len(samples) == size, "order of other data"
        self.samples, self.order, self.views, self.seed = samples, order, views, seed
        self.rank, self.world, self.fixed_epoch = rank, world, fixed_epoch
        self._patients = Patients(samples) if views.pair == "patient" and views.count > 1 else None

    def at(self, step: int) -> Request:
        """This rank's part of ``step``."""
        positions = self.order.batch_at(step, self.rank, self.world)
        index, epoch = positions.index, positions.epoch if self.fixed_epoch is None else self.fixed_epoch
        images = tuple(self._shown(epoch, positions, view) for view in range(self.views.count))
        geometries, distortions = zip(
            *(
                draw(self.views, self.seed, epoch, index, positions.occurrence, view, *self._sides(shown))
                for view, shown in enumerate(images)
            ),
            strict=True,
        )
        return Request(step, epoch, index, images, geometries, distortions)

    def _shown(self, epoch: int, positions: Positions, view: int) -> np.ndarray:
        """Whose image ``view`` of each sample shows: its own, or another one of its patient."""
        index, occurrence = positions.index, positions.occurrence
        if self._patients is None or view == 0:
            return index
        others = self._patients.others(index)
        shown, several = index.copy(), others > 0
        index, occurrence = index[several], occurrence[several]
        number = draw_partner(self.seed, epoch, index, occurrence, view, others[several])
        shown[several] = self._patients.other(index, number)
        return shown

    def _sides(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.samples.column("height", images), self.samples.column("width", images)

    def empty_views(self, request: Request, pinned: bool) -> tuple[Tensor, ...]:
        """Per view an uninitialised tensor [b, C, S, S] of the stored type, to be filled."""
        shape = len(request), self.samples.channels, self.views.size, self.views.size
        return tuple(torch.empty(shape, dtype=self.samples.dtype, pin_memory=pinned) for _ in range(self.views.count))

    def empty_mask(self, request: Request) -> Tensor:
        """An uninitialised tensor [b, V, S, S] for ``masks.fill_masks``."""
        size = self.views.size
        return torch.empty((len(request), self.views.count, size, size), dtype=torch.uint8)

    def batch(self, request: Request, views: tuple[Tensor, ...], mask: Tensor | None = None) -> Batch:
        """The batch whose ``views``, cropped, resized and flipped, a loader has made or is about to fill.

        ``mask``: uint8 [b, V, S, S], if masks were asked for.
        """
        low, high = (
            torch.from_numpy(np.stack([self.samples.column(name, images) for images in request.images], 1))
            for name in ("low", "high")
        )
        labels = self.samples.labels(request.index)
        return Batch(
            views,
            request.distortions,
            torch.from_numpy(request.index),
            low,
            high,
            request.step,
            request.epoch,
            None if labels is None else torch.from_numpy(labels),
            mask,
            flips=tuple(torch.from_numpy(geometry.flip) for geometry in request.geometries),
            images=torch.from_numpy(np.stack(request.images, 1)),
        )
