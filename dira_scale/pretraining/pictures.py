"""Held-out images at the end of a stage: a grid of clean, distorted and restored ones, and the restoration table."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dira_scale.metrics.restoration import RestorationTable
from dira_scale.places.atomic import write_atomic, write_json

GAP = 4  # pixels between pictures


@dataclass
class Restoration:
    """A batch of images, each [b, 1, S, S] in [0, 1]; ``hole`` is True where a cutout zeroed the distorted image."""

    clean: Tensor
    distorted: Tensor
    hole: Tensor
    restored: Tensor


def write_pictures(folder: Path, stage: str, batches: Iterable[Restoration], rows: int) -> None:
    """Write the stage's rows of ``restoration.json``, then ``{stage}.png`` with one row per image."""
    table = RestorationTable()
    grid: list[np.ndarray] = []
    for batch in batches:
        parts = (batch.clean, batch.distorted, batch.hole, batch.restored)
        for clean, distorted, hole, restored in zip(*(part[:, 0].float().cpu().numpy() for part in parts), strict=True):
            table.add(clean, distorted, hole > 0, restored)
            if len(grid) < rows:
                row = [np.pad(picture, GAP // 2, constant_values=1.0) for picture in (clean, distorted, restored)]
                grid.append(np.concatenate(row, axis=1))
    path = folder / "restoration.json"
    before = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [row for row in before if row["stage"] != stage] + table.rows(stage))
    encoded = BytesIO()
    Image.fromarray((np.concatenate(grid).clip(0, 1) * 255).round().astype(np.uint8)).save(encoded, "PNG")
    write_atomic(folder / f"{stage}.png", encoded.getvalue())
