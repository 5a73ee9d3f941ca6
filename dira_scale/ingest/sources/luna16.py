"""LUNA16: 888 thoracic CT of LIDC-IDRI as MetaImage in ten folds, nodules in millimetres (Setio et al., MedIA 2017)."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dira_scale.config.schema import Place
from dira_scale.errors import UserError
from dira_scale.imaging.boxes import Ball, clip_box
from dira_scale.imaging.files import size_of
from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.volumes.read import grid_of
from dira_scale.ingest.sources.base import SourceRecord
from dira_scale.ingest.sources.published import files_ending, listed_in, threaded
from dira_scale.places.tables import cell_number, read_columns
from dira_scale.places.walk import folder_at

FOLDS = tuple(f"subset{n}" for n in range(10))


@dataclass(frozen=True)
class Scan:
    """A scan's header file, its fold, and the bytes of its two files."""

    path: Path
    fold: str
    size: int


class Luna16:
    """Scans with the boxes of their nodules; the label says whether there is one.

    Args:
        images: the folder with ``subset0`` … ``subset9`` (or some of them) and ``annotations.csv``.

    Raises:
        UserError: no fold, no list, a column or number of it is absent.
    """

    label_names: Sequence[str] = ("nodule",)

    def __init__(self, images: Place):
        self.root = folder_at(images)
        self.scans = Scans(self.root)
        self.list = listed_in(self.root, "annotations.csv")

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """All scans of the folds that are there; a nodule of another scan is left out, and they are counted."""
        nodules: dict[str, list[Ball]] = defaultdict(list)
        for line in read_columns(self.list, ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]):
            x, y, z, diameter = (cell_number(self.list, line, cell) for cell in range(1, 5))
            nodules[line.cells[0]].append(Ball("nodule", (-x, -y, z), diameter))
        yield from self.scans.rejected
        yield from threaded(lambda uid: self._record(uid, nodules.get(uid, ())), self.scans.found, workers)
        self.scans.tell(self.list, Counter({uid: len(of) for uid, of in nodules.items()}))

    def _record(self, uid: str, nodules: Sequence[Ball]) -> SourceRecord:
        scan = self.scans.found[uid]
        try:
            grid = grid_of(scan.path)[1] if nodules else None
        except RejectedError as error:
            return SourceRecord(uid, scan.path, rejected=str(error))
        boxes = tuple(clip_box(grid.box_around(*nodule), grid.shape) for nodule in nodules) if grid else ()
        labels = (float(bool(nodules)),)
        return SourceRecord(uid, scan.path, uid, uid, labels=labels, boxes=boxes, split=scan.fold, size=scan.size)


class Scans:
    """The scans of the folds that are there, by series UID, which is their file's name."""

    def __init__(self, root: Path):
        self.found: dict[str, Scan] = {}
        self.rejected: list[SourceRecord] = []
        folds = [fold for fold in FOLDS if (root / fold).is_dir()]
        if not folds:
            raise UserError(f"recipe.images={root} holds none of {', '.join(FOLDS)}")
        for fold in folds:
            for path in files_ending(root / fold, ".mhd"):
                uid, name = path.stem, path.relative_to(root).as_posix()
                if uid in self.found:
                    self.rejected.append(SourceRecord(name, path, rejected="a scan of this UID was met before"))
                    continue
                try:
                    self.found[uid] = Scan(path, fold, size_of(path) + size_of(path.with_suffix(".raw")))
                except RejectedError as error:
                    self.rejected.append(SourceRecord(name, path, rejected=str(error)))

    def tell(self, path: Path, lines: Counter[str]) -> None:
        """What is odd: lines of ``path`` for scans that are not there; and that the folds are not of patients."""
        print("LUNA16 names no patients: its folds are of scans, and two scans of one patient may be in two splits")
        absent = {uid: count for uid, count in lines.items() if uid not in self.found}
        if absent:
            print(f"{path.name}: {sum(absent.values())} lines are of {len(absent)} scans that are not there")
