"""RSNA's pneumonia challenge of 2018: ChestX-ray14's images as DICOM, with boxes (Shih et al., Radiology: AI 2019)."""

import json
import math
from collections.abc import Iterator, Sequence

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedNames, files_ending, listed_in
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import cell_number, read_table, table_error
from dira_scale.base.storage.walk import folder_at

MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
SIDES = ("y", "x", "height", "width")


class RsnaPneumonia(ListedNames):
    """The labels are pneumonia (an opacity with a box) and normal; an image that is neither has another abnormality.

    Patients are ChestX-ray14's, by the mapping; the challenge numbers images only. Images of its test part, which has
    no labels, are among the others.

    Args:
        images: the folder with the two tables, the mapping and, at any depth, the DICOM files.
        attributes: any of sex, age, view.

    Raises:
        UserError: a missing table or column, or a side of a box that is not a number; a mapping of another form.
    """

    label_names: Sequence[str] = ("pneumonia", "normal")
    endings = (".dcm",)
    in_headers = True

    def __init__(self, images: PathStr, attributes: Sequence[str] = ()):
        self.root, self.attributes = folder_at(images), attributes
        self.boxes = listed_in(self.root, "stage_2_train_labels.csv")
        self.kinds = listed_in(self.root, "stage_2_detailed_class_info.csv")
        mapping = listed_in(self.root, MAPPING)
        try:  # ChestX-ray14's patient of each image
            entries = json.loads(mapping.read_bytes())
            self.patients = {entry["subset_img_id"]: str(int(entry["img_id"].partition("_")[0])) for entry in entries}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise table_error(mapping, f"not the challenge's mapping ({type(error).__name__}: {error})") from error

    def listed(self) -> Iterator[SourceRecord]:
        """Yield the images of the tables, and those of the test part."""
        boxes = dict[str, list[Box]]()
        for row in read_table(self.boxes, ["patientId", "Target", *SIDES]):
            drawn = boxes.setdefault(row.cells["patientId"], [])
            if row.cells["x"]:
                drawn.append(Box("pneumonia", *(cell_number(self.boxes, row, side) for side in SIDES)))
        kinds = {row.cells["patientId"]: row.cells["class"] for row in read_table(self.kinds, ["patientId", "class"])}
        for image, drawn in boxes.items():
            labels = float(bool(drawn)), float(kinds.get(image) == "Normal")
            yield SourceRecord(image, self.root, self.patients.get(image), labels=labels, boxes=tuple(drawn))
        folder = self.root / "stage_2_test_images"
        for path in files_ending(folder, ".dcm") if folder.is_dir() else ():
            if path.stem not in boxes:
                yield SourceRecord(path.stem, self.root, self.patients.get(path.stem), labels=(math.nan, math.nan))
