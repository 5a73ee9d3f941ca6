"""Masks as DICOM segmentations (PS3.3 A.51), by highdicom: on the pixels of the DICOM images that were predicted.

highdicom copies patient and study from its source images, refers to them, and puts the frames where they are. It never
sees the files' headers, but stand-ins, one a slice, with what may be passed on. Of ``names=source`` this is the
patient, the study and the instances' UIDs. Of ``names=keys`` it is the position, and what is derived from the key: the
patient, and UIDs of a study and a frame of reference of its own. Nothing then refers to a source.
"""

import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils.epy import lazy_imports
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, PersonName
from torch import Tensor

from dira_scale import __version__
from dira_scale.archive.imaging.dicom.frames import Plane, plane_of
from dira_scale.archive.imaging.dicom.header import is_dicom, read_elements
from dira_scale.archive.imaging.files import opened
from dira_scale.archive.imaging.rejection import RejectedError, rejects
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.imaging.volumes.slice_position import voxels_of
from dira_scale.archive.plan import Item
from dira_scale.archive.reading import QuarantinedError
from dira_scale.archive.sources.base import SourceImage
from dira_scale.base.errors import UserError
from dira_scale.predict.folder import FolderImages, leader_of
from dira_scale.predict.geometry import ImageGeometry, SourceGeometry, Space
from dira_scale.predict.images import Loaded

with lazy_imports():
    import highdicom
    from highdicom import seg, sr
    from pydicom.sr import codedict

IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
            "StudyTime", "ReferringPhysicianName")  # fmt: skip
# What highdicom refuses a whole header for, by what raises ValueError for it.
REFUSED: Mapping[str, Callable[[str], object]] = {
    "PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM, "PatientSex": ("M", "F", "O", "").index
}  # fmt: skip
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
SCHEME = "99DIRA_SCALE"  # of the codes of classes, whose meanings only their names say
LONGEST = 64  # characters of a text (LO)
LONGEST_NAME = 5 * LONGEST  # of a person's (PN), in three alphabets
UNDATED = "19000101", "000000"  # of content, which must have a date
NOT_A_PIXEL = "format=dicomseg: slices at uneven distances, missing or shifted: the mask is on straightened ones"


def uid_of(*texts: str) -> str:
    """Return a UID that depends on ``texts`` alone: 2.25 and 128 bits of their hash (PS3.5 B.2)."""
    return f"2.25.{int(hashlib.sha256(chr(0).join(texts).encode(errors='surrogateescape')).hexdigest()[:32], 16)}"


class DicomImages:
    """A folder's images, whose masks become segmentations; ``Images``.

    Args:
        classes: the names of the classes of masks.
        network: what the algorithm is called. ``version``: of it and its weights.
        identity: a hash of all that a prediction depends on, from which the UIDs of segmentations are.
        anonymous: whether nothing of a source's header but its geometry is passed on.
    """

    def __init__(
        self, images: FolderImages, classes: Sequence[str], network: str, version: str, identity: str,
        anonymous: bool,
    ) -> None:  # fmt: skip
        """Raises UserError for a folder without DICOM."""
        self.images, self.classes, self.network, self.version = images, classes, network, version
        self.identity, self.anonymous = identity, anonymous
        self.keys, self.targets, self.about, self.name = images.keys, images.targets, images.about, images.name
        if not any(map(_is_dicom, images.items)):
            raise UserError("format=dicomseg: no file in images=… is DICOM, whose header a segmentation needs; leave "
                            "format out")  # fmt: skip

    def load(self, number: int) -> Loaded:
        """See ``Images``; also refuses what is no DICOM, or has no pixel of its own for each of the mask's."""
        item = self.images.items[number]
        if item.record.rejected is None and not _is_dicom(item):
            raise QuarantinedError("decode", "format=dicomseg: not DICOM")
        loaded = self.images.load(number)
        try:
            frames = [self._frame(path, item.key, str(n)) for n, path in enumerate(_paths(item))]
            geometry = DicomGeometry(self, item.key, loaded.geometry, frames)
            geometry.check()
        except RejectedError as error:
            raise QuarantinedError("geometry", str(error)) from error
        return Loaded(loaded.stored, geometry)

    def _frame(self, path: Path, key: str, number: str) -> "SliceStandIn":
        """The stand-in of the file ``number`` of an image. Raises RejectedError."""
        with opened(path) as file:
            names = (*IDENTITY, *UIDS, *GEOMETRY, "SOPClassUID", "Rows", "Columns", "NumberOfFrames")
            header, _ = read_elements(file, names)
            if int(header.get("NumberOfFrames") or 1) > 1:
                raise RejectedError("format=dicomseg: several frames in one file")
            stand_in, plane = Dataset(), plane_of(header)
            for name in ("Rows", "Columns", "SOPClassUID"):
                setattr(stand_in, name, header[name].value)
            for name in (*IDENTITY, *UIDS):
                setattr(stand_in, name, "")
                with suppress(ValueError):
                    value = "" if self.anonymous else header.get(name) or ""
                    if not isinstance(value, str | PersonName) or len(value := str(value)) > LONGEST_NAME:
                        raise ValueError(name)
                    REFUSED.get(name, str)(value)
                    setattr(stand_in, name, value)
            if self.anonymous:
                stand_in.PatientID = key
            for name in UIDS:
                if not stand_in[name].value:
                    setattr(stand_in, name, uid_of(key, name, number if name == "SOPInstanceUID" else ""))
            spacing = plane.spacing if plane else header.get("PixelSpacing")
            if spacing:
                stand_in.PixelSpacing = [float(mm) for mm in spacing]
            if plane is None:  # a radiograph, whose pixels are nowhere in particular
                del stand_in.FrameOfReferenceUID
            else:
                stand_in.ImagePositionPatient = [float(mm) for mm in header.ImagePositionPatient]
                stand_in.ImageOrientationPatient = [float(part) for part in header.ImageOrientationPatient]
                stand_in.SliceThickness = float(header.get("SliceThickness") or 0) or None
            return SliceStandIn(stand_in, plane)

    def encoded(self, key: str, frames: Sequence[Dataset], mask: np.ndarray) -> bytes:
        """The file of masks [frames, rows, columns, classes], 0 or 1. Raises RejectedError."""
        algorithm = highdicom.AlgorithmIdentificationSequence(
            f"dira_scale: {self.network}"[:LONGEST], codedict.codes.DCM.ArtificialIntelligence, self.version[:LONGEST]
        )
        segments, category = [], codedict.codes.SCT.AnatomicalStructure
        for number, name in enumerate(self.classes, 1):
            kind = sr.CodedConcept(str(number), SCHEME, name[:LONGEST])
            segments.append(seg.SegmentDescription(number, name[:LONGEST], category, kind, "AUTOMATIC", algorithm))
        with rejects("format=dicomseg: highdicom refuses the header ({})"):
            written = seg.Segmentation(
                frames, mask, "BINARY", segments, uid_of(self.identity, key, "series"), 1,
                uid_of(self.identity, key, "instance"), 1, "dira_scale", self.network[:LONGEST], __version__,
                self.identity[:LONGEST], content_label="SEGMENTATION", specific_character_set="ISO_IR 192",
                series_description=f"{self.network}: masks"[:LONGEST],
            )  # fmt: skip
            for each in (*written.DimensionIndexSequence, *written.DimensionOrganizationSequence):  # else a random one
                each.DimensionOrganizationUID = uid_of(self.identity, key, "dimensions")
            # Not of now: the same prediction is the same file.
            written.ContentDate, written.ContentTime = written.StudyDate or UNDATED[0], written.StudyTime or UNDATED[1]
            del written.InstanceCreationDate, written.InstanceCreationTime
            for each in written.get("ContributingEquipmentSequence", ()):
                each.pop("ContributionDateTime", None)
            for measures in written.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence", ()):
                if "SliceThickness" not in measures:  # unknown, but its reader looks for it
                    measures.SliceThickness = None
            if self.anonymous:  # what names source images: of stand-ins, so that there is none of that name
                del written.ReferencedSeriesSequence, written.SourceImageSequence
                for group in written.PerFrameFunctionalGroupsSequence:
                    group.pop("DerivationImageSequence", None)
            file = io.BytesIO()
            written.save_as(file, enforce_file_format=True)
            return file.getvalue()


