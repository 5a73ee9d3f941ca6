"""Metrics for TensorBoard."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported with the first row: a step is benchmarked where it is not installed
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes a metrics row's numbers as scalars ``split/key``; drops what a killed run wrote after ``step``."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._purge = str(folder), step + 1
        self._writer: SummaryWriter | None = None

    def add(self, step: int, row: dict[str, Any]) -> None:
        """Write every number of ``row``. After an ``OSError``, such as a full disk, the next call starts a new file."""
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(self._folder, purge_step=self._purge)
            for key, value in row.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"{row['split']}/{key}", value, step)
        except OSError:
            self._writer, self._purge = None, step
            raise

    def close(self) -> None:
        """Flush to the disk."""
        if self._writer is not None:
            self._writer.close()
