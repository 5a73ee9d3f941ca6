"""What one step asks of a loader: which images, which crops, which flips. The same for every loader."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.order import EvalOrder, Order
from dira_scale.data.samples import Samples
from dira_scale.data.views import Distortion, Geometry, ViewSpec, draw


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

    def at(self, step: int) -> Request:
        """This rank's part of ``step``."""
        positions = self.order.batch_at(step, self.rank, self.world)
        index, epoch = positions.index, positions.epoch if self.fixed_epoch is None else self.fixed_epoch
        sides = self.samples.column("height", index), self.samples.column("width", index)
        geometries, distortions = zip(
            *(
                draw(self.views, self.seed, epoch, index, positions.occurrence, view, *sides)
                for view in range(self.views.count)
            ),
            strict=True,
        )
        return Request(step, epoch, index, (index,) * self.views.count, geometries, distortions)

    def empty_views(self, request: Request, pinned: bool) -> tuple[Tensor, ...]:
        """Per view an uninitialised tensor [b, C, S, S] of the stored type, to be filled."""
        shape = len(request), self.samples.channels, self.views.size, self.views.size
        return tuple(torch.empty(shape, dtype=self.samples.dtype, pin_memory=pinned) for _ in range(self.views.count))

    def batch(self, request: Request, views: tuple[Tensor, ...]) -> Batch:
        """The batch whose ``views``, cropped, resized and flipped, a loader has made or is about to fill."""
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
            flips=tuple(torch.from_numpy(geometry.flip) for geometry in request.geometries),
        )
