"""From stored bytes to batches. Every loader delivers the same samples and views, up to its resampling filter."""

from collections.abc import Generator
from typing import Protocol, runtime_checkable

from dira_scale.data.batch import Batch


@runtime_checkable
class Loader(Protocol):
    """What the training loop needs of a loader.

    ``build.LoaderChoice.build`` constructs it with these keyword arguments, and with the settings beside ``_target_``
    in ``data.loader``:

    * ``datasets``: a list of ``ShardedDataset``, one or a mixture; ``split``: of every dataset.
    * ``order``: an ``Order`` or ``EvalOrder``, made for these splits; ``order.batch_at(step, rank, world)``
      names this process's samples, counted over all datasets. ``rank``, ``world``: this process and their number.
    * ``views``: a ``ViewSpec``; ``seed``: of the views. ``views.draw`` gives crops, flips and distortions.
    * ``fixed_epoch``: draw the views of this epoch always (evaluation); None = the order's.
    * ``workers``: decoding threads; ``prefetch``: batches in preparation while one is in use.

    Its constructor raises UserError where it cannot read such datasets.

    Attributes:
        waited: seconds that the consumer has stood waiting for batches so far.
    """

    waited: float

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of the steps from ``start_step`` up to, not including, ``stop_step``, in order.

        Prefetching may read ahead; it is no part of any state. Closing the iterator early leaves nothing running.
        Raises UserError naming dataset, sample and shard when a sample cannot be read.
        """
        ...
