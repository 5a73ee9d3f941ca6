"""Cut-outs of LIDC-IDRI's nodules with masks and ratings: one table line and two NIfTI files each."""

from collections.abc import Iterator, Sequence

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import (
    files_ending,
    folder_in,
    in_threads,
    listed_in,
    reject_repeated,
    with_size,
)
from dira_scale.config.schema import PathStr
from dira_scale.storage.tables import cell_number, read_table
from dira_scale.storage.walk import folder_at

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


class LidcVois:
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

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """The nodules of the table, rejected if without files, and images without a line, rejected."""
        return reject_repeated(in_threads(with_size, self._records(), workers), self.root)

    def _records(self) -> Iterator[SourceRecord]:
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
