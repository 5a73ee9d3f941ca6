"""Cityscapes: street scenes of 50 cities with finely drawn masks (Cordts et al., CVPR 2016)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.read import read_mask
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending, folder_in
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.walk import folder_at

IMAGE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
UNLABELLED = "test"  # whose masks are published empty
# The 19 classes that are evaluated, in the order of their trainId, and the id that labelIds have (cityscapesScripts).
IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
STORED = np.zeros(256, np.uint8)  # by id: 1 + trainId, 0 for what is not evaluated
STORED[[*IDS.values()]] = np.arange(1, len(IDS) + 1)


@dataclass(frozen=True)
class EvaluatedClasses:
    """A mask of labelIds, a ``PaintedMask``: 1 to 19 where one of the classes ``IDS`` is, else 0."""

    path: Path

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """Raises as ``read_mask``."""
        return STORED[read_mask(self.path)]


class Cityscapes(ListedFiles):
    """``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` with ``gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png``; images of
    one city stay in one split.

    Args:
        images: the folder with ``leftImg8bit`` and ``gtFine``.
    """

    def __init__(self, images: PathStr) -> None:
        self.root = folder_at(images)
        self.images, self.masks = (folder_in(self.root, name) for name in ("leftImg8bit", "gtFine"))

    def listed(self) -> Iterator[SourceRecord]:
        """Yield all images; reject those of a split or city that is no folder, or without a mask. Those of test have
        none."""
        masks = {path.relative_to(self.masks).as_posix(): path for path in files_ending(self.masks, MASK.lower())}
        for path in files_ending(self.images, IMAGE.lower()):
            inside = path.relative_to(self.images)
            name = path.name.removesuffix(IMAGE)
            if len(inside.parts) != 3:
                yield SourceRecord(name, path, rejected="not in SPLIT/CITY")
                continue
            split, city, _ = inside.parts
            mask = None if split == UNLABELLED else masks.get((inside.parent / f"{name}{MASK}").as_posix())
            rejected = None if mask or split == UNLABELLED else f"no {MASK[1:]}"
            painted = EvaluatedClasses(mask) if mask else None
            yield SourceRecord(name, path, city, mask=painted, split=split, rejected=rejected)