class SliceStandIn(NamedTuple):
    """A slice's stand-in, and where it lies; None: unknown, as of a radiograph."""

    header: Dataset
    plane: Plane | None

    @property
    def size(self) -> tuple[int, int]:
        return int(self.header.Rows), int(self.header.Columns)


@dataclass(frozen=True)
class DicomGeometry:
    """A ``SourceGeometry`` of ``frames``, the slices of what was read as ``geometry`` says."""

    of: DicomImages
    key: str
    geometry: SourceGeometry
    frames: Sequence[SliceStandIn]
    suffix = ".dcm"

    def check(self) -> None:
        """Raise RejectedError unless each pixel of the frames is one of the mask's, and the reverse."""
        if isinstance(self.geometry, Space):
            if sum(math.prod(frame.size) for frame in self.frames) != math.prod(self.geometry.shape):
                raise RejectedError(NOT_A_PIXEL)
            for frame in self.frames:
                rows, columns = frame.size
                self._index(frame, np.array([0, 0, rows - 1, rows - 1]), np.array([0, columns - 1] * 2))  # corners
        elif not isinstance(self.geometry, ImageGeometry) or [frame.size for frame in self.frames] != [
            self.geometry.sides
        ]:
            raise RejectedError("format=dicomseg: an image of another size than its header says")

    def restored(self, probabilities: Tensor) -> Tensor:
        return self.geometry.restored(probabilities)

    def encoded(self, mask: np.ndarray) -> bytes:
        """The file of masks [classes, *source sides], which may overlap. Raises RejectedError."""
        masks, flat = np.moveaxis(mask, 0, -1).astype(np.uint8), not isinstance(self.geometry, Space)
        slices = [masks if flat else masks[self._index(frame, *np.indices(frame.size))] for frame in self.frames]
        return self.of.encoded(self.key, [frame.header for frame in self.frames], np.stack(slices))

    def _index(self, frame: SliceStandIn, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, ...]:
        """The voxels of a frame's pixels. Raises RejectedError."""
        assert isinstance(self.geometry, Space) and frame.plane is not None, "a volume was made of it"
        z, y, x = self.geometry.shape
        try:
            return tuple(voxels_of(frame.plane, Grid((z, y, x), self.geometry.affine), frame.size, rows, columns))
        except RejectedError as error:
            raise RejectedError(NOT_A_PIXEL) from error


def _paths(item: Item) -> Sequence[Path]:
    image = leader_of(item)
    return image.paths if isinstance(image, SourceImage) else (image,)


def _is_dicom(item: Item) -> bool:
    """Return whether an image is DICOM, by its first bytes; False if it cannot be read."""
    try:
        with opened(_paths(item)[0]) as file:
            return is_dicom(file)
    except (RejectedError, OSError):
        return False
