"""Held-out images as a stage leaves them: a grid of clean, distorted and restored, and the restoration table."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dira_scale.eval.restoration import RestorationTable
from dira_scale.files import write_json

GAP = 4  # pixels between pictures


def write_pictures(folder: Path, stage: str, images: Iterable[tuple[Tensor, Tensor, Tensor]], rows: int) -> None:
    """Write ``{stage}.png``, a row an image, and the stage's rows of ``restoration.json``.

    Args:
        images: batches of clean, distorted and restored, each [b, 1, S, S] in [0, 1].
    """
    table = RestorationTable()
    grid: list[np.ndarray] = []
    for batch in images:
        for triple in zip(*(part[:, 0].float().cpu().numpy() for part in batch), strict=True):
            table.add(*triple)
            if len(grid) < rows:
                grid.append(
                    np.concatenate([np.pad(picture, GAP // 2, constant_values=1.0) for picture in triple], axis=1)
                )
    if not grid:
        return
    eight_bits = (np.concatenate(grid).clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(eight_bits).save(folder / f"{stage}.png")
    path = folder / "restoration.json"
    before = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [row for row in before if row["stage"] != stage] + table.rows(stage))
