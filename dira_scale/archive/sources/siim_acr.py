"""SIIM-ACR Pneumothorax: DICOM files, and masks as run lengths in a table (Kaggle, 2019)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dira_scale.archive.sources.base import Input, SourceRecord
from dira_scale.archive.sources.published import files_ending, in_threads, listed_in, with_size
from dira_scale.config.schema import PathStr
from dira_scale.imaging.dicom import header_of
from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.volume import Volume
from dira_scale.storage.tables import read_table, table_error
from dira_scale.storage.walk import folder_at


@dataclass(frozen=True)
class Runs:
    """Regions as run lengths: pairs of gap and length in pixels, down each column, column by column.

    A gap counts from the end of the previous run (the first from the upper left corner); other run-length formats use
    absolute positions. Regions may overlap.
    """

    regions: tuple[str, ...]

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """255 inside. Raises RejectedError for malformed runs, or runs outside the image."""
        assert isinstance(image, GreyImage)
        height, width = image.pixels.shape
        columns = np.zeros(width * height, np.uint8)
        for region in self.regions:
            try:
                runs = np.array(region.split(), dtype=np.int64).reshape(-1, 2)
            except (ValueError, OverflowError) as error:
                raise RejectedError("run lengths that are not pairs of integers") from error
            ends = runs.cumsum().reshape(-1, 2)  # of each gap and each run
            if (runs < 0).any() or (runs > columns.size).any() or (len(ends) and ends[-1, 1] > columns.size):
                raise RejectedError("run lengths that leave the image")
            for start, end in ends:
                columns[start:end] = 255
        return np.ascontiguousarray(columns.reshape(width, height).T)


class SiimAcr:
    """The label is 1 if the table has a region, 0 for -1; an image with several regions has several lines.

    Args:
        images: the folder with the table and, at any depth, the DICOM files, named by their UID.
        attributes: any of sex, age, view, manufacturer.

    Raises:
        UserError: the table, a column or a name is missing.
    """

    label_names: Sequence[str] = ("Pneumothorax",)

    def __init__(self, images: PathStr, attributes: Sequence[str] = ()):
        self.root, self.attributes = folder_at(images), attributes
        self.table = listed_in(self.root, "train-rle.csv", "stage_2_train.csv")

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """Files of the table, rejected if missing, and files without a line (such as test images), rejected."""
        return in_threads(self._described, self._records(), workers)

    def _records(self) -> Iterator[SourceRecord]:
        regions: dict[str, list[str]] = defaultdict(list)
        for row in read_table(self.table, ["ImageId", "EncodedPixels"]):  # in the file: " EncodedPixels"
            name, runs = row.cells["ImageId"], row.cells["EncodedPixels"]
            if not name:
                raise table_error(self.table, "no ImageId", row)
            regions[name] += [runs] if runs not in ("", "-1") else []
        seen = set()
        for path in files_ending(self.root, ".dcm"):
            name = path.stem
            if name in seen:
                yield SourceRecord(
                    path.relative_to(self.root).as_posix(), path, rejected="a duplicate file of this UID"
                )
                continue
            seen.add(name)
            if name not in regions:
                yield SourceRecord(name, path, rejected="no line in the table")
            else:
                labels = (float(bool(regions[name])),)
                yield SourceRecord(name, path, labels=labels, mask=Runs(tuple(regions[name])))
        for name in regions.keys() - seen:
            yield SourceRecord(name, self.root / name, rejected="listed, but missing")

    def _described(self, record: SourceRecord) -> SourceRecord:
        """The record with the patient and attributes of the file's header."""
        record = with_size(record)
        if record.rejected is not None:
            return record
        assert not isinstance(record.image, Input)
        try:
            header = header_of(record.image)
        except RejectedError as error:
            return replace(record, rejected=str(error))
        attributes = {name: header[name] for name in self.attributes if name in header}
        return replace(record, patient=header.get("patient"), study=header.get("study"), attributes=attributes)
