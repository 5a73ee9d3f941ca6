"""CSV files as people save them: odd encodings, commas at the end, cells that are no numbers."""

from pathlib import Path

import pytest

from dira_scale.errors import UserError
from dira_scale.imaging.boxes import Box
from dira_scale.ingest.sources.boxes import read_boxes
from dira_scale.ingest.sources.table_cells import flags_and_numbers, number
from dira_scale.places.tables import Row, read_table


def test_rows_know_their_lines_and_short_or_long_ones_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes('\ufefffile,kind\n\na.png,"two\nlines"\nb.png\nc.png,x,, \n'.encode())
    assert list(read_table(tmp_path / "x.csv", ["file", "kind"], "")) == [
        Row(4, {"file": "a.png", "kind": "two\nlines"}),
        Row(5, {"file": "b.png", "kind": ""}),
        Row(6, {"file": "c.png", "kind": "x"}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_cells_are_separated_as_in_the_header(tmp_path: Path, delimiter: str) -> None:
    """A comma inside a cell of a table with semicolons, as Excel writes it in half of Europe, is the cell's."""
    (tmp_path / "x.csv").write_text(delimiter.join(["file", "kind"]) + "\n" + delimiter.join(["a.png", '"x, y; z"']))
    assert [row.cells for row in read_table(tmp_path / "x.csv", ["file"], "")] == [{"file": "a.png", "kind": "x, y; z"}]


def test_spaces_around_cells_and_the_case_of_the_header_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("File ; Patient;Effusion; a b \n a.png ;P 1;1 ; x\n")
    (row,) = read_table(tmp_path / "x.csv", ["file", "patient", "Effusion "], "")
    assert row.cells == {"file": "a.png", "patient": "P 1", "Effusion ": "1", "a b": "x"}
    (tmp_path / "x.csv").write_text("File,FILE,kind\na,b,c\n")
    with pytest.raises(UserError, match="no column 'file'"):  # either may be meant
        next(read_table(tmp_path / "x.csv", ["file"], ""))
    with pytest.raises(UserError, match=r"no column 'KIND'.*it has File, FILE, kind"):  # one column under two names
        next(read_table(tmp_path / "x.csv", ["kind", "KIND"], ""))
    (row,) = read_table(tmp_path / "x.csv", ["File"], "")
    assert row.cells == {"File": "a", "FILE": "b", "kind": "c"}


@pytest.mark.parametrize(
    "content, words",
    [
        (
            "file,kind\na.png,x\nM\xfcller.png,x\n".encode("latin-1"),
            "x.csv, line 3: not UTF-8; save the table as UTF-8",
        ),
        ("file,kind\n".encode("utf-16"), "line 1: not UTF-8"),
        (b"file,kind\na.png,x,y\n", "x.csv, line 2: more cells than the header has"),
        (b"file,kin\n", "no column 'kind' .recipe.; did you mean 'kin'"),
        (b'file,kind\na.png,"' + b"x" * 200_000, "x.csv, line 2: field larger"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_error(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        list(read_table(tmp_path / "x.csv", ["file", "kind"], "recipe"))


def test_flags_are_told_from_numbers() -> None:
    cells = {"a": ["0", "1.0", "-1", ""], "b": ["1", "nan", " ", "0"], "c": ["0", "2", "", "1"], "d": ["", " ", "", ""],
             "e": ["0", "x", "1", "1"], "f": ["0", "inf", "1", "1"], "g": ["1", "1", "1", "1"]}  # fmt: skip
    rows = [Row(n, {name: cells[name][n] for name in cells}) for n in range(4)]
    assert flags_and_numbers(rows, {"g"}) == (["a", "b"], ["c"])
    assert flags_and_numbers([], set()) == ([], [])
    words = [Row(n, {"a": one, "b": other}) for n, (one, other) in enumerate([("Yes", "yes"), ("no", "maybe")])]
    assert flags_and_numbers(words, set()) == (["a"], [])
    assert [number(word, "") for word in ("YES", "no", "True", "false", "2")] == [1, 0, 1, 0, 2]


def boxes(tmp_path: Path, line: str) -> list[tuple[str, Box]]:
    (tmp_path / "boxes.csv").write_text(f"file,label,y,x,h,w\na.png,m,0,1.5,2,3\n{line}\n")
    return list(read_boxes(tmp_path / "boxes.csv"))


def test_boxes_are_finite_rectangles(tmp_path: Path) -> None:
    assert boxes(tmp_path, "b.png,n,1,1,1,1") == [("a.png", Box("m", 0, 1.5, 2, 3)), ("b.png", Box("n", 1, 1, 1, 1))]
    for sides in ("nan,1,1,1", "inf,1,1,1", ",1,1,1", "-1,1,1,1", "1,1,0,1", "1,1,1,-2", "1,1,1,", "1,1,x,1"):
        with pytest.raises(UserError, match=r"boxes\.csv, line 3"):
            boxes(tmp_path, f"b.png,n,{sides}")
