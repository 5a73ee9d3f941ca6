"""Metrics for people's own tools."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Numbers of a metrics row as scalars named ``split/key``; what a killed run wrote after ``step`` is dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._purge = str(folder), step + 1
        self._writer: SummaryWriter | None = None

    def add(self, step: int, row: dict[str, Any]) -> None:
        """Write every number of ``row``. After an ``OSError``, as of a full disk, the next call begins a new file."""
        try:
            if self._writer is None:
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
