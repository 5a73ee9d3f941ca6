"""Metrics for people's own tools."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Numbers of a metrics row as scalars named ``split/key``; what a killed run wrote after ``step`` is dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, step: int, row: dict[str, Any]) -> None:
        """Write every number of ``row``."""
        for key, value in row.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{row['split']}/{key}", value, step)

    def close(self) -> None:
        """Flush to the disk."""
        self._writer.close()
