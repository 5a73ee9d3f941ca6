"""The phantom CT volumes of ``dira_scale.archive.phantom.ct``: DICOM series, NIfTI or MetaImage, like an archive's."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dira_scale.archive.phantom.ct.dataset import SMALLEST, generate
from dira_scale.archive.phantom.ct.study import KINDS
from dira_scale.archive.phantom.folder import check_sizes
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.phantom import drawn
from dira_scale.archive.sources.volumes import Volumes
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import nearest


class PhantomCT:
    """Reads ``images`` (a folder made earlier); if null, first makes one below ``folder``.

    Args:
        images: folder with ``images/``, ``masks/``, ``labels.csv`` and ``boxes.csv``.
        patients, seed, size: of the phantoms made: number of patients, random seed, rows and columns.
        kind: thorax (lungs and nodules) or abdomen (liver and lesions).
        format: dicom, nifti or metaimage.
        attributes: any of sex, age.
        folder: where it is made, in a subfolder named after patients, size, seed and format.
    """

    def __init__(
        self,
        images: PathStr | None,
        patients: int,
        seed: int,
        size: int,
        kind: str,
        format: str,
        attributes: Sequence[str] = (),
        folder: PathStr = "out/phantom_ct",
    ):
        if kind not in KINDS:
            raise ArgumentError("kind", kind, f"{' or '.join(KINDS)}{nearest(kind, KINDS)}")
        self.made = images is None
        if self.made:
            check_sizes(patients, size, SMALLEST)
        self.root = Path(images or f"{folder}/{kind}-patients{patients}-size{size}-seed{seed}-{format}")
        self.patients, self.seed, self.size, self.kind, self.format = patients, seed, size, kind, format
        self.attributes = attributes
        self.label_names: Sequence[str] = KINDS[kind]

    def records(self, workers: int) -> Iterator[SourceRecord]:
        if self.made:
            generate(self.root, self.patients, self.seed, self.kind, self.format, self.size, workers)
        return drawn(Volumes, self.root, "images", self.label_names, self.attributes).records(workers)
