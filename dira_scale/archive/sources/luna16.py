"""LUNA16: 888 thoracic CT of LIDC-IDRI as MetaImage in ten folds, nodules in millimetres (Setio et al., MedIA 2017)."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import files_ending, in_threads, listed_in
from dira_scale.config.schema import PathStr
from dira_scale.errors import UserError, print_line
from dira_scale.imaging.boxes import Ball, clip_box
from dira_scale.imaging.files import size_of
from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.volumes.read import grid_of
from dira_scale.storage.tables import cell_number, read_table
from dira_scale.storage.walk import folder_at

CENTRE = ("coordX", "coordY", "coordZ")  # columns
FOLDS = tuple(f"subset{n}" for n in range(10))


@dataclass(frozen=True)
class ScanFiles:
    """A scan's header file, its fold, and the bytes of its two files."""

    path: Path
    fold: str
    size: int


class Luna16:
    """Scans with boxes of their nodules; the label is 1 if there is one.

    Args:
        images: the folder with ``subset0`` … ``subset9`` (or some of them) and ``annotations.csv``.

    Raises:
        UserError: a missing fold, list, column or number.
    """

    label_names: Sequence[str] = ("nodule",)

    def __init__(self, images: PathStr):
        self.root = folder_at(images)
        self.scans = Scans(self.root)
        self.list = listed_in(self.root, "annotations.csv")

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """All scans of the existing folds; nodules of other scans are skipped, and their number printed."""
        nodules: dict[str, list[Ball]] = defaultdict(list)
        for row in read_table(self.list, ["seriesuid", *CENTRE, "diameter_mm"]):
            x, y, z, diameter = (cell_number(self.list, row, column) for column in (*CENTRE, "diameter_mm"))
            nodules[row.cells["seriesuid"]].append(Ball("nodule", (-x, -y, z), diameter))
        yield from self.scans.rejected
        yield from in_threads(lambda uid: self._record(uid, nodules.get(uid, ())), self.scans.by_uid, workers)
        self.scans.print_warnings(self.list, Counter({uid: len(of) for uid, of in nodules.items()}))

    def _record(self, uid: str, nodules: Sequence[Ball]) -> SourceRecord:
        scan = self.scans.by_uid[uid]
        try:
            grid = grid_of(scan.path)[1] if nodules else None
        except RejectedError as error:
            return SourceRecord(uid, scan.path, rejected=str(error))
        boxes = tuple(clip_box(grid.box_around(*nodule), grid.shape) for nodule in nodules) if grid else ()
        labels = (float(bool(nodules)),)
        return SourceRecord(uid, scan.path, uid, uid, labels=labels, boxes=boxes, split=scan.fold, size=scan.size)


class Scans:
    """The scans of the existing folds by series UID, which is the file name."""

    def __init__(self, root: Path):
        self.by_uid: dict[str, ScanFiles] = {}
        self.rejected: list[SourceRecord] = []
        folds = [fold for fold in FOLDS if (root / fold).is_dir()]
        if not folds:
            raise UserError(f"recipe.images={root} holds none of {', '.join(FOLDS)}")
        for fold in folds:
            for path in files_ending(root / fold, ".mhd"):
                uid, name = path.stem, path.relative_to(root).as_posix()
                if uid in self.by_uid:
                    self.rejected.append(SourceRecord(name, path, rejected="a duplicate scan of this UID"))
                    continue
                try:
                    self.by_uid[uid] = ScanFiles(path, fold, size_of(path) + size_of(path.with_suffix(".raw")))
                except RejectedError as error:
                    self.rejected.append(SourceRecord(name, path, rejected=str(error)))

    def print_warnings(self, path: Path, lines: Counter[str]) -> None:
        """Print warnings: folds are not by patient; lines of ``path`` for missing scans."""
        print_line(
            "LUNA16 does not identify patients: folds are by scan, and two scans of one patient may be in two splits"
        )
        absent = {uid: count for uid, count in lines.items() if uid not in self.by_uid}
        if absent:
            print_line(f"{path.name}: {sum(absent.values())} lines are for {len(absent)} missing scans")
