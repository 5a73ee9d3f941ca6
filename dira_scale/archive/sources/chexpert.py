"""Stanford's CheXpert, full or small: its two tables, uncertain labels unchanged (Irvin et al., AAAI 2019)."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending, folder_in, listed_in
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import TableRow, cell_number, read_table, table_error
from dira_scale.base.storage.walk import folder_at

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)


class CheXpert(ListedFiles):
    """Labels are 1, 0, -1 (uncertain) and NaN where the report does not mention the finding.

    Args:
        images: the folder with ``train.csv``, ``valid.csv`` and the folders ``train`` and ``valid``.
        attributes: any of sex, age, view.

    Raises:
        UserError: a missing table, folder or column; an invalid label; a path without a patient, or a repeated one.
    """

    label_names: Sequence[str] = FINDINGS

    def __init__(self, images: PathStr, attributes: Sequence[str] = ()):
        self.root, self.attributes = folder_at(images), attributes
        self.tables = [listed_in(self.root, f"{split}.csv") for split in ("train", "valid")]
        self.folders = [folder_in(self.root, split) for split in ("train", "valid")]

    def listed(self) -> Iterator[SourceRecord]:
        """Listed images, rejected if missing, and images below ``train`` and ``valid`` without a line, rejected."""
        listed: set[str] = set()
        for table in self.tables:
            for row in read_table(table, COLUMNS):
                cell, sex, age, side, projection = (row.cells[column] for column in COLUMNS[:5])
                name = str(PurePosixPath(*PurePosixPath(cell).parts[1:]))  # behind CheXpert-v1.0 or -v1.0-small
                parts = re.fullmatch(r"(train|valid)/(patient\d+)/(study\d+)/[^/]+", name)
                if not parts:
                    raise table_error(table, f"expected CheXpert-v1.0…/train/patientN/studyN/FILE, got '{cell}'", row)
                labels = tuple(uncertain(table, row, finding) for finding in FINDINGS)
                if name in listed:
                    raise table_error(table, f"a second line for {name}: keep one", row)
                listed.add(name)
                facts = {
                    "sex": sex,  # one patient's is Unknown, which is dropped later
                    "age": "" if age in ("0", "0.0") else age,  # three films of adults have age 0
                    "view": projection or ("LATERAL" if side == "Lateral" else ""),  # a few frontal ones have LL or RL
                }
                yield SourceRecord(
                    name,
                    self.root / name,
                    patient=parts[2],
                    study=parts[3],
                    labels=labels,
                    split=parts[1],
                    attributes={name: facts[name] for name in self.attributes if facts.get(name)},
                )
        for folder in self.folders:
            for path in files_ending(folder, ".jpg"):
                name = path.relative_to(self.root).as_posix()
                if name not in listed:
                    yield SourceRecord(name, path, rejected="no line in the tables")


def uncertain(table: Path, row: TableRow, finding: str) -> float:
    """The cell's 1, 0 or -1 (uncertain); NaN if it is empty. Raises UserError for anything else."""
    value = cell_number(table, row, finding) if row.cells[finding] else math.nan
    if value not in (0, 1, -1) and value == value:
        raise table_error(table, f"{finding}: expected 1, 0 or -1, got {value:g}", row)
    return value
