"""A folder of volumes: DICOM series, NIfTI, MetaImage, NRRD, TIFF stacks and NumPy files, with or without a CSV."""

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dira_scale.archive.imaging.dicom.header import ObjectError
from dira_scale.archive.imaging.dicom.structures import Structures, structures_in
from dira_scale.archive.imaging.files import opened_for_header, size_of
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volumes.channels import Channels
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.imaging.volumes.read import grid_of
from dira_scale.archive.imaging.volumes.series_index import Head, SeriesIndex, head_of
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.boxes import box_in, read_findings
from dira_scale.archive.sources.folder import NOT_THERE, Folder, LabelledFile
from dira_scale.archive.sources.label_columns import ClassSpec
from dira_scale.archive.sources.published import in_threads
from dira_scale.archive.sources.structure_masks import StructureMasks
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import counted, print_line
from dira_scale.base.storage.path_index import PathIndex
from dira_scale.base.storage.walk import files_below, resolve_links

HEADERS, VALUES = (".mhd", ".nhdr", ".hdr"), (".raw", ".zraw", ".img", ".bin", ".raw.gz")


class Inspected(NamedTuple):
    """The result of inspecting one file."""

    path: Path
    size: int | None
    head: Head | None
    rejected: str | None
    aside: str | None = None  # a DICOM object that is no image
    structures: Structures | None = None  # of such an object, if they are wanted


