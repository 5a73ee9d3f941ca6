"""VinDr-CXR: radiographs read by three radiologists each, with boxes (Nguyen et al., Scientific Data 2022)."""

from collections import Counter
from collections.abc import Iterator, Sequence

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedNames, folder_in, listed_in
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import cell_number, read_table, table_error
from dira_scale.base.storage.walk import folder_at

SPLITS = ("train", "test")
SIDES = ("x_min", "y_min", "x_max", "y_max")
NAMES = {"Other disease": "Other diseases"}  # the test table's spelling


class VinDrCxr(ListedNames):
    """A label is 1 if enough readers gave it; the test part has one line for an image, its readers' consensus.

    Boxes are those of an image's labels, of each reader who drew one.

    Args:
        images: the folder with ``annotations``, ``train`` and ``test``.
        readers: how many of an image's three readers must give a label, 1 to 3.
        attributes: any of sex, age, manufacturer, from the DICOM header.

    Raises:
        UserError: a missing table, folder or column; a label or a side of a box that is not a number.
    """

    endings = (".dicom", ".dcm")
    in_headers = True

    def __init__(self, images: PathStr, readers: int = 2, attributes: Sequence[str] = ()):
        if readers not in (1, 2, 3):
            raise ArgumentError("readers", readers, "1 to 3")
        self.root, self.readers, self.attributes = folder_at(images), readers, attributes
        self.tables = folder_in(self.root, "annotations")
        self.labels = {split: listed_in(self.tables, f"image_labels_{split}.csv") for split in SPLITS}
        self.boxes = {split: listed_in(self.tables, f"annotations_{split}.csv") for split in SPLITS}
        header = next(read_table(self.labels["train"], ["image_id", "rad_id"]), None)
        columns = header.cells if header else ()
        self.label_names: Sequence[str] = tuple(name for name in columns if name not in ("image_id", "rad_id"))

    def listed(self) -> Iterator[SourceRecord]:
        """Yield the images of the tables, which have a line for each reader."""
        for split in SPLITS:
            table, votes, readers = self.labels[split], dict[str, Counter[str]](), Counter[str]()
            for row in read_table(table, ["image_id"]):
                counts = votes.setdefault(row.cells["image_id"], Counter())
                readers[row.cells["image_id"]] += 1
                columns = {NAMES.get(column, column): column for column in row.cells}
                for name in self.label_names:
                    if (column := columns.get(name)) is None:
                        raise table_error(table, f"no column '{name}', which is a label of the other table", row)
                    counts[name] += bool(row.cells[column] and cell_number(table, row, column))
            boxes = dict[str, list[Box]]()
            for row in read_table(self.boxes[split], ["image_id", "class_name", *SIDES]):
                if row.cells["x_min"]:
                    left, top, right, bottom = (cell_number(self.boxes[split], row, side) for side in SIDES)
                    box = Box(row.cells["class_name"], top, left, bottom - top, right - left)
                    boxes.setdefault(row.cells["image_id"], []).append(box)
            for image, counts in votes.items():
                enough = min(self.readers, readers[image])
                agreed = {name for name, count in counts.items() if count >= enough}
                yield SourceRecord(
                    image,
                    self.root,
                    labels=tuple(float(name in agreed) for name in self.label_names),
                    boxes=tuple(box for box in boxes.get(image, ()) if NAMES.get(box.label, box.label) in agreed),
                    split=split,
                )
