"""From stored bytes to batches. Every loader returns the same samples and views, up to its resampling filter."""

from collections.abc import Generator, Mapping
from typing import Protocol, runtime_checkable

from dira_scale.data.batch import Batch


@runtime_checkable
class Loader(Protocol):
    """What the training loop needs from a loader.

    ``build.LoaderChoice.build`` constructs it with these keyword arguments, plus the settings beside ``_target_`` in
    ``data.loader``:

    * ``datasets``: a list of ``ShardedDataset``, one or a mixture; ``split``: of every dataset.
    * ``order``: an ``Order`` or ``EvalOrder``, made for these splits; ``order.batch_at(step, rank, world)``
      gives this process's samples, counted over all datasets. ``rank``, ``world``: this process and their number.
    * ``views``: a ``ViewSpec``; ``seed``: of the views. ``views.draw`` gives crops, flips and distortions.
    * ``fixed_epoch``: always draw the views of this epoch (evaluation); None = the order's epoch.
    * ``workers``: decoding threads; ``prefetch``: batches prepared ahead.
    * ``masks``: whether batches have ``mask``.
    * ``device``: where the batches are wanted; a loader may leave them on the host.

    Its constructor raises UserError if it cannot read the datasets.
    """

    def seconds(self) -> Mapping[str, float]:
        """So far, by part: at least ``wait``, which the consumer has waited for batches. The loader's own parts
        (``stage_seconds.PARTS``) are of all its threads together."""
        ...

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of the steps from ``start_step`` up to but excluding ``stop_step``, in order.

        Prefetching may read ahead but is never part of saved state. Closing the iterator early stops all its threads.
        Raises UserError naming dataset, sample and shard when a sample cannot be read.
        """
        ...
