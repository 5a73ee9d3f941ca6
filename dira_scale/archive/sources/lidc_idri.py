"""LIDC-IDRI: thoracic CT as DICOM series with the outlines of up to four readers (Armato et al., 2011)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.dicom.frames import Plane
from dira_scale.archive.imaging.files import size_of
from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.lidc_xml import agreed_nodules, nodules_in, series_of
from dira_scale.archive.imaging.volumes.regrid import Stack
from dira_scale.archive.imaging.volumes.series import Series
from dira_scale.archive.imaging.volumes.series_index import head_of
from dira_scale.archive.imaging.volumes.slice_position import pixels_to_voxels, place_slices
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import (
    ListedFiles,
    files_ending,
    folder_in,
    in_threads,
    listed_in,
    reject_repeated,
)
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import cell_number, read_table
from dira_scale.base.storage.walk import folder_at


@dataclass(frozen=True)
class VoxelRows:
    """A mask as rows of voxels, packed into bytes.

    Attributes:
        rows: int16 [n, 4] of z, y, first x and length.
    """

    rows: bytes

    @classmethod
    def of(cls, voxels: np.ndarray) -> "VoxelRows":
        """From ``voxels`` [n, 3], each z, y, x, sorted."""
        begins = np.flatnonzero((np.diff(voxels, axis=0, prepend=-2) != [0, 0, 1]).any(axis=1))
        lengths = np.diff(begins, append=len(voxels))
        return cls(np.column_stack([voxels[begins], lengths]).astype(np.int16).tobytes())

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """1 inside. Raises RejectedError for a row outside the volume."""
        assert isinstance(image, Volume)
        mask = np.zeros(image.shape, np.uint8)
        for z, y, x, length in np.frombuffer(self.rows, np.int16).reshape(-1, 4).astype(int):
            if min(z, y, x) < 0 or z >= mask.shape[0] or y >= mask.shape[1] or x + length > mask.shape[2]:
                raise RejectedError("an outline that leaves the volume")
            mask[z, y, x : x + length] = 1
        return mask


class LidcIdri:
    """CT series, one folder each, with masks of nodules of 3 mm and more that enough readers agree on.

    A box's label is benign, indeterminate or malignant for a mean rating below, at or above 3. The label ``nodule`` is
    1 if there is any; ``malignancy`` is the highest mean rating.

    Args:
        images: the folder with, at any depth, the ``.dcm`` files and the ``.xml`` files of the readings.
        readers: how many readers must agree on a voxel.
        attributes: manufacturer.

    Raises:
        UserError: no XML file of a CT reading, or readers not from 1 to 4.
    """

    label_names: Sequence[str] = ("nodule", "malignancy")

    def __init__(self, images: PathStr, readers: int, attributes: Sequence[str] = ()):
        if readers not in (1, 2, 3, 4):
            raise ArgumentError("readers", readers, "1 to 4")
        self.root, self.readers, self.attributes = folder_at(images), readers, attributes
        self.readings: dict[str, Path] = {}

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """One record per folder of DICOM files; rejects those without readings (radiographs), and repeated series."""
        for path in files_ending(self.root, ".xml"):
            try:
                if series := series_of(path):
                    self.readings.setdefault(series, path)
            except RejectedError as error:
                yield SourceRecord(path.relative_to(self.root).as_posix(), path, rejected=str(error))
        if not self.readings:
            raise ArgumentError(
                "images", str(self.root), "a folder with XML files of LIDC's readings of CT, at any depth"
            )
        folders = groupby(files_ending(self.root, ".dcm"), key=lambda path: path.parent)
        records = in_threads(self._record, ((folder, tuple(files)) for folder, files in folders), workers)
        yield from reject_repeated(records, self.root)

    def _record(self, listed: tuple[Path, tuple[Path, ...]]) -> SourceRecord:
        folder, files = listed
        name, image = folder.relative_to(self.root).as_posix(), Series.of(folder, [path.name for path in files])
        try:
            size, heads = sum(map(size_of, files)), [head_of(path) for path in files]
            slices = {head.instance: head.plane for head in heads if head and head.plane}
            series = {head.series if head else "" for head in heads}
            reading = self.readings.get(next(iter(series)))
            if len(series) > 1:
                raise RejectedError("files of several series in one folder")
            if reading is None:
                raise RejectedError("no readings of this series: a radiograph, or its XML file is missing")
            if heads[0] is None or len(slices) < len(files):
                raise RejectedError("slices without position, or duplicate slices")
            rows, columns = map(int, heads[0].shape)
            order, geometry = place_slices(list(slices.values()), (rows, columns))
            grid = (geometry.grid if isinstance(geometry, Stack) else geometry).turned()
            planes = {uid: [plane] for uid, plane in slices.items()}
            if isinstance(geometry, Stack):
                planes = _regular_planes(slices, order, geometry)
            matrices = {uid: [pixels_to_voxels(plane, grid) for plane in of_uid] for uid, of_uid in planes.items()}
            nodules = nodules_in(reading, matrices)
        except RejectedError as error:
            return SourceRecord(name, image, rejected=str(error))
        agreed, header = list(agreed_nodules(nodules, self.readers)), heads[0].header
        ratings = [rating for _, rating in agreed if rating == rating]
        voxels = np.unique(np.concatenate([np.empty((0, 3), np.int64), *(voxels for voxels, _ in agreed)]), axis=0)
        return SourceRecord(
            next(iter(series)),
            image,
            patient=header.get("patient"),
            study=header.get("study"),
            labels=(float(bool(agreed)), max(ratings, default=float("nan"))),
            boxes=tuple(_box(voxels, rating) for voxels, rating in agreed),
            mask=VoxelRows.of(voxels),
            attributes={name: header[name] for name in self.attributes if name in header},
            size=size,
            missing=geometry.missing if isinstance(geometry, Stack) else 0,
        )


def _regular_planes(slices: Mapping[str, Plane], order: np.ndarray, stack: Stack) -> dict[str, list[Plane]]:
    """For an uneven series, the planes of the regularised volume to which each slice's outlines apply, by UID: all
    whose nearest source slice it is, possibly none.

    So masks have no holes at missing slices, and equal what a mask drawn on these slices would become.
    """
    uids = [list(slices)[number] for number in order]
    normal = np.cross(slices[uids[0]].right, slices[uids[0]].down)
    planes: dict[str, list[Plane]] = {uid: [] for uid in uids}
    for depth, nearest in enumerate(np.floor(stack.between + 0.5).astype(int)):
        plane, off = slices[uids[nearest]], depth * stack.step - stack.positions[nearest]
        planes[uids[nearest]].append(plane._replace(position=plane.position + off * normal))
    return planes


def _box(voxels: np.ndarray, rating: float) -> Box:
    label = "nodule" if rating != rating else ("benign", "indeterminate", "malignant")[int(np.sign(rating - 3)) + 1]
    z, y, x = voxels.min(axis=0).tolist()
    d, h, w = (voxels.max(axis=0) + 1 - voxels.min(axis=0)).tolist()
    return Box(label, y=y, x=x, h=h, w=w, z=z, d=d)


class LidcNodules(LidcIdri):
    """CT series as of ``LidcIdri``, once for each nodule, with its box alone; the mask has all nodules of the scan."""

    label_names: Sequence[str] = ()

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """A record for each nodule, named after its series and its number; none of a scan without one."""
        for scan in super().records(workers):
            if scan.rejected:
                yield replace(scan, labels=())
            for number, box in enumerate(scan.boxes):
                yield replace(scan, name=f"{scan.name}/{number}", labels=(), boxes=(box,))


NAMES = ("patient_id", "nodule_id", "seriesuid")
RATINGS = {  # label: column
    "malignant": "Diagnosis_value",
    "malignancy": "Malignancy_value",
    "subtlety": "Subtlety_value",
    "internal_structure": "InternalStructure_value",
    "calcification": "Calcification_value",
    "sphericity": "Sphericity_value",
    "margin": "Margin_value",
    "lobulation": "Lobulation_value",
    "spiculation": "Spiculation_value",
    "texture": "Texture_value",
}


class LidcVois(ListedFiles):
    """The files ``image/PATIENT_R_NODULE.nii.gz``, and the same names in ``nodule_mask/``.

    Args:
        images: the folder with ``metadata.csv``, ``image`` and ``nodule_mask``.

    Raises:
        UserError: the table, a column, a number or the folder of images is missing.
    """

    label_names: Sequence[str] = tuple(RATINGS)

    def __init__(self, images: PathStr):
        self.root = folder_at(images)
        self.table, self.folder = listed_in(self.root, "metadata.csv"), folder_in(self.root, "image")

    def listed(self) -> Iterator[SourceRecord]:
        """The nodules of the table, rejected if without files, and images without a line, rejected."""
        listed = set()
        for row in read_table(self.table, [*NAMES, *RATINGS.values()]):
            patient, nodule, series = (row.cells[column] for column in NAMES)
            name = f"{patient}_R_{nodule}.nii.gz"
            listed.add(name)
            labels = tuple(cell_number(self.table, row, column) for column in RATINGS.values())
            mask = self.root / "nodule_mask" / name
            yield SourceRecord(name, self.folder / name, patient, series, labels=labels, mask=mask)
        for path in files_ending(self.folder, ".nii.gz"):
            if path.name not in listed:
                yield SourceRecord(path.name, path, rejected="no line in the table")
