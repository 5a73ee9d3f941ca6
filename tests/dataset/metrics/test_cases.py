"""Per-case rows: processes' shares make the list of one process, files keep what was written, nothing identifies."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.cases import (
    CandidateCase,
    LabelCase,
    MaskCase,
    image_cases,
    label_arrays,
    merged,
    read_cases,
    write_cases,
)
from dira_scale.dataset.metrics.classification import classification

NAMES = ["b", "a"]
TARGETS = np.array([[0, 1], [np.nan, 0], [1, 1]])
SCORES = np.array([[0.1, 0.7], [1 / 3, 0.2], [0.8, 0.4]])
ROWS = image_cases(LabelCase, ["k1", "k2", "k3-0004"], ["p", "p", "q"], "test", NAMES, TARGETS, SCORES)
FOUND = [CandidateCase("k1", "p", "test", "nodule", float("nan"), 0.5, "s", "1 2", 3)]
MASKED = [
    MaskCase("k1", "p", "test", "lung", "", 0.9, 0.8, 1.25, 0.95, 2.0, "mm", 90, 100, 100),
    MaskCase("k1", "p", "test", "heart", "target", 0.0, 0.0, float("inf"), 0.0, 2.0, "mm", 0, 7, 0),
    MaskCase("k2", "q", "test", "lung", "both", *(float("nan"),) * 4, 2.0, "pixels", 0, 0, 0),
]


def same(a: object, b: object) -> bool:
    return repr(a) == repr(b)  # NaN is not NaN


def test_any_number_of_processes_give_the_same_rows_and_figures() -> None:
    shares = [[ROWS[4], ROWS[5]], [], ROWS[:4]]
    assert same(merged(shares), ROWS)
    targets, scores, names, patients = label_arrays(merged(shares))
    assert np.array_equal(targets, TARGETS, equal_nan=True) and np.array_equal(scores, SCORES)
    assert (names, patients) == (NAMES, ["p", "p", "q"])
    assert same(classification(targets, scores, names, patients), classification(TARGETS, SCORES, NAMES, patients))
    with pytest.raises(ValueError, match="have scored the same case"):
        merged([ROWS, ROWS[:1]])
    with pytest.raises(ValueError, match="a row for each label"):
        label_arrays(ROWS[:-1])
    assert [array.tolist() for array in label_arrays([])[:2]] == [[], []]


@pytest.mark.parametrize("rows", [ROWS, FOUND, MASKED], ids=["labels", "candidates", "masks"])
def test_a_file_keeps_its_rows(rows: list[LabelCase] | list[MaskCase], tmp_path: Path) -> None:
    write_cases(tmp_path / "cases.parquet", rows)
    assert same(read_cases(tmp_path / "cases.parquet"), rows)
    assert len(read_cases(tmp_path / "cases.parquet", LabelCase)) == (0 if rows is MASKED else len(rows))
    assert [file.name for file in tmp_path.iterdir()] == ["cases.parquet"]
    table = pq.read_table(tmp_path / "cases.parquet")
    nulls = {"target": 1} if rows is not MASKED else dict.fromkeys(("dice", "iou", "hd95", "surface_dice"), 1)
    assert {name: table[name].null_count for name in table.column_names if table[name].null_count} == nulls


@pytest.mark.parametrize("name", ["images/a.png", "C:\\a.dcm", "1.2.840.113619.2.55.3"])
def test_a_path_or_a_dicom_identifier_is_never_written(name: str, tmp_path: Path) -> None:
    for key, patient, scan in ((name, "p", "s"), ("k", name, "s"), ("k", "p", name)):
        with pytest.raises(ValueError, match="paths or DICOM identifiers"):
            write_cases(tmp_path / "cases.parquet", [CandidateCase(key, patient, "test", "a", 1.0, 0.5, scan, "", 0)])
    assert [*tmp_path.iterdir()] == []


def test_other_files_and_rows_are_refused(tmp_path: Path) -> None:
    for rows in ([], [*ROWS, *MASKED]):
        with pytest.raises(ValueError, match="rows of one kind"):
            write_cases(tmp_path / "cases.parquet", rows)  # type: ignore[arg-type]
    (tmp_path / "text.parquet").write_text("key")
    with pytest.raises(UserError, match=r"text\.parquet is not a Parquet file of cases"):
        read_cases(tmp_path / "text.parquet")
    write_cases(tmp_path / "old.parquet", ROWS)
    pq.write_table(pq.read_table(tmp_path / "old.parquet").replace_schema_metadata({}), tmp_path / "old.parquet")
    pq.write_table(pa.table({"key": ["k"]}), tmp_path / "other.parquet")
    for name in ("old", "other"):
        with pytest.raises(UserError, match=rf"{name}\.parquet has no rows of cases of this version"):
            read_cases(tmp_path / f"{name}.parquet")
