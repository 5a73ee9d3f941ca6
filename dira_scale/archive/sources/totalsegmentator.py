"""TotalSegmentator's datasets of CT and MR: a folder per subject, a mask per structure (Wasserthal et al., 2023)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.read import read_volume_mask
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.sequences import Files, Sequences, Session
from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.config.schema import PathStr


@dataclass(frozen=True)
class StructureFiles:
    """A mask of one file per structure, whose values are 1, 2, … in the files' order."""

    paths: tuple[Path, ...]

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """uint8 [Z, Y, X]; where structures overlap, the later one. Raises RejectedError."""
        assert isinstance(image, Volume)
        mask = np.zeros(image.shape, np.uint8)
        for value, path in enumerate(self.paths, 1):
            mask[read_volume_mask(path, image) > 0] = value
        return mask


class TotalSegmentator(Sequences):
    """Subjects in the folders that ``meta.csv`` names, with its split; each subject counts as a patient.

    Args:
        images: the folder with ``meta.csv`` and the subjects' folders.
        structures: files in a subject's ``segmentations``, without ``.nii.gz``, in the order of their values.
        image: the name of the volume, ``ct.nii.gz`` or ``mri.nii.gz``.
        attributes: any of sex, age.

    Raises:
        UserError: a missing table or column; no volume of this name; no structures, one twice, or more than 255.
    """

    def __init__(
        self, images: PathStr, structures: Sequence[str], image: str = "ct.nii.gz", attributes: Sequence[str] = ()
    ):
        if not 0 < len(set(structures)) == len(structures) <= 255:
            raise ArgumentError("structures", UNSHOWN, "1 to 255 different names: their numbers are the mask's values")
        columns = {"file": "image_id", "patient": "image_id", "split": "split"}
        table = f"{str(images).rstrip('/')}/meta.csv"
        super().__init__(
            images, {"image": image}, labels=table, columns=columns, label_columns=[], attributes=attributes
        )
        self.structures = tuple(structures)

    def _completed(
        self, record: SourceRecord, row: Mapping[str, str] | None, header: Mapping[str, str]
    ) -> SourceRecord:  # fmt: skip
        return super()._completed(record, row and {**row, "sex": row.get("gender", "")}, header)

    def _session_record(self, session: Session, names: tuple[str, ...], files: Files, met: set[Path]) -> SourceRecord:
        record = super()._session_record(session, names, files, met)
        if record.rejected:
            return record
        assert not isinstance(record.image, SourceImage)
        folder = record.image.parent / "segmentations"
        paths = tuple(folder / f"{structure}.nii.gz" for structure in self.structures)
        lacking = next(
            (name for name, path in zip(self.structures, paths, strict=True) if not self._exists(path)), None
        )
        return replace(record, mask=StructureFiles(paths), rejected=f"no mask of {lacking}" if lacking else None)
