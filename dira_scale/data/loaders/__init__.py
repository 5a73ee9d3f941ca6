"""From stored bytes to batches. Every loader returns the same samples and views, up to its resampling filter."""

from collections.abc import Generator
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

    Its constructor raises UserError if it cannot read the datasets.

    Attributes:
        waited: seconds that the consumer has waited for batches so far.
    """

    waited: float

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of the steps from ``start_step`` up to but excluding ``stop_step``, in order.

        Prefetching may read ahead but is never part of saved state. Closing the iterator early stops all its threads.
        Raises UserError naming dataset, sample and shard when a sample cannot be read.
        """
        ...
