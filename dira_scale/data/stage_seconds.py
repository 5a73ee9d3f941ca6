"""Where a loader's time goes."""

from threading import Lock

WAIT = "wait"  # of the training process, for a batch
PARTS = ("read", "decode", "transform", "copy")  # of the loader's threads, side by side


class StageSeconds:
    """Seconds so far, by part; threads add to it.

    ``wait`` passes in the training process; ``read`` (bytes from shards, and their checksums), ``decode``,
    ``transform`` (crop, resize, flip) and ``copy`` (to the device) in all threads together. ``more``: further sums of a
    loader's own, not always seconds.
    """

    def __init__(self, *more: str) -> None:
        self._lock = Lock()
        self._seconds = dict.fromkeys((WAIT, *PARTS, *more), 0.0)

    def add(self, **seconds: float) -> None:
        with self._lock:
            for part, value in seconds.items():
                self._seconds[part] += value

    def __call__(self) -> dict[str, float]:
        """A copy."""
        with self._lock:
            return dict(self._seconds)
