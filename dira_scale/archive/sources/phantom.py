"""The phantom chest radiographs of ``dira_scale.archive.phantom``: a folder of DICOM like a hospital's."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dira_scale.archive.phantom.cxr.dataset import SMALLEST, generate
from dira_scale.archive.phantom.cxr.findings import MIXTURES
from dira_scale.archive.phantom.folder import check_sizes
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.folder import Folder
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import nearest


def drawn(kind: type[Folder], root: Path, images: str, labels: Sequence[str], attributes: Sequence[str]) -> Folder:
    """The source of the folder ``root`` of phantoms, whose files are below ``images``."""
    return kind(
        images=str(root / images),
        labels=str(root / "labels.csv"),
        boxes=str(root / "boxes.csv"),
        columns={"file": "file", "patient": "patient", "study": "study", "mask": "mask"},
        label_columns=labels,
        attributes=attributes,
    )


class Phantom:
    """Reads ``images`` (a folder made earlier); if null, first makes one below ``folder``.

    Args:
        images: folder with ``dicom/``, ``labels.csv`` and ``boxes.csv``.
        patients, seed, size: of the phantoms made: number of patients, random seed, pixels per side.
        attributes: any of sex, age, view.
        folder: where it is made, in a subfolder named after patients, seed, size and findings.
        findings: ``all`` 14 of ChestX-ray14, or ``small``: patches that raw pixels and random features miss.
    """

    def __init__(
        self,
        images: PathStr | None,
        patients: int,
        seed: int,
        size: int,
        attributes: Sequence[str] = (),
        folder: PathStr = "out/phantom_cxr",
        findings: str = "all",
    ):
        if findings not in MIXTURES:
            raise ArgumentError("findings", findings, f"{' or '.join(MIXTURES)}{nearest(findings, MIXTURES)}")
        self.made = images is None
        if self.made:
            check_sizes(patients, size, SMALLEST)
        which = "" if findings == "all" else f"-{findings}"
        self.root = Path(images or f"{folder}/patients{patients}-size{size}-seed{seed}{which}")
        self.patients, self.seed, self.size, self.attributes = patients, seed, size, attributes
        self.findings = findings
        self.label_names: Sequence[str] = MIXTURES[findings][0]

    def records(self, workers: int) -> Iterator[SourceRecord]:
        if self.made:
            generate(self.root, self.patients, self.seed, self.size, self.findings, workers)
        return drawn(Folder, self.root, "dicom", self.label_names, self.attributes).records(workers)
