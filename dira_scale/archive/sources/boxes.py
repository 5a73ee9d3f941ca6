"""A CSV of findings: boxes in pixels, blocks in voxels, or balls in millimetres."""

from collections.abc import Iterator
from pathlib import Path

from dira_scale.archive.imaging.boxes import Ball, Box, clip_box
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.sources.label_columns import number
from dira_scale.base.errors import UserError
from dira_scale.base.storage.tables import read_table

VOXELS = ("z", "y", "x", "d", "h", "w")
WORLD = ("coordX", "coordY", "coordZ", "diameter_mm")  # LUNA16's names; DICOM's mm, to the left, back and head


def read_boxes(path: Path) -> Iterator[tuple[str, Box]]:
    """Each line's file and box. Raises UserError if a side is not a number, negative or empty."""
    for row in read_table(path, ["file", "label", *"yxhw"], "a file of boxes"):
        where = f"{path}, line {row.line}"
        box = Box(row.cells["label"], *(number(row.cells[side], f"{where}, {side}") for side in "yxhw"))
        if not (box.y >= 0 and box.x >= 0 and box.h > 0 and box.w > 0):
            raise UserError(f"{where}: a box needs y and x of at least 0, h and w above 0, all in pixels")
        yield row.cells["file"], box


def read_findings(path: Path) -> Iterator[tuple[str, Box | Ball]]:
    """Each line's file and finding. Raises UserError for a missing column, an invalid number or an empty side."""
    first = next(read_table(path, ["file"], "a file of boxes"), None)
    kind = WORLD if first and WORLD[0] in first.cells else VOXELS
    named = ["label", *VOXELS] if kind is VOXELS else WORLD
    for row in read_table(path, ["file", *named], f"boxes have {', '.join(VOXELS)}, or {', '.join(WORLD)}"):
        where = f"{path}, line {row.line}"
        label = row.cells.get("label", "")
        values = [number(row.cells[column], f"{where}, {column}") for column in kind]
        if any(value != value for value in values):
            raise UserError(f"{where}: a cell of {', '.join(kind)} is empty")
        if kind is WORLD:
            x, y, z, diameter = values
            if diameter <= 0:
                raise UserError(f"{where}: diameter_mm must be above 0")
            yield row.cells["file"], Ball(label, (-x, -y, z), diameter)
        else:
            z, y, x, d, h, w = values
            if min(z, y, x) < 0 or min(d, h, w) <= 0:
                raise UserError(f"{where}: a box needs z, y and x of at least 0, d, h and w above 0, all in voxels")
            yield row.cells["file"], Box(label, y=y, x=x, h=h, w=w, z=z, d=d)


def box_in(finding: Box | Ball, stored: Grid | None, read: Grid) -> Box:
    """The box in voxels of the volume as read; ``stored`` is the file's grid, in whose voxels a Box is given.

    A ball that extends beyond the volume is clipped. Raises RejectedError.
    """
    if isinstance(finding, Ball):
        return clip_box(read.box_around(*finding), read.shape)
    if stored is None:
        raise RejectedError(
            "boxes in voxels of slices that are shifted or at uneven distances: give them in millimetres"
        )
    return read.box_from(finding, stored)
