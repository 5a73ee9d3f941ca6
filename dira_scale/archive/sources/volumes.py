"""A folder of volumes: DICOM series, NIfTI, MetaImage, NRRD, TIFF stacks and NumPy files, with or without a CSV."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volumes.channels import Channels
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.imaging.volumes.read import grid_of
from dira_scale.archive.imaging.volumes.series_index import SeriesIndex
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.boxes import box_in, read_findings
from dira_scale.archive.sources.folder import NOT_THERE, Folder, LabelledFile
from dira_scale.archive.sources.inspect import HEADERS, VALUES, Inspected, Inspector, inspect_volume
from dira_scale.archive.sources.label_columns import ClassSpec
from dira_scale.archive.sources.structure_masks import StructureMasks
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import counted, print_line
from dira_scale.base.storage.path_index import PathIndex
from dira_scale.base.storage.walk import Met, is_met, walked


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

    @classmethod
    def inspector(cls, arguments: Mapping[str, Any]) -> Inspector | None:
        return partial(inspect_volume, structures=arguments.get("structures") is not None)

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
        for inspected in self._inspected(workers, partial(inspect_volume, structures=self.masks is not None)):
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

    def _outside(self) -> Iterator[Met]:
        for path in self.listed:
            if not path.is_relative_to(self.root):
                met = walked(path) if path.is_dir() else [Met(path, path)]
                yield from (each for each in met if not is_met(each.file, self.root))

    def _is_input(self, file: Path) -> bool:
        """Return whether it is no mask, no table, and no data file of a header."""
        ending = next((ending for ending in VALUES if file.name.endswith(ending)), "")
        stem = file.name.removesuffix(ending)
        headers = [file.with_name(f"{stem}{suffix}") for suffix in HEADERS] if ending else []
        return super()._is_input(file) and not any(map(self._exists, headers))

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
