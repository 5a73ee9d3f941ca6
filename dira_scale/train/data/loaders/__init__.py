"""From stored bytes to batches. Every loader returns the same samples and views, up to its resampling filter."""

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.labels import Columns
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.views import ViewSpec

if TYPE_CHECKING:  # also where no shards are, hence no pyarrow
    from dira_scale.dataset.manifest import ShardedDataset


@dataclass(frozen=True)
class LoaderSpec:
    """The arguments that every loader gets.

    Attributes:
        datasets: one, or a mixture.
        split: of every dataset.
        order: made for these splits; ``order.batch_at(step, rank, world)`` gives this process's samples, counted over
            all datasets.
        views: of each sample; ``views.draw`` gives crops, flips and distortions.
        seed: of the views.
        rank, world: this process and their number.
        workers: decoding threads.
        prefetch: batches prepared ahead.
        fixed_epoch: always draw the views of this epoch (evaluation); None: the order's epoch.
        masks: whether batches have ``mask``; not of views of several sizes.
        classes: the values in masks around whose voxels crops are drawn (``ViewSpec.foreground``); None: all.
        labels: those that batches have; None: all, where the datasets have the same.
        device: where the batches are wanted; a loader may leave them on the host.
        share: which of how many parts of this rank's samples are wanted; one of several only of the loaders of this
            package (``loaders.helper``).
    """

    datasets: Sequence["ShardedDataset"]
    split: str
    order: Order | EvalOrder
    views: ViewSpec
    seed: int
    rank: int = 0
    world: int = 1
    workers: int = 1
    prefetch: int = 4
    fixed_epoch: int | None = None
    masks: bool = False
    classes: Collection[int] | None = None
    labels: Columns | None = None
    device: torch.device | str = "cpu"
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.masks and not self.views.one_size:
            raise ArgumentError("views", UNSHOWN, "crops of one size, as masks are: leave the sizes out")


@runtime_checkable
class Loader(Protocol):
    """The interface of loaders that the training loop needs.

    ``build.LoaderChoice.build`` constructs it with a ``LoaderSpec``, plus the settings beside ``_target_`` in
    ``data.loader`` as keyword arguments.

    Its constructor raises ValueError, or DatasetError, if it cannot read the datasets.
    """

    def seconds(self) -> Mapping[str, float]:
        """So far, by part: at least ``wait``, which the consumer has waited for batches. The loader's own parts
        (``device_copies.PARTS``) are of all its threads together."""
        ...

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of the steps from ``start_step`` up to but excluding ``stop_step``, in order.

        Prefetching may read ahead but is never part of saved state. Closing the iterator early stops all its threads.
        Raises DatasetError naming dataset, sample and shard when a sample cannot be read.
        """
        ...
