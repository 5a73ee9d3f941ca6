"""JSRT's radiographs with and without a nodule (Shiraishi et al., 2000), with SCR's masks of lungs, heart and
clavicles (van Ginneken et al., 2006)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from dira_scale.archive.imaging.boxes import Box, clip_box
from dira_scale.archive.imaging.files import opened
from dira_scale.archive.imaging.grey import GreyImage, GreyWindow, store
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.settings import ReadSettings
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import table_error
from dira_scale.base.storage.walk import folder_at

SIDE, SPACING = 2048, 0.175  # pixels, mm
STRUCTURES = {
    "lungs": ("left lung", "right lung"),
    "heart": ("heart",),
    "clavicles": ("left clavicle", "right clavicle"),
}


@dataclass(frozen=True)
class Film:
    """A headerless file of 2048 x 2048 big-endian 16-bit values, 12 bits used; 0 is white."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self, settings: ReadSettings) -> GreyImage:
        """Raises RejectedError for a file of the wrong size or with values beyond 12 bits."""
        with opened(self.path) as file:
            content = file.read(2 * SIDE * SIDE + 1)
        if len(content) != 2 * SIDE * SIDE:
            raise RejectedError(f"not the {2 * SIDE * SIDE} bytes of a JSRT image")
        values = np.frombuffer(content, ">u2").reshape(SIDE, SIDE)
        if values.max() > 4095:
            raise RejectedError("values beyond 12 bits: not a JSRT image")
        return store(values, GreyWindow(0, 4095, 1), settings.bits, (SPACING, SPACING), inverted=True)


@dataclass(frozen=True)
class ScrMasks:
    """SCR's masks, 1024 pixels a side: the files of each structure, in the order of their mask values from 1."""

    files: tuple[tuple[Path, ...], ...]

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """Later structures overwrite earlier ones. Raises RejectedError unless all masks have half the image's side."""
        mask = np.zeros((SIDE // 2, SIDE // 2), np.uint8)
        for value, paths in enumerate(self.files, start=1):
            for path in paths:
                with opened(path) as file:
                    drawn = np.asarray(PIL.Image.open(file, formats=("GIF", "PNG")).convert("L"))
                if drawn.shape != mask.shape:
                    raise RejectedError(f"a mask of {drawn.shape} pixels instead of {mask.shape}")
                mask[drawn > 0] = value
        return mask.repeat(2, axis=0).repeat(2, axis=1)


class Jsrt(ListedFiles):
    """Each image is a different patient.

    Args:
        images: the folder with, at any depth, the ``.IMG`` files, ``CLNDAT_EN.txt`` and ``CNNDAT_EN.TXT``.
        masks: SCR's folder, with a folder for each structure at some depth; null: no masks.
        structures: those of lungs, heart and clavicles in the mask, as values 1, 2, … in this order.
        attributes: any of sex, age.

    Raises:
        UserError: a missing folder or table; an unknown structure; a malformed line of a table.
    """

    label_names: Sequence[str] = ("nodule", "malignant")

    def __init__(
        self, images: PathStr, masks: PathStr | None, structures: Sequence[str] = (), attributes: Sequence[str] = ()
    ):  # fmt: skip
        self.root, self.attributes = folder_at(images), attributes
        if unknown := [name for name in structures if name not in STRUCTURES]:
            raise ArgumentError("structures", unknown[0], f"some of {', '.join(STRUCTURES)}")
        tables = {path.name.lower(): path for path in files_ending(self.root, ".txt")}
        if missing := [name for name in ("clndat_en.txt", "cnndat_en.txt") if name not in tables]:
            raise ArgumentError("images", images, f"a folder with {missing[0].upper()}, at any depth")
        self.with_nodule, self.without = tables["clndat_en.txt"], tables["cnndat_en.txt"]
        self.drawn: dict[tuple[str, str], Path] = {}
        if masks:
            for path in files_ending(folder_at(masks, "recipe.masks"), ".gif", ".png"):
                self.drawn[path.parent.name.lower(), path.name[:8].upper()] = path
        self.structures = structures

    def listed(self) -> Iterator[SourceRecord]:
        """Images of the two tables, rejected if missing, and images without a line, rejected."""
        lines = dict(self._lines())
        for path in files_ending(self.root, ".img"):
            name = path.name.upper()
            line = lines.pop(name, None)
            if line is None:
                again = path.relative_to(self.root).as_posix()
                yield SourceRecord(again, path, rejected="no line in the tables, or duplicate")
                continue
            facts, labels, boxes = line
            attributes = {n: facts[n] for n in self.attributes if facts.get(n)}
            keys = [[(file, name[:8]) for file in STRUCTURES[structure]] for structure in self.structures]
            mask: ScrMasks | None = None  # unless all files of all structures exist
            if keys and all(key in self.drawn for of_structure in keys for key in of_structure):
                mask = ScrMasks(tuple(tuple(self.drawn[key] for key in of_structure) for of_structure in keys))
            yield SourceRecord(name, Film(path), labels=labels, boxes=boxes, mask=mask, attributes=attributes)
        for name in lines:
            yield SourceRecord(name, self.root / name, rejected="listed, but missing")

    def _lines(self) -> Iterator[tuple[str, tuple[Mapping[str, str], tuple[float, ...], tuple[Box, ...]]]]:
        """Read the tables: no header, tab-separated, ``?`` for unknown.

        File, subtlety, size (mm), age, sex, x, y, malignant or benign, place, diagnosis; or file, age, sex, non-nodule.
        """
        for cells in _cells(self.without, 3):
            yield cells[0].upper(), ({"age": cells[1].strip("?"), "sex": cells[2]}, (0.0, math.nan), ())
        for cells in _cells(self.with_nodule, 8):
            name, _, size, age, sex, x, y, kind = cells[:8]
            try:
                boxes: tuple[Box, ...] = ()
                if size != "?":  # the square around the nodule, whose centre is pixel x, y
                    left, top, side = float(x), float(y), float(size) / SPACING
                    square = Box("nodule", top + 0.5 - side / 2, left + 0.5 - side / 2, side, side)
                    boxes = (clip_box(square, (SIDE, SIDE)),)
                malignant = {"malignant": 1.0, "benign": 0.0}[kind.lower()]
            except (ValueError, KeyError) as error:
                raise table_error(self.with_nodule, f"malformed line for {name}: {error}") from error
            yield name.upper(), ({"age": age.strip("?"), "sex": sex}, (1.0, malignant), boxes)


def _cells(path: Path, least: int) -> Iterator[list[str]]:
    for line in path.read_bytes().decode("latin-1").splitlines():
        cells = [cell.strip() for cell in line.split("\t")]
        if any(cells):
            if len(cells) < least or not cells[0]:
                raise table_error(path, f"expected at least {least} cells, got '{line}'")
            yield cells
