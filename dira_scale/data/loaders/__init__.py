"""From stored bytes to batches. Every loader delivers the same samples and views, up to its resampling filter."""

from collections.abc import Generator
from typing import Protocol

from dira_scale.data.batch import Batch


class Loader(Protocol):
    """What the training loop needs of a loader.

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
