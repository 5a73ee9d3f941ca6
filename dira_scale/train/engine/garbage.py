"""Python's garbage in cycles, collected after the same steps on all ranks.

Python looks for it whenever enough objects were made, on each process at another moment, and all others wait for that
process in their next collective: with this package loaded a full search takes 0.2 s. So it is searched for after fixed
steps, as torchtitan does. What exists when a stage begins is left out, so that a search is short and may be a full one:
1 to 12 ms. Steps of ours leave no tensor in a cycle, so nothing large waits for it.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 50  # steps: torchtitan's gc_freq


class Garbage:
    """Around the steps of a stage, and told of each; use as a context manager."""

    def __enter__(self) -> "Garbage":
        self._before = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, *error: object) -> None:
        gc.unfreeze()
        if self._before:
            gc.enable()

    def at(self, step: int) -> None:
        if step % EVERY == 0:
            gc.collect()

    @staticmethod
    @contextmanager
    def whenever() -> Iterator[None]:
        """Inside, as usual: in a validation processes do not wait for each other, and it may be long."""
        before = gc.isenabled()
        gc.enable()
        try:
            yield
        finally:
            if not before:
                gc.disable()