class Volumes(Folder):
    """All volumes below ``images``: single files, or DICOM series wherever their slices are.

    Arguments, CSV and rules as for ``Folder``, except:

    * A ``file`` of a CSV may also be a folder: all series in it. A mask or boxes need a folder of one series.
    * A mask is a volume on the same grid: NIfTI, MetaImage, NRRD, TIFF or NumPy, integers from 0 to 255; or a
      DICOM segmentation or RTSTRUCT of the series.
    * ``structures``, patterns of SegmentLabel and ROIName by the names of a mask's values 1, 2, …: each SEG and
      RTSTRUCT is the mask of the series that it refers to; where structures overlap, the last lies over the others.
    * ``boxes`` has the columns file, label, z, y, x, d, h, w in the file's voxels (x: its fastest axis; in a series, z
      counts the slices along their normal); or file, coordX, coordY, coordZ, diameter_mm (and label) in DICOM's
      millimetres, as in LUNA16.
    * ``channels``: names of those that each file has, in its order (4D NIfTI, NRRD, MetaImage or NumPy): two or more.
      DICOM series, which have one, are then rejected.

    Raises:
        UserError: as ``Folder``; ``channels`` are alike or one; ``structures`` are no patterns; or, by ``records``, one
            matches nothing there.
    """

    boxes_in = staticmethod(read_findings)

    def __init__(
        self,
        images: PathStr,
        labels: PathStr | None = None,
        boxes: PathStr | None = None,
        columns: Mapping[str, str | None] | None = None,
        label_columns: Sequence[str] | None = None,
        label_rules: Mapping[str, Mapping[str, str]] | None = None,
        class_columns: ClassSpec = None,
        patient_pattern: str | None = None,
        attributes: Sequence[str] = (),
        structures: Mapping[str, str] | None = None,
        channels: Sequence[str] | None = None,
    ):
        if channels is not None and not 1 < len(channels) == len({*channels}):
            raise ArgumentError("channels", channels, "two or more different names, in the files' order")
        super().__init__(
            images, labels, boxes, columns, label_columns, label_rules, class_columns, patient_pattern, attributes
        )
        self.channels = tuple(channels or ())
        self.masks = None if structures is None else StructureMasks(structures)

    def _all(self, workers: int) -> Iterator[SourceRecord]:
        for record in self._volumes(workers):
            if not self.channels:
                yield record
            elif isinstance(record.image, SourceImage):
                yield replace(record, rejected="a DICOM series, which has one channel: use recipe=sequences")
            else:
                yield replace(record, image=Channels(self.channels, (record.image,)))

    def _volumes(self, workers: int) -> Iterator[SourceRecord]:
        """Single-file volumes as they are found, then the series. Raises OSError as ``Folder.records``."""
        for note in self.notes:
            print_line(note)
        index, met = SeriesIndex(), PathIndex[None]()  # rows of the CSV
        for inspected in self._inspected(workers):
            row = above(inspected.path, self.listed) if self.csv else None
            if row and (inspected.head or row == inspected.path):
                met[row] = None
            if inspected.head and inspected.size is not None:
                index.add(inspected.path, inspected.size, inspected.head)
            elif self.masks and inspected.structures and inspected.path not in self.listed:
                self.masks.add(inspected.path, inspected.structures)
            else:
                yield self._file(inspected)
        if self.masks:
            if not self.columns.get("mask"):  # what the CSV names is not looked at here
                self.masks.check(self.root)
            for path, why in self.masks.match(index):
                yield SourceRecord(self._name(path, path), path, aside=why)
        yield from self._series(index)
        for path in self.listed:
            if path not in met:
                yield self._absent(path)

    def _inspected(self, workers: int) -> Iterator[Inspected]:
        """All files, with a progress bar. Raises OSError."""
        files = ((path, self.stored.get(path), self.masks is not None) for path in self._files())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            yield from in_threads(lambda file: _inspect(*file), files, workers, "files")

    def _files(self) -> Iterator[Path]:
        """Each real file once, except masks, tables and the data files of headers."""
        linked = PathIndex[None]()
        outside = (path for path in self.listed if not path.is_relative_to(self.root))
        for start in (self.root, *outside):
            for path in files_below(start) if start.is_dir() else [start]:
                file = resolve_links(path)
                if file != path or start != self.root:  # by a link or a row: the walk comes there itself, or never
                    inside = file.is_relative_to(self.root) and os.path.exists(file)  # noqa: PTH110 (or long names raise)
                    hidden = inside and any(part.startswith(".") for part in file.relative_to(self.root).parts)
                    if file in linked or (inside and not hidden):
                        continue
                    linked[file] = None
                ending = next((ending for ending in VALUES if file.name.endswith(ending)), "")
                stem = file.name.removesuffix(ending)
                headers = [file.with_name(f"{stem}{suffix}") for suffix in HEADERS] if ending else []
                if file not in self.no_inputs and not any(map(self._exists, headers)):
                    yield file

    def _file(self, inspected: Inspected) -> SourceRecord:
        path = inspected.path
        listed = self.listed.get(path) or self._unlisted(self._name(path, path))
        record = SourceRecord(listed.name, path, labels=listed.labels, size=inspected.size, rejected=inspected.rejected)
        if inspected.aside and path not in self.listed:
            return replace(record, aside=inspected.aside)
        record = self._completed(record, listed.row, {})
        record = self.masks.masked(record, {}) if self.masks else record
        return self._with_boxes(record, path, lambda: grid_of(path))

    def _series(self, index: SeriesIndex) -> Iterator[SourceRecord]:
        shared, accepted, without = Counter[Path | None](), 0, 0
        if self.csv or self.boxes:
            firsts = (series.paths[0] for series in index.series() if not series.rejected)
            shared.update(row for path in firsts for row in {above(path, self.listed), above(path, self.boxes)})
        for series in index.series():
            rows = {above(path, self.listed) for path in series.paths} if self.csv else {None}
            row = min(filter(None, rows), default=None)
            boxed = above(series.paths[0], self.boxes)
            path = series.paths[0].parent if series.what else series.paths[0]
            name = f"{self._name(path, path)} {series.what}".removeprefix(". ").strip()
            listed = self.listed[row] if row else self._unlisted(name)
            record = SourceRecord(
                name, series.image, labels=listed.labels, size=series.size, missing=series.missing,
                rejected=series.rejected,
            )  # fmt: skip
            record = self._completed(record, listed.row, series.header)
            if record.rejected is None and len(rows) > 1:
                record = replace(record, rejected="slices of one series in several rows of the CSV, or not in all")
            if record.rejected is None and ((record.mask and shared[row] > 1) or (boxed and shared[boxed] > 1)):
                record = replace(record, rejected="a mask or boxes for a folder of several series")
            record = self.masks.masked(record, series.header) if self.masks else record
            accepted, without = accepted + (not record.rejected), without + (not (record.rejected or record.mask))
            yield self._with_boxes(record, boxed, series.image.grids)
        if self.masks and without:
            print_line(f"{counted(without, 'series')} of {accepted:,} without a mask: no SEG or RTSTRUCT there has "
                       "structures of theirs that recipe.structures names")  # fmt: skip

    def _with_boxes(
        self, record: SourceRecord, path: Path | None, grids: Callable[[], tuple[Grid | None, Grid]]
    ) -> SourceRecord:  # fmt: skip
        if record.rejected or path is None or path not in self.boxes:
            return record
        try:
            stored, read = grids()
            return replace(record, boxes=tuple(box_in(finding, stored, read) for finding in self.boxes[path]))
        except RejectedError as error:
            return replace(record, rejected=str(error))

    def _absent(self, path: Path) -> SourceRecord:
        """The rejected record of a CSV row without a volume."""
        listed, reason = self.listed[path], "a folder without a DICOM series"
        if not path.is_dir():
            reason = "hidden, or a mask of another row" if self._exists(path) else NOT_THERE
        return self._completed(SourceRecord(listed.name, path, labels=listed.labels, rejected=reason), listed.row, {})

    def _unlisted(self, name: str) -> LabelledFile:
        return LabelledFile(name, None, (math.nan,) * len(self.label_names))


def above(path: Path, index: PathIndex[Any]) -> Path | None:
    """The entry of ``index`` for a file: itself, or the nearest folder above it."""
    return next((above for above in (path, *path.parents) if above in index), None)


def _inspect(path: Path, size: int | None, structures: bool) -> Inspected:
    try:
        size = size_of(path) if size is None else size
        if path.suffix in HEADERS:  # a changed data file is a changed volume
            size += sum(size_of(file) for file in map(path.with_suffix, VALUES) if file.exists())
        try:
            return Inspected(path, size, head_of(path), None)
        except ObjectError as error:
            if not structures:
                return Inspected(path, None, None, str(error), str(error))
            with opened_for_header(path) as file:
                return Inspected(path, None, None, str(error), str(error), structures_in(file))
    except RejectedError as error:
        return Inspected(path, None, None, str(error))
