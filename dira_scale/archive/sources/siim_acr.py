"""SIIM-ACR Pneumothorax: DICOM files, and masks as run lengths in a table (Kaggle, 2019)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedNames, listed_in, with_header
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import read_table, table_error
from dira_scale.base.storage.walk import folder_at


@dataclass(frozen=True)
class RunLengths:
    """Regions as run lengths: pairs of gap and length in pixels, down each column, column by column.

    A gap counts from the end of the previous run (the first from the upper left corner); other run-length formats use
    absolute positions. Regions may overlap.
    """

    regions: tuple[str, ...]

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """255 inside. Raises RejectedError for malformed runs, or runs outside the image."""
        assert isinstance(image, GreyImage)
        height, width = image.pixels.shape[:2]
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


class SiimAcr(ListedNames):
    """The label is 1 if the table has a region, 0 for -1; an image with several regions has several lines.

    Args:
        images: the folder with the table and, at any depth, the DICOM files, named by their UID.
        attributes: any of sex, age, view, manufacturer.

    Raises:
        UserError: the table, a column or a name is missing.
    """

    label_names: Sequence[str] = ("Pneumothorax",)
    endings = (".dcm",)

    def __init__(self, images: PathStr, attributes: Sequence[str] = ()):
        self.root, self.attributes = folder_at(images), attributes
        self.table = listed_in(self.root, "train-rle.csv", "stage_2_train.csv")

    def listed(self) -> Iterator[SourceRecord]:
        """Yield the images of the table. Test images have no line there, and are rejected."""
        regions: dict[str, list[str]] = defaultdict(list)
        for row in read_table(self.table, ["ImageId", "EncodedPixels"]):  # in the file: " EncodedPixels"
            name, encoded = row.cells["ImageId"], row.cells["EncodedPixels"]
            if not name:
                raise table_error(self.table, "no ImageId", row)
            regions[name] += [encoded] if encoded not in ("", "-1") else []
        for name, runs in regions.items():
            yield SourceRecord(name, self.root, labels=(float(bool(runs)),), mask=RunLengths(tuple(runs)))

    def with_file(self, record: SourceRecord) -> SourceRecord:
        """Return the record with its file's size, patient and attributes, which only the header has."""
        described, header = with_header(record, self.attributes)
        return replace(described, patient=header.get("patient"), study=header.get("study"))
