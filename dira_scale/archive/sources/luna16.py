"""LUNA16: 888 thoracic CT of LIDC-IDRI as MetaImage in ten folds, nodules in millimetres (Setio et al., MedIA 2017);
blocks around the candidates of its false-positive reduction."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dira_scale.archive.deidentify import IRRELEVANT
from dira_scale.archive.imaging.boxes import Ball, clip_box
from dira_scale.archive.imaging.files import size_of
from dira_scale.archive.imaging.rejection import RejectedError, rejects
from dira_scale.archive.imaging.settings import ReadSettings
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.geometry import LPS_TO_RAS, Grid
from dira_scale.archive.imaging.volumes.read import grid_of
from dira_scale.archive.imaging.volumes.values import to_volume
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import files_ending, in_threads, listed_in
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import print_line
from dira_scale.base.storage.store import read_ranges
from dira_scale.base.storage.tables import TableRow, cell_number, read_table, table_error
from dira_scale.base.storage.walk import folder_at

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
        nodules = nodules_in(self.list)
        yield from self.scans.rejected
        yield from in_threads(lambda uid: self._record(uid, nodules.get(uid, ())), self.scans.by_uid, workers)
        self.scans.print_warnings(self.list, Counter({uid: len(balls) for uid, balls in nodules.items()}))

    def _record(self, uid: str, nodules: Sequence[Ball]) -> SourceRecord:
        scan = self.scans.by_uid[uid]
        try:
            grid = grid_of(scan.path)[1] if nodules else None
        except RejectedError as error:
            return SourceRecord(uid, scan.path, rejected=str(error))
        boxes = tuple(clip_box(grid.box_around(*nodule), grid.shape) for nodule in nodules) if grid else ()
        labels = (float(bool(nodules)),)
        return SourceRecord(uid, scan.path, uid, uid, labels=labels, boxes=boxes, split=scan.fold, size=scan.size)


def nodules_in(path: Path) -> dict[str, list[Ball]]:
    """Return the nodules of a list of annotations by scan. Raises UserError naming column or line."""
    nodules: dict[str, list[Ball]] = defaultdict(list)
    for row in read_table(path, ["seriesuid", *CENTRE, "diameter_mm"]):
        x, y, z, diameter = (cell_number(path, row, column) for column in (*CENTRE, "diameter_mm"))
        nodules[row.cells["seriesuid"]].append(Ball("nodule", (-x, -y, z), diameter))
    return nodules


class Scans:
    """The scans of the existing folds by series UID, which is the file name."""

    def __init__(self, root: Path):
        self.by_uid: dict[str, ScanFiles] = {}
        self.rejected: list[SourceRecord] = []
        folds = [fold for fold in FOLDS if (root / fold).is_dir()]
        if not folds:
            raise ArgumentError("images", str(root), f"a folder with some of {', '.join(FOLDS)}")
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


AIR = -1000  # HU


@dataclass(frozen=True, slots=True)
class CandidateBlock:
    """A part of a MetaImage scan, 16 bits in a ``.raw``: its centre (mm, DICOM's) and its size in voxels."""

    path: Path
    middle: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.path, self.path.with_suffix(".raw")

    def read(self, settings: ReadSettings) -> Volume:
        """Read only the rows that it needs. Raises RejectedError, also if the centre is outside the scan."""
        grid, _ = grid_of(self.path)
        x_y_z = np.linalg.solve(grid.affine, LPS_TO_RAS @ [*self.middle, 1])[:3]
        middle = np.rint(x_y_z[::-1]).astype(int)
        if (middle < 0).any() or (middle >= grid.shape).any():
            raise RejectedError("a candidate outside its scan")
        first = middle - np.array(self.shape) // 2
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ first[::-1]
        return to_volume(Grid(self.shape, affine), lambda: self._values(grid.shape, first), settings)

    def _values(self, scan: tuple[int, int, int], first: np.ndarray) -> np.ndarray:
        """int16 [Z, Y, X] of the block starting at voxel ``first`` of the scan."""
        values, raw = np.full(self.shape, AIR, np.int16), self.path.with_suffix(".raw")
        if size_of(raw) != 2 * int(np.prod(scan)):
            raise RejectedError("the values beside the header are not all of the scan's, as 16-bit numbers")
        _, height, width = scan
        low, high = np.maximum(first, 0), np.minimum(first + self.shape, scan)
        rows = [(z * height + int(low[1]), z * height + int(high[1])) for z in range(low[0], high[0])]
        with rejects("the file cannot be read ({})"):  # of each slice, only the rows of the block
            read = read_ranges(raw, [(2 * width * begin, 2 * width * end) for begin, end in rows])
        block = np.frombuffer(b"".join(read), "<i2").reshape(len(rows), -1, width)[..., low[2] : high[2]]
        z, y, x = (slice(a, b) for a, b in zip(low - first, high - first, strict=True))
        values[z, y, x] = block
        return values


UNMEASURED = 10.0  # mm across, of an excluded finding whose diameter is below 0 (noduleCADEvaluationLUNA16.py)


class Findings:
    """The findings of all scans, to decide which nodules a candidate lies in as LUNA16's evaluation script does.

    ``included``, ``excluded``: ``annotations.csv`` and ``annotations_excluded.csv``. Within the radius of an included
    nodule it is its hit; within that of an excluded finding, and of no nodule, it is irrelevant.
    """

    def __init__(self, included: Path, excluded: Path):
        self.nodules = nodules_in(included)
        self.others = nodules_in(excluded) if excluded.is_file() else {}
        if not self.others:
            print_line(f"{excluded.name} is absent: findings that LUNA16's FROC leaves out count as false positives")

    def attributes(self, uid: str, point: tuple[float, float, float]) -> dict[str, str]:
        """Return the attributes of a candidate at ``point`` (mm, DICOM's)."""
        nodules, x, y, z = self.nodules.get(uid, []), *point

        def holds(ball: Ball) -> bool:
            radius = (ball.diameter if ball.diameter >= 0 else UNMEASURED) / 2
            return math.dist(ball.middle, (-x, -y, z)) < radius

        hit = [str(number) for number, nodule in enumerate(nodules, 1) if holds(nodule)]
        other = IRRELEVANT if not hit and any(map(holds, self.others.get(uid, ()))) else ""
        return {"lesion": " ".join(hit) or other, "lesions": str(len(nodules))}


class Luna16Candidates:
    """Blocks around the candidates of the false-positive reduction track; the label is 1 for a nodule.

    Attributes say which nodule of its scan a candidate lies in (``Findings``), where ``annotations.csv`` is there.

    Args:
        images: as ``Luna16``, with ``candidates_V2.csv``; for the FROC also ``annotations.csv`` and
            ``annotations_excluded.csv``.
        patch: voxels of a block, [z, y, x], at the scan's own spacing; padded with air outside the scan.
        negatives: number of negative candidates per nodule, on average; null: all.
        whole: folds whose candidates are all used.
        seed: for drawing negatives. Larger ``negatives`` only add candidates.

    Raises:
        UserError: a missing fold, list, column or number; an invalid patch.
    """

    label_names: Sequence[str] = ("nodule",)

    def __init__(self, images: PathStr, patch: Sequence[int], negatives: float | None, whole: Sequence[str], seed: int):
        if len(patch) != 3 or not all(isinstance(side, int) and 0 < side <= 512 for side in patch):
            raise ArgumentError("patch", patch, "[z, y, x] in voxels, 1 to 512")
        if unknown := sorted(set(whole) - set(FOLDS)):
            raise ArgumentError("whole", unknown[0], f"some of {', '.join(FOLDS)}")
        self.root = folder_at(images)
        self.scans = Scans(self.root)
        self.list = listed_in(self.root, "candidates_V2.csv", "candidates.csv")
        lists = [self.root / f"annotations{name}.csv" for name in ("", "_excluded")]
        self.findings = Findings(*lists) if lists[0].is_file() else None
        if not self.findings:
            print_line(f"{lists[0].name} is absent: without it candidates have no FROC")
        z, y, x = patch
        self.patch, self.negatives, self.whole, self.seed = (z, y, x), negatives, frozenset(whole), seed

    def records(self, workers: int) -> Iterator[SourceRecord]:
        yield from self.scans.rejected
        share, absent = 1.0, Counter[str]()
        if self.negatives is not None:  # the share of negatives that is kept in folds not in ``whole``
            thinned = {uid for uid, scan in self.scans.by_uid.items() if scan.fold not in self.whole}
            counts = Counter(row.cells["class"] for row in self._rows() if row.cells["seriesuid"] in thinned)
            share = self.negatives * counts["1"] / max(1, counts["0"])
        for row in self._rows():
            uid, kind = row.cells["seriesuid"], row.cells["class"]
            scan = self.scans.by_uid.get(uid)
            if scan is None:
                absent[uid] += 1
            elif kind == "1" or scan.fold in self.whole or self._drawn(row) < share:
                x, y, z = (cell_number(self.list, row, column) for column in CENTRE)
                block = CandidateBlock(scan.path, (x, y, z), self.patch)
                about = self.findings.attributes(uid, block.middle) if self.findings else {}
                yield SourceRecord(
                    f"{uid}/{row.line}", block, uid, uid, labels=(float(kind),), split=scan.fold, attributes=about,
                    size=scan.size,
                )  # fmt: skip
        self.scans.print_warnings(self.list, absent)

    def _rows(self) -> Iterator[TableRow]:
        for row in read_table(self.list, ["seriesuid", *CENTRE, "class"]):
            if row.cells["class"] not in ("0", "1"):
                raise table_error(self.list, f"expected class 0 or 1, got '{row.cells['class']}'", row)
            yield row

    def _drawn(self, row: TableRow) -> float:
        """A number in [0, 1) determined by seed and candidate."""
        cells = [row.cells[column] for column in ("seriesuid", *CENTRE)]
        digest = hashlib.blake2b(" ".join([str(self.seed), *cells]).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
