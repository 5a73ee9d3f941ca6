"""Held-out images at the end of a stage: a grid of clean, distorted and restored ones, and the restoration table."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dira_scale.base.storage.atomic import write_atomic, write_json
from dira_scale.dataset.metrics.restoration import RestorationTable
from dira_scale.pretrain.objective import Objective
from dira_scale.train.data.geometry.orientation import reorient
from dira_scale.train.data.views import ViewSpec, VolumeViews
from dira_scale.train.engine.task import StagePlan
from dira_scale.train.engine.watchdog import alive
from dira_scale.train.held_out import HeldOutBatches
from dira_scale.train.validation import evaluating

GAP = 4  # pixels between pictures
WIDEST = 96  # pixels: planes of volumes are enlarged up to it, by a whole number


@dataclass
class Restoration:
    """A batch of images or volumes, each [b, C, *size] in [0, 1].

    Attributes:
        hole: where a cutout, a mask or a painting has replaced the distorted one.
        mirrored: bool [b, n], along which axes all are.
        spacing: [b, n], of volumes: the extent of a view's voxel on each axis.
    """

    clean: Tensor
    distorted: Tensor
    hole: Tensor
    restored: Tensor
    mirrored: Tensor
    spacing: np.ndarray


@torch.no_grad()
def draw_restorations(
    folder: Path,
    stage: StagePlan,
    objective: Objective,
    method: nn.Module,
    held_out: HeldOutBatches,
    rows: int,
    spacing: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Write a stage's picture grid and its restoration table, which includes trivial restorers, on one process.

    ``spacing``: of samples [b] the extent of a view's voxel on each axis, [b, n]; called for volumes only.
    """
    with evaluating(method):
        write_pictures(folder, stage.name, _restorations(objective, method, held_out, stage.terms, spacing), rows)


def view_spacing(views: ViewSpec, stored: np.ndarray) -> np.ndarray:
    """The millimetres between the voxels of first views of volumes whose own are ``stored`` [b, n], NaN where unknown:
    then the axes count alike."""
    first = views.each[0]
    mm = stored if views.spacing is None else np.broadcast_to(np.asarray(views.spacing, np.float64), stored.shape)
    # Resized to the view; others are taken as of its shape.
    extent = first.extents[0] if isinstance(first, VolumeViews) and first.extents else first.sides
    steps: np.ndarray = np.where(np.isnan(mm).any(1, keepdims=True), 1.0, mm)
    return steps * extent / first.sides


def _restorations(
    objective: Objective,
    method: nn.Module,
    held_out: HeldOutBatches,
    terms: Sequence[str],
    spacing: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Restoration]:
    for stored, _ in held_out.batches():
        alive()
        batch = stored.to(objective.world.device)
        distorted = objective.distorted(batch, terms)
        outputs = objective.forward(method, batch, distorted)
        assert outputs.target is not None and outputs.restored is not None
        if batch.distortions[0].corruptions:  # what they fill is the same in a black image and in a white one
            plain = (replace(batch, views=tuple(torch.full_like(x, value) for x in batch.views)) for value in (0, 1))
            black, white = (objective.seen(objective.distorted(images, terms), batch) for images in plain)
            holes = tuple(of_black == of_white for of_black, of_white in zip(black, white, strict=True))
        else:
            undisturbed = objective.distorted(batch, terms, corrupt=False)
            holes = tuple((after == 0) & (x != 0) for after, x in zip(distorted, undisturbed, strict=True))
        # In the target's orientation, so that trivial restorers are not penalised for a flipped input.
        view, hole = (objective.upright(views, batch)[0] for views in (objective.seen(distorted, batch), holes))
        if outputs.orientation is not None:
            view, hole = (reorient(x, outputs.orientation) for x in (view, hole))
        count = len(hole)  # of the first view: a method may restore several
        mirrored = batch.flips[0] if objective.target_flip == "with_input" else torch.zeros_like(batch.flips[0])
        extent = spacing(batch.index.cpu().numpy()) if view.dim() == 5 else np.ones(mirrored.shape)
        yield Restoration(outputs.target[:count], view, hole, outputs.restored[:count], mirrored, extent)


def write_pictures(folder: Path, stage: str, batches: Iterable[Restoration], rows: int) -> None:
    """Write the stage's rows of ``restoration.json``, then ``{stage}.png``: of ``rows`` images a row each, of volumes
    one for each axis. Each channel is an image of its own, but those that are lacking; an image in colour is one."""
    table, grid, drawn = RestorationTable(), list[np.ndarray](), 0
    for batch in batches:
        parts, channels = (batch.clean, batch.distorted, batch.hole, batch.restored), batch.clean.shape[1]
        if colour := batch.clean.dim() == 4 and channels == 3:
            channels = 1
        arrays = ((part if colour else part.flatten(0, 1)).float().cpu().numpy() for part in parts)
        geometry = (np.repeat(values, channels, 0) for values in (batch.mirrored.cpu().numpy(), batch.spacing))
        for clean, distorted, hole, restored, mirrored, spacing in zip(*arrays, *geometry, strict=True):
            if np.array_equal(restored, clean):
                continue  # a mask hides nothing of it, or the channel is lacking
            table.add(clean, distorted, hole > 0, restored, colour)
            if drawn < rows:
                drawn += 1
                pictures = (clean, distorted, restored)
                axes = tuple(np.flatnonzero(mirrored).tolist())
                if colour:
                    columns = [[np.moveaxis(part, 0, -1)] for part in pictures]
                elif clean.ndim == 3:
                    columns = [middle_planes(np.flip(part, axes), spacing) for part in pictures]
                else:
                    columns = [[part] for part in pictures]
                for row in zip(*columns, strict=True):
                    around = [(GAP // 2, GAP // 2)] * 2 + [(0, 0)] * colour
                    padded = [np.pad(picture, around, constant_values=0.5) for picture in row]
                    grid.append(np.concatenate(padded, axis=1))
    path = folder / "restoration.json"
    before = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [row for row in before if row["stage"] != stage] + table.rows(stage))
    if not drawn:
        return
    encoded = BytesIO()
    Image.fromarray((np.concatenate(grid).clip(0, 1) * 255).round().astype(np.uint8)).save(encoded, "PNG")
    write_atomic(folder / f"{stage}.png", encoded.getvalue())


def middle_planes(volume: np.ndarray, spacing: Sequence[float]) -> list[np.ndarray]:
    """Return the planes in the middle of each axis of a volume [D, H, W]: axial, coronal, sagittal, as radiologists see
    them.

    The patient's head is up, the front up or to the left, and a voxel as high and as wide as ``spacing`` says. All are
    padded to one width.
    """
    extents = np.array(volume.shape) * spacing / np.min(spacing)
    extents *= max(1, WIDEST // extents[1:].max())
    height, *sides = np.maximum(1, extents.round().astype(int))
    upright = volume[::-1]  # the first slice is at the feet
    depth, rows, columns = (side // 2 for side in volume.shape)
    planes = (
        (volume[depth], (sides[0], sides[1])),
        (upright[:, rows], (height, sides[1])),
        (upright[:, :, columns], (height, sides[0])),
    )
    resized = []
    for plane, (high, wide) in planes:
        picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        resized.append(np.asarray(picture.resize((int(wide), int(high)), Image.Resampling.BILINEAR)))
    width = max(plane.shape[1] for plane in resized)
    return [np.pad(plane, ((0, 0), (0, width - plane.shape[1])), constant_values=0.5) for plane in resized]
