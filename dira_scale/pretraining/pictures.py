"""Held-out images at the end of a stage: a grid of clean, distorted and restored ones, and the restoration table."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.geometry.orientation import reorient
from dira_scale.engine.task import StagePlan
from dira_scale.engine.watchdog import alive
from dira_scale.methods.restoration import MASK, hidden_voxels
from dira_scale.metrics.restoration import RestorationTable
from dira_scale.places.atomic import write_atomic, write_json
from dira_scale.pretraining.objective import Objective
from dira_scale.training.held_out import HeldOutBatches
from dira_scale.training.validation import evaluating

GAP = 4  # pixels between pictures


@dataclass
class Restoration:
    """A batch of images or volumes, each [b, 1, *size] in [0, 1]; ``hole``: where a cutout zeroed the distorted one, or
    a mask hides it."""

    clean: Tensor
    distorted: Tensor
    hole: Tensor
    restored: Tensor


@torch.no_grad()
def draw_restorations(
    folder: Path, stage: StagePlan, objective: Objective, method: nn.Module, held_out: HeldOutBatches, rows: int
) -> None:
    """Write a stage's picture grid and its restoration table, which includes trivial restorers, on one process."""
    with evaluating(method):
        write_pictures(folder, stage.name, _restorations(objective, method, held_out, stage.terms), rows)


def _restorations(
    objective: Objective, method: nn.Module, held_out: HeldOutBatches, terms: Sequence[str]
) -> Iterator[Restoration]:
    for stored, _ in held_out.batches():
        alive()
        batch = stored.to(objective.world.device)
        distorted = objective.distorted(batch, terms)
        outputs = objective.forward(method, batch, distorted)
        assert outputs.target is not None and outputs.restored is not None
        undisturbed = objective.distorted(batch, terms, corrupt=False)
        # In the target's orientation, so that trivial restorers are not penalised for a flipped input.
        shown, before, hidden = (
            objective.upright(views, batch)[0] for views in (distorted, undisturbed, _hidden(batch, distorted))
        )
        if outputs.orientation is not None:
            shown, before, hidden = (reorient(view, outputs.orientation) for view in (shown, before, hidden))
        hole = hidden | ((shown == 0) & (before != 0))
        count = len(hole)  # of the first view: a method may restore several
        yield Restoration(outputs.target[:count], shown, hole, outputs.restored[:count])


def _hidden(batch: Batch, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Per view bool [b, 1, *size]: what its mask hides, if it has one."""
    if MASK not in batch.distortions[0].corruptions:
        return tuple(torch.zeros_like(view, dtype=torch.bool) for view in views)
    return tuple(hidden_voxels(batch, number, view.shape[2:]) for number, view in enumerate(views))


def write_pictures(folder: Path, stage: str, batches: Iterable[Restoration], rows: int) -> None:
    """Write the stage's rows of ``restoration.json``, then ``{stage}.png``: of ``rows`` images a row each, of volumes
    one for each axis."""
    table, grid, drawn = RestorationTable(), list[np.ndarray](), 0
    for batch in batches:
        parts = (batch.clean, batch.distorted, batch.hole, batch.restored)
        for clean, distorted, hole, restored in zip(*(part[:, 0].float().cpu().numpy() for part in parts), strict=True):
            table.add(clean, distorted, hole > 0, restored)
            if drawn < rows:
                drawn += 1
                for row in zip(*map(middle_planes, (clean, distorted, restored)), strict=True):
                    padded = [np.pad(picture, GAP // 2, constant_values=0.5) for picture in row]
                    grid.append(np.concatenate(padded, axis=1))
    path = folder / "restoration.json"
    before = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [row for row in before if row["stage"] != stage] + table.rows(stage))
    encoded = BytesIO()
    Image.fromarray((np.concatenate(grid).clip(0, 1) * 255).round().astype(np.uint8)).save(encoded, "PNG")
    write_atomic(folder / f"{stage}.png", encoded.getvalue())


def middle_planes(image: np.ndarray) -> list[np.ndarray]:
    """An image [H, W] as it is; of a volume [D, H, W] the plane in the middle of each axis (axial, coronal, sagittal),
    all as wide as the widest."""
    if image.ndim == 2:
        return [image]
    planes = [image.take(side // 2, axis) for axis, side in enumerate(image.shape)]
    width = max(plane.shape[1] for plane in planes)
    return [np.pad(plane, ((0, 0), (0, width - plane.shape[1])), constant_values=0.5) for plane in planes]
