"""MIMIC-CXR, as JPEG or as DICOM: labels and split from MIMIC-CXR-JPG's tables (Johnson et al., arXiv:1901.07042)."""

import math
from collections.abc import Iterator, Sequence

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.chexpert import FINDINGS, uncertain
from dira_scale.archive.sources.published import ListedNames, listed_in
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import read_table
from dira_scale.base.storage.walk import folder_at

UNKNOWN = (math.nan,) * len(FINDINGS)


class MimicCxr(ListedNames):
    """CheXpert's labels of a study's report count for each of its images: 1, 0, -1 (uncertain), NaN (not mentioned).

    Args:
        images: the folder with the images at any depth, named by their DICOM identifier.
        tables: the folder with ``mimic-cxr-2.0.0-split``, ``-metadata`` and ``-chexpert`` as ``.csv.gz`` or ``.csv``;
            null: ``images``. The release of DICOM files has none of its own.
        attributes: view, if wanted.

    Raises:
        UserError: a missing table or column; an invalid label; two lines for an image.
    """

    label_names: Sequence[str] = FINDINGS
    endings = (".jpg", ".dcm")

    def __init__(self, images: PathStr, tables: PathStr | None = None, attributes: Sequence[str] = ()):
        self.root, self.attributes = folder_at(images), attributes
        key = "images" if tables is None else "tables"
        folder = self.root if tables is None else folder_at(tables, "recipe.tables")
        self.split, self.metadata, self.labels = (
            listed_in(folder, f"mimic-cxr-2.0.0-{name}.csv.gz", f"mimic-cxr-2.0.0-{name}.csv", key=key)
            for name in ("split", "metadata", "chexpert")
        )

    def listed(self) -> Iterator[SourceRecord]:
        """Yield the images of the split's table."""
        views = {row.cells["dicom_id"]: row.cells["ViewPosition"]
                 for row in read_table(self.metadata, ["dicom_id", "ViewPosition"])}  # fmt: skip
        labels = {row.cells["study_id"]: tuple(uncertain(self.labels, row, finding) for finding in FINDINGS)
                  for row in read_table(self.labels, ["study_id", *FINDINGS])}  # fmt: skip
        for row in read_table(self.split, ["dicom_id", "study_id", "subject_id", "split"]):
            image, study = row.cells["dicom_id"], row.cells["study_id"]
            view = views.get(image)
            yield SourceRecord(
                image,
                self.root,
                row.cells["subject_id"],
                study,
                labels.get(study, UNKNOWN),
                split=row.cells["split"],
                attributes={"view": view} if view and "view" in self.attributes else {},
            )
