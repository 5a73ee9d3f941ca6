"""LUNA16's false-positive reduction: blocks around candidates, of which one in five hundred is a nodule."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.luna16 import CENTRE, FOLDS, Scans
from dira_scale.archive.sources.published import listed_in
from dira_scale.config.schema import PathStr
from dira_scale.errors import UserError
from dira_scale.imaging.volumes.block import Block
from dira_scale.storage.tables import Row, cell_number, read_table, table_error
from dira_scale.storage.walk import folder_at


class Luna16Candidates:
    """Blocks around the candidates of the false-positive reduction track; the label is 1 for a nodule.

    Args:
        images: as ``Luna16``, with ``candidates_V2.csv``.
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
            raise UserError(f"recipe.patch={list(patch)}: give [z, y, x] in voxels, 1 to 512")
        if unknown := sorted(set(whole) - set(FOLDS)):
            raise UserError(f"recipe.whole: unknown fold '{unknown[0]}', use some of {', '.join(FOLDS)}")
        self.root = folder_at(images)
        self.scans = Scans(self.root)
        self.list = listed_in(self.root, "candidates_V2.csv", "candidates.csv")
        z, y, x = patch
        self.patch, self.negatives, self.whole, self.seed = (z, y, x), negatives, frozenset(whole), seed

    def records(self, workers: int) -> Iterator[SourceRecord]:
        yield from self.scans.rejected
        share, absent = self._share(), Counter[str]()
        for row in self._rows():
            uid, kind = row.cells["seriesuid"], row.cells["class"]
            scan = self.scans.by_uid.get(uid)
            if scan is None:
                absent[uid] += 1
            elif kind == "1" or scan.fold in self.whole or self._drawn(row) < share:
                x, y, z = (cell_number(self.list, row, column) for column in CENTRE)
                block = Block(scan.path, (x, y, z), self.patch)
                name = f"{uid}/{row.line}"
                yield SourceRecord(name, block, uid, uid, labels=(float(kind),), split=scan.fold, size=scan.size)
        self.scans.print_warnings(self.list, absent)

    def _rows(self) -> Iterator[Row]:
        for row in read_table(self.list, ["seriesuid", *CENTRE, "class"]):
            if row.cells["class"] not in ("0", "1"):
                raise table_error(self.list, f"expected class 0 or 1, got '{row.cells['class']}'", row)
            yield row

    def _share(self) -> float:
        """The share of negatives kept in folds not in ``whole``."""
        if self.negatives is None:
            return 1.0
        thinned = {uid for uid, scan in self.scans.by_uid.items() if scan.fold not in self.whole}
        counts = Counter(row.cells["class"] for row in self._rows() if row.cells["seriesuid"] in thinned)
        return self.negatives * counts["1"] / max(1, counts["0"])

    def _drawn(self, row: Row) -> float:
        """A number in [0, 1) determined by seed and candidate."""
        cells = [row.cells[column] for column in ("seriesuid", *CENTRE)]
        digest = hashlib.blake2b(" ".join([str(self.seed), *cells]).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
