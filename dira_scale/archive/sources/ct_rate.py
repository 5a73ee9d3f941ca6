"""CT-RATE: chest CT with labels text-mined from their reports (Hamamci et al., arXiv:2403.17834)."""

import math
import re
from collections.abc import Iterator, Sequence

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import by_name, folder_in, in_threads, listed_in, with_size
from dira_scale.config.schema import PathStr
from dira_scale.storage.tables import cell_number, read_names, read_table, table_error
from dira_scale.storage.walk import folder_at

SPLITS = ("train", "valid")
NAME = re.compile(
    r"(((?:train|valid)_\d+)_[a-z]+)_\d+\.nii\.gz"
)  # of split_patient_scan_reconstruction: study, patient


class CtRate:
    """Volumes of ``train_fixed`` and ``valid_fixed``; reconstructions of one scan are of one study.

    Args:
        images: the folder ``dataset``, with ``multi_abnormality_labels``, ``metadata`` and the volumes.

    Raises:
        UserError: a missing table, folder or column; an invalid name or label; two lines for a volume.
    """

    def __init__(self, images: PathStr):
        self.root = folder_at(images)
        labels, metadata = (folder_in(self.root, name) for name in ("multi_abnormality_labels", "metadata"))
        self.tables = [listed_in(labels, f"{split}_predicted_labels.csv") for split in SPLITS]
        self.others = [listed_in(metadata, f"no_chest_{split}.txt") for split in SPLITS]
        self.folders = [self.root / f"{split}_fixed" for split in SPLITS]
        if not any(folder.is_dir() for folder in self.folders):
            folder_in(self.root, "train_fixed")
        header = next(read_table(self.tables[0], ["VolumeName"]), None)
        self.label_names: Sequence[str] = tuple(
            name for name in (header.cells if header else ()) if name != "VolumeName"
        )

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """Volumes of the tables, rejected if missing or not of the chest, and volumes without a line, rejected."""
        records = (record for part in range(len(SPLITS)) for record in self._records(part))
        folders = filter(lambda folder: folder.is_dir(), self.folders)
        return in_threads(with_size, by_name(records, self.root, ".nii.gz", folders=folders), workers)

    def _records(self, part: int) -> Iterator[SourceRecord]:
        table = self.tables[part]
        no_chest = {name.rpartition("/")[2] for name in read_names(self.others[part])}
        for row in read_table(table, ["VolumeName", *self.label_names]):
            volume = row.cells["VolumeName"]
            if not (name := NAME.fullmatch(volume)):
                raise table_error(table, f"expected train_PATIENT_SCAN_NUMBER.nii.gz, got '{volume}'", row)
            known = (cell_number(table, row, label) if row.cells[label] else math.nan for label in self.label_names)
            yield SourceRecord(
                volume.removesuffix(".nii.gz"),
                self.root,
                name[2],
                name[1],
                tuple(known),
                split=SPLITS[part],
                rejected="not of the chest, by the dataset's list" if volume in no_chest else None,
            )
