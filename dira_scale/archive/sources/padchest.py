"""PadChest: 16-bit radiographs, each with a list of labels (Bustos et al., Medical Image Analysis 2020)."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedNames, listed_in
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import nearest
from dira_scale.base.storage.tables import TableRow, read_table
from dira_scale.base.storage.walk import folder_at

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = (
    "ImageID", "StudyID", "PatientID", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM", "Projection", "Labels"
)  # fmt: skip
NOTHING = {"", "exclude", "unchanged", "suboptimal study"}  # say nothing about findings
VIEWS = {"L": "LATERAL", "AP_horizontal": "AP"}


class PadChest(ListedNames):
    """A label is 1 for the images whose list has it, 0 for others, NaN where a list is empty or names no finding.

    Args:
        images: the folder with the table, as ``.csv.gz`` or ``.csv``, and the images at any depth.
        findings: the labels, as the table spells them; null: those of at least ``least`` images, by letter.
        attributes: any of sex, age, view.

    Raises:
        UserError: a missing table or column; a finding that no image has; two lines for an image.
    """

    endings = (".png",)

    def __init__(
        self, images: PathStr, findings: Sequence[str] | None = None, least: int = 100, attributes: Sequence[str] = ()
    ):
        self.root, self.attributes = folder_at(images), attributes
        self.table = listed_in(self.root, f"{TABLE}.gz", TABLE)
        counts = Counter(label for row in read_table(self.table, COLUMNS) for label in _labels(row) - NOTHING)
        if unknown := next((label for label in findings or () if label not in counts), None):
            raise ArgumentError("findings", unknown, f"findings that some image has{nearest(unknown, counts)}")
        self.label_names: Sequence[str] = tuple(
            findings or sorted(label for label, count in counts.items() if count >= least)
        )

    def listed(self) -> Iterator[SourceRecord]:
        """Yield the images of the table."""
        for row in read_table(self.table, COLUMNS):
            labels, cells = _labels(row), row.cells
            unknown = labels <= NOTHING
            view = cells["Projection"]
            study, birth = (re.match(r"\d{4}", cells[column]) for column in ("StudyDate_DICOM", "PatientBirth"))
            age = str(max(0, int(study[0]) - int(birth[0]))) if study and birth else ""
            facts = {"sex": cells["PatientSex_DICOM"], "age": age, "view": VIEWS.get(view, view)}
            yield SourceRecord(
                cells["ImageID"].removesuffix(".png"),
                self.root,
                cells["PatientID"] or None,
                cells["StudyID"] or None,
                tuple(math.nan if unknown else float(label in labels) for label in self.label_names),
                attributes={name: facts[name] for name in self.attributes if facts.get(name)},
            )


def _labels(row: TableRow) -> set[str]:
    """The labels of a cell such as ``['pleural effusion', ' cardiomegaly']``."""
    return {
        label.strip().lower() for pair in re.findall(r"'([^']*)'|\"([^\"]*)\"", row.cells["Labels"]) for label in pair
    }
