"""LiTS: abdominal CT with liver (1) and lesions (2), numbered files (Bilic et al., Medical Image Analysis 2023)."""

import re
from collections.abc import Iterator, Mapping, Sequence

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.walk import folder_at


class Lits(ListedFiles):
    """Files ``volume-N.nii`` with ``segmentation-N.nii``, and ``test-volume-N.nii`` without, gzipped or not.

    Args:
        images: the folder with these files at any depth.
        ranges: the split of each number: ``{train: [0, 99]}`` for 0 to 99.

    Raises:
        UserError: no such files; ranges that overlap.
    """

    def __init__(self, images: PathStr, ranges: Mapping[str, Sequence[int]]):
        self.root = folder_at(images)
        self.splits = {n: split for split, (first, last) in ranges.items() for n in range(first, last + 1)}
        if len(self.splits) < sum(last + 1 - first for first, last in ranges.values()):
            raise ArgumentError("ranges", dict(ranges), "ranges that do not overlap")
        self.files = {}
        for path in files_ending(self.root, ".nii", ".nii.gz"):
            if name := re.fullmatch(r"(volume|segmentation|test-volume)-(\d+)\.nii(\.gz)?", path.name.lower()):
                self.files[name[1], int(name[2])] = path
        if not self.files:
            raise ArgumentError("images", images, "a folder with volume-N.nii, at any depth")

    def listed(self) -> Iterator[SourceRecord]:
        """All volumes; rejects those outside all ranges or without a segmentation."""
        for (kind, n), path in self.files.items():
            name = f"{kind}-{n}"
            if kind == "test-volume":
                yield SourceRecord(name, path, name, split="unlabelled")
            elif kind == "volume":
                mask, split = self.files.get(("segmentation", n)), self.splits.get(n)
                lacking = "a number outside all ranges" if split is None else None if mask else "no segmentation"
                yield SourceRecord(name, path, name, mask=mask, split=split, rejected=lacking)
