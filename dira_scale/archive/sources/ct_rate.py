"""CT-RATE: chest CT with labels text-mined from their reports (Hamamci et al., arXiv:2403.17834)."""

import math
import re
from collections.abc import Iterator, Sequence

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedNames, folder_in, listed_in
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import cell_number, read_names, read_table, table_error
from dira_scale.base.storage.walk import folder_at

SPLITS = ("train", "valid")
NAME = re.compile(r"(((?:train|valid)_\d+)_[a-z]+)_\d+\.nii\.gz")  # split_patient_scan_reconstruction: study, patient


class CtRate(ListedNames):
    """Volumes of ``train_fixed`` and ``valid_fixed``; reconstructions of one scan are of one study.

    Args:
        images: the folder ``dataset``, with ``multi_abnormality_labels``, ``metadata`` and the volumes.

    Raises:
        UserError: a missing table, folder or column; an invalid name or label; two lines for a volume.
    """

    endings = (".nii.gz",)

    def __init__(self, images: PathStr):
        self.root = folder_at(images)
        labels, metadata = (folder_in(self.root, name) for name in ("multi_abnormality_labels", "metadata"))
        self.tables = {split: listed_in(labels, f"{split}_predicted_labels.csv") for split in SPLITS}
        self.no_chest = {split: listed_in(metadata, f"no_chest_{split}.txt") for split in SPLITS}
        folders = [self.root / f"{split}_fixed" for split in SPLITS]
        self.folders = [folder for folder in folders if folder.is_dir()] or [folder_in(self.root, "train_fixed")]
        header = next(read_table(self.tables["train"], ["VolumeName"]), None)
        self.label_names: Sequence[str] = tuple(
            name for name in (header.cells if header else ()) if name != "VolumeName"
        )

    def listed(self) -> Iterator[SourceRecord]:
        """Yield the volumes of the tables; reject those that are not of the chest."""
        for split, table in self.tables.items():
            no_chest = {name.rpartition("/")[2] for name in read_names(self.no_chest[split])}
            for row in read_table(table, ["VolumeName", *self.label_names]):
                volume = row.cells["VolumeName"]
                if not (name := NAME.fullmatch(volume)):
                    raise table_error(table, f"expected train_PATIENT_SCAN_NUMBER.nii.gz, got '{volume}'", row)
                cells = ((label, row.cells[label]) for label in self.label_names)
                labels = (cell_number(table, row, label) if cell else math.nan for label, cell in cells)
                yield SourceRecord(
                    volume.removesuffix(".nii.gz"),
                    self.root,
                    name[2],
                    name[1],
                    tuple(labels),
                    split=split,
                    rejected="not of the chest, by the dataset's list" if volume in no_chest else None,
                )
