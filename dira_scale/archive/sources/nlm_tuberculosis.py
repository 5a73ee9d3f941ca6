"""The tuberculosis radiographs of Montgomery County and Shenzhen, as the NLM distributes them (Jaeger et al., 2014)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.read import read_mask
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending, folder_in
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.walk import folder_at

SEX = re.compile(r"(?:patient'?s sex:\s*)?([fm])(?:emale?|ale)?\b", re.IGNORECASE)
AGE = re.compile(r"(\d+)\s*([ymd])", re.IGNORECASE)


@dataclass(frozen=True)
class Union:
    """The union of several mask files: 255 where any of them is not 0."""

    files: tuple[Path, ...]

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """Raises RejectedError if a file is not a mask, or sizes differ."""
        masks = [read_mask(path) > 0 for path in self.files]
        if len({mask.shape for mask in masks}) > 1:
            raise RejectedError("masks of different sizes")
        return np.where(np.logical_or.reduce(masks), np.uint8(255), np.uint8(0))


class NlmTuberculosis(ListedFiles):
    """Files ``MCUCXR_0001_0.png`` and ``CHNCXR_0001_0.png``: the last digit is 1 for tuberculosis; one per patient.

    Args:
        images: the folder with ``CXR_png`` and, if wanted, ``ClinicalReadings`` and the masks, at any depth.
        masks: the folders whose masks are united (``ManualMask/leftMask`` and ``rightMask`` of Montgomery), or the one
            folder of complete masks (``mask`` of Shenzhen, whose files end in ``_mask.png``).
        attributes: any of sex, age.

    Raises:
        UserError: a missing folder of images or masks.
    """

    label_names: Sequence[str] = ("tuberculosis",)

    def __init__(self, images: PathStr, masks: Sequence[PathStr] = (), attributes: Sequence[str] = ()):
        self.root, self.attributes = folder_at(images), attributes
        self.pictures = folder_in(self.root, "CXR_png")
        folders = [folder_in(self.root, name) for name in masks]
        self.masks: list[Mapping[str, Path]] = [
            {re.sub(r"(_mask)?\.png$", "", path.name.lower()): path for path in files_ending(folder, ".png")}
            for folder in folders
        ]

    def listed(self) -> Iterator[SourceRecord]:
        """Yield all images of ``CXR_png``; reject unknown file names. An image without all its masks has none."""
        for path in files_ending(self.pictures, ".png"):
            stem = path.name[: -len(".png")]
            name = re.fullmatch(r"((?:MCUCXR|CHNCXR)_\d+)_([01])", stem)
            if not name:
                yield SourceRecord(path.name, path, rejected="not a file name of the dataset")
                continue
            parts = tuple(masks[stem.lower()] for masks in self.masks if stem.lower() in masks)
            mask = Union(parts) if self.masks and len(parts) == len(self.masks) else None
            attributes: dict[str, str] = {}
            text = self.root / "ClinicalReadings" / f"{stem}.txt"
            if self.attributes and text.is_file():
                facts = reading(text.read_bytes().decode("utf-8", "replace"))
                attributes = {name: facts[name] for name in self.attributes if name in facts}
            yield SourceRecord(path.name, path, name[1], labels=(float(name[2]),), mask=mask, attributes=attributes)


def reading(text: str) -> dict[str, str]:
    """Sex and age of a reading; its first lines are ``Patient's Sex: F``, ``Patient's Age: 027Y`` or ``male 45yrs``.

    Ages are returned in DICOM's form: 027Y, 16M, 64D.
    """
    first = " ".join(filter(None, map(str.strip, text.splitlines()[:2])))
    sex, age = SEX.match(first), AGE.search(first)
    return ({"sex": sex[1]} if sex else {}) | ({"age": age[1] + age[2].upper()} if age else {})
