"""Which rows are used: those of earlier versions, row by row, and the rules' promises."""

import numpy as np
import pyarrow as pa
import pytest

from dira_scale.curation.subset import Part, _fold, _of_patients
from dira_scale.data.selection import drawn, nested_draws

# 24 rows of 9 patients of 1 to 5 rows, out of order.
PATIENTS = [f"p{number}" for number in (4, 0, 7, 7, 2, 8, 1, 4, 3, 5, 0, 6, 3, 3, 8, 8, 5, 1, 2, 8, 3, 8, 3, 6)]
SPLITS = ["test" if patient in ("p2", "p6") else "train" for patient in PATIENTS]
TABLE = pa.table({"split": SPLITS, "patient": PATIENTS})


def part(**keys) -> Part:
    return Part(**{"fraction": 1.0, "seed": 0, "splits": ("train",), "where": {}, "folds": None, "fold": 0} | keys)


def in_fraction(fraction: float, seed: int) -> list[int]:
    kept = _of_patients(TABLE, part(fraction=fraction, seed=seed)).to_numpy(zero_copy_only=False)
    return np.flatnonzero(kept).tolist()


def held_out(folds: int, fold: int, seed: int) -> list[int]:
    """Rows of the fold that is val."""
    table = _fold(TABLE.append_column("row", [range(len(TABLE))]), part(folds=folds, fold=fold, seed=seed))
    return table.filter(pa.compute.equal(table["split"], "val"))["row"].to_pylist()


@pytest.mark.parametrize(
    ("seed", "names"),
    [
        (0, ["p7", "p5", "p8", "p2", "p3", "p6", "p1", "p0", "p4"]),
        (1, ["p7", "p3", "p2", "p5", "p8", "p0", "p6", "p1", "p4"]),
    ],
)
def test_golden_order_of_patients(seed, names):
    assert drawn(PATIENTS, seed) == names


@pytest.mark.parametrize(
    ("fraction", "seed", "rows"),
    [
        (0.01, 0, [2, 3, 4, 11, 18, 23]),
        (0.01, 1, [2, 3, 4, 11, 18, 23]),
        (0.3, 0, [2, 3, 4, 5, 9, 11, 14, 15, 16, 18, 19, 21, 23]),
        (0.3, 1, [2, 3, 4, 8, 11, 12, 13, 18, 20, 22, 23]),
        (0.6, 0, [2, 3, 4, 5, 8, 9, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23]),
    ],
)
def test_golden_fraction_of_samples(fraction, seed, rows):
    """Of `shard subset`; the test split is kept whole."""
    assert in_fraction(fraction, seed) == rows


@pytest.mark.parametrize(
    ("fold", "seed", "rows"),
    [
        (0, 0, [0, 2, 3, 7, 8, 12, 13, 20, 22]),
        (1, 0, [6, 9, 16, 17]),
        (2, 0, [1, 5, 10, 14, 15, 19, 21]),
        (0, 1, [0, 2, 3, 5, 7, 14, 15, 19, 21]),
        (1, 1, [1, 8, 10, 12, 13, 20, 22]),
        (2, 1, [6, 9, 16, 17]),
    ],
)
def test_golden_folds(fold, seed, rows):
    assert held_out(3, fold, seed) == rows


@pytest.mark.parametrize(
    ("fraction", "seed", "draws"),
    [
        (0.5, 0, [[0, 4, 7, 9, 11, 16, 18, 23], [2, 3, 6, 8, 11, 12, 13, 17, 20, 22, 23]]),
        (0.1, 0, [[0, 7], [6, 17]]),
        (0.5, 7, [[1, 2, 3, 5, 6, 10, 14, 15, 17, 19, 21], [1, 6, 8, 10, 11, 12, 13, 17, 20, 22, 23]]),
        (0.1, 7, [[5, 14, 15, 19, 21], [11, 23]]),
    ],
)
def test_golden_draws(fraction, seed, draws):
    """Of `probe`."""
    found = nested_draws(np.array(PATIENTS), (1.0, 0.5, 0.1), 2, seed)
    assert [rows.tolist() for rows in found[fraction]] == draws
