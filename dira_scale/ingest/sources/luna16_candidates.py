"""LUNA16's false-positive reduction: blocks around candidates, of which one in five hundred is a nodule."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dira_scale.config.schema import Place
from dira_scale.errors import UserError
from dira_scale.imaging.files import size_of
from dira_scale.imaging.rejection import RejectedError, rejects
from dira_scale.imaging.settings import ReadSettings
from dira_scale.imaging.volume import Volume
from dira_scale.imaging.volumes.geometry import LPS_TO_RAS, Grid
from dira_scale.imaging.volumes.read import grid_of
from dira_scale.imaging.volumes.values import to_volume
from dira_scale.ingest.sources.base import SourceRecord
from dira_scale.ingest.sources.luna16 import FOLDS, Scans
from dira_scale.ingest.sources.published import listed_in
from dira_scale.places.store import parts
from dira_scale.places.tables import Line, number_in, read_columns, wrong
from dira_scale.places.walk import folder_at

AIR = -1000  # HU


class Luna16Candidates:
    """Blocks around the candidates of the false-positive reduction track; the label says whether it is a nodule.

    Args:
        images: as ``Luna16``, with ``candidates_V2.csv``.
        patch: voxels of a block, [z, y, x], at the scan's own spacing; beyond the scan it is air.
        negatives: how many candidates that are none are taken for each nodule, on average; null: all.
        whole: folds of which all candidates are taken.
        seed: of that choice. Larger ``negatives`` add candidates, they exchange none.

    Raises:
        UserError: no fold, no list, a column or number of it is absent; an impossible patch.
    """

    label_names: Sequence[str] = ("nodule",)

    def __init__(self, images: Place, patch: Sequence[int], negatives: float | None, whole: Sequence[str], seed: int):
        if len(patch) != 3 or not all(isinstance(side, int) and 0 < side <= 512 for side in patch):
            raise UserError(f"recipe.patch={list(patch)}: give [z, y, x] in voxels, 1 to 512")
        if unknown := sorted(set(whole) - set(FOLDS)):
            raise UserError(f"recipe.whole has '{unknown[0]}': use some of {', '.join(FOLDS)}")
        self.root = folder_at(images)
        self.scans = Scans(self.root)
        self.list = listed_in(self.root, "candidates_V2.csv", "candidates.csv")
        z, y, x = patch
        self.patch, self.negatives, self.whole, self.seed = (z, y, x), negatives, frozenset(whole), seed

    def records(self, workers: int) -> Iterator[SourceRecord]:
        yield from self.scans.rejected
        share, absent = self._share(), Counter[str]()
        for line in self._lines():
            uid, kind = line.cells[0], line.cells[4]
            scan = self.scans.found.get(uid)
            if scan is None:
                absent[uid] += 1
            elif kind == "1" or scan.fold in self.whole or self._drawn(line) < share:
                x, y, z = (number_in(self.list, line, cell) for cell in (1, 2, 3))
                block = Block(scan.path, (x, y, z), self.patch)
                name = f"{uid}/{line.number}"
                yield SourceRecord(name, block, uid, uid, labels=(float(kind),), split=scan.fold, size=scan.size)
        self.scans.tell(self.list, absent)

    def _lines(self) -> Iterator[Line]:
        for line in read_columns(self.list, ["seriesuid", "coordX", "coordY", "coordZ", "class"]):
            if line.cells[4] not in ("0", "1"):
                raise wrong(self.list, f"the class '{line.cells[4]}' is neither 0 nor 1", line)
            yield line

    def _share(self) -> float:
        """Of the negatives of the folds that are thinned out, which share is taken."""
        if self.negatives is None:
            return 1.0
        thinned = {uid for uid, scan in self.scans.found.items() if scan.fold not in self.whole}
        counts = Counter(line.cells[4] for line in self._lines() if line.cells[0] in thinned)
        return self.negatives * counts["1"] / max(1, counts["0"])

    def _drawn(self, line: Line) -> float:
        """A number in [0, 1) that seed and candidate alone determine."""
        digest = hashlib.blake2b(" ".join([str(self.seed), *line.cells[:4]]).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a scan: around which point (mm, DICOM's), of how many voxels."""

    path: Path
    middle: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.path, self.path.with_suffix(".raw")

    def read(self, settings: ReadSettings) -> Volume:
        """Only the rows that it needs. Raises RejectedError; also where the point is not within the scan."""
        grid, _ = grid_of(self.path)
        x_y_z = np.linalg.solve(grid.affine, LPS_TO_RAS @ [*self.middle, 1])[:3]
        middle = np.rint(x_y_z[::-1]).astype(int)
        if (middle < 0).any() or (middle >= grid.shape).any():
            raise RejectedError("a candidate outside of its scan")
        first = middle - np.array(self.shape) // 2
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ first[::-1]
        return to_volume(Grid(self.shape, affine), lambda: self._values(grid.shape, first), settings)

    def _values(self, scan: tuple[int, int, int], first: np.ndarray) -> np.ndarray:
        """int16 [Z, Y, X] of the block that begins at voxel ``first`` of the scan."""
        values, raw = np.full(self.shape, AIR, np.int16), self.path.with_suffix(".raw")
        if size_of(raw) != 2 * int(np.prod(scan)):
            raise RejectedError("the values beside the header are not all of the scan's, as 16-bit numbers")
        _, height, width = scan
        low, high = np.maximum(first, 0), np.minimum(first + self.shape, scan)
        rows = [(z * height + int(low[1]), z * height + int(high[1])) for z in range(low[0], high[0])]
        with rejects("the file cannot be read ({})"):  # of each slice the rows that the block reaches over
            read = parts(raw, [(2 * width * begin, 2 * width * end) for begin, end in rows])
        block = np.frombuffer(b"".join(read), "<i2").reshape(len(rows), -1, width)[..., low[2] : high[2]]
        z, y, x = (slice(a, b) for a, b in zip(low - first, high - first, strict=True))
        values[z, y, x] = block
        return values
