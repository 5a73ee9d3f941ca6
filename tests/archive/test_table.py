"""CSV files as people save them: odd encodings, commas at the end, cells that are no numbers."""

import re
import sys
from datetime import date, datetime
from pathlib import Path
from zipfile import ZipFile

import pytest
from needs import need_extra

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.sources.boxes import read_boxes
from dira_scale.archive.sources.label_columns import flags_and_numbers, number
from dira_scale.base.errors import UserError
from dira_scale.base.storage import excel
from dira_scale.base.storage.tables import TableRow, read_table


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
        ("file,kind\na.png,x\nM\xfcller.png,x\n".encode("latin-1"), "x.csv, line 3: not UTF-8; save the table as U"),
        (b"file,kind\na.png,x,y\n", "x.csv, line 2: more cells than the header has"),
        (b"file,kin\n", "no column 'kind' .recipe.; did you mean 'kin'"),
        (b"image,label\n", "no column 'file' or 'kind' .recipe.; it has image, label"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_error(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        list(read_table(tmp_path / "x.csv", ["file", "kind"], "recipe"))


def test_flags_are_told_from_numbers() -> None:
    cells = {"a": ["0", "1.0", "-1", ""], "b": ["1", "nan", " ", "0"], "c": ["0", "2", "", "1"], "d": ["", " ", "", ""],
             "e": ["0", "x", "1", "1"], "f": ["0", "inf", "1", "1"], "g": ["1", "1", "1", "1"]}  # fmt: skip
    rows = [TableRow(n, {name: cells[name][n] for name in cells}) for n in range(4)]
    assert flags_and_numbers(rows, {"g"}) == (["a", "b"], ["c"], {"e": 1, "f": 1})
    assert flags_and_numbers([], set()) == ([], [], {})
    words = [TableRow(n, {"a": one, "b": other}) for n, (one, other) in enumerate([("Yes", "yes"), ("no", "maybe")])]
    assert flags_and_numbers(words, set()) == (["a"], [], {"b": 1})
    assert [number(word, "") for word in ("YES", "no", "True", "false", "2")] == [1, 0, 1, 0, 2]


def boxes(tmp_path: Path, line: str) -> list[tuple[str, Box]]:
    (tmp_path / "boxes.csv").write_text(f"file,label,y,x,h,w\na.png,m,0,1.5,2,3\n{line}\n")
    return list(read_boxes(tmp_path / "boxes.csv"))


def test_boxes_are_finite_rectangles(tmp_path: Path) -> None:
    assert boxes(tmp_path, "b.png,n,1,1,1,1") == [("a.png", Box("m", 0, 1.5, 2, 3)), ("b.png", Box("n", 1, 1, 1, 1))]
    for sides in ("nan,1,1,1", "inf,1,1,1", ",1,1,1", "-1,1,1,1", "1,1,0,1", "1,1,1,-2", "1,1,1,", "1,1,x,1"):
        with pytest.raises(UserError, match=r"boxes\.csv, line 3"):
            boxes(tmp_path, f"b.png,n,{sides}")


def sheets(path: Path, **cells: list[list[object]]) -> Path:
    need_extra("excel")
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in cells.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_an_excel_table_is_the_csv_of_its_sheet(tmp_path: Path) -> None:
    rows = [["File", "age", "note", "seen", "ill"], [], ["a.png", 41, "x, \"y\"\nz", date(2024, 1, 31), True],
            ["b.png", 2.5, None, datetime(2024, 1, 31, 8, 30), "no"]]  # fmt: skip
    path = sheets(tmp_path / "x.xlsx", empty=[], labels=rows)
    assert list(read_table(path, ["file", "ill"], "")) == [
        TableRow(3, {"file": "a.png", "age": "41", "note": 'x, "y" z', "seen": "2024-01-31", "ill": "True"}),
        TableRow(4, {"file": "b.png", "age": "2.5", "note": "", "seen": "2024-01-31 08:30:00", "ill": "no"}),
    ]
    with pytest.raises(UserError, match=r"x.xlsx has no column 'seem'; did you mean 'seen'"):
        next(read_table(path, ["seem"], ""))
    with pytest.raises(UserError, match=r"x.xlsx has 2 sheets with cells \(a, b\): keep one, or save"):
        next(read_table(sheets(tmp_path / "x.xlsx", a=rows, b=[[1]]), ["file"], ""))
    (tmp_path / "x.xlsx").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(UserError, match=r"x.xlsx: not an Excel table, or damaged \(BadZipFile\): save the table as"):
        next(read_table(tmp_path / "x.xlsx", ["file"], ""))


def test_a_number_keeps_the_zeros_that_excel_shows(tmp_path: Path) -> None:
    path = sheets(tmp_path / "x.xlsx", a=[["file", "one", "two", "three", "plain"], ["a.png", 42, -42.0, 4.5, 42]])
    import openpyxl

    book = openpyxl.load_workbook(path)
    for column in "BCD":
        book["a"][f"{column}2"].number_format = "000000"
    book.save(path)
    (row,) = read_table(path, ["file"], "")
    assert list(row.cells.values()) == ["a.png", "000042", "-000042", "4.5", "42"]


def test_a_formula_without_its_result_is_refused(tmp_path: Path) -> None:
    path = sheets(tmp_path / "x.xlsx", a=[["file", "sum"], ["a.png", "=1+1"]])
    with pytest.raises(UserError, match=r"x.xlsx: sheet a, cell B2: a formula without its result: open the file in Ex"):
        next(read_table(path, ["file"], ""))
    for stored in ('<c r="B2"><f>1+1</f><v>2</v></c>', '<c r="B2" t="str"><f>1+1</f><v></v></c>'):  # as Excel has it
        with ZipFile(path) as archive:
            parts = {name: archive.read(name).decode() for name in archive.namelist()}
        with ZipFile(tmp_path / "y.xlsx", "w") as archive:
            for name, text in parts.items():
                archive.writestr(name, re.sub(r'<c r="B2".*?</c>', stored, text))
        (row,) = read_table(tmp_path / "y.xlsx", ["file"], "")
        assert row.cells["sum"] == ("2" if ">2<" in stored else "")
        (tmp_path / "y.xlsx").unlink()


def test_what_lies_far_outside_an_excel_table_costs_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sheets(tmp_path / "x.xlsx", a=[["file"], ["a.png"]])
    import openpyxl

    book = openpyxl.load_workbook(path)
    book["a"].cell(900, 700).number_format = "0.00"
    book.save(path)
    with monkeypatch.context() as bounds:
        bounds.setattr(excel, "CELLS", 900)  # of 630,000 in the rectangle
        assert [row.cells for row in read_table(path, ["file"], "")] == [{"file": "a.png"}]
    for name, most in (("ROWS", 899), ("CELLS", 600)):
        excel._as_csv.cache_clear()
        with monkeypatch.context() as bounds:
            bounds.setattr(excel, name, most)
            with pytest.raises(UserError, match=r"sheet a has 702 cells and more up to row 900: .* delete what lies o"):
                next(read_table(path, ["file"], ""))
    excel._as_csv.cache_clear()


def test_other_spreadsheets_are_to_be_saved_as_csv(tmp_path: Path) -> None:
    (tmp_path / "x.xls").write_bytes(b"")
    with pytest.raises(UserError, match=r"x.xls: .xls cannot be read: save the table as CSV .UTF-8., or as .xlsx"):
        next(read_table(tmp_path / "x.xls", ["file"], ""))


def test_without_openpyxl_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "y.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install 'dira_scale\[excel\]', or save the table as CSV"):
        next(read_table(tmp_path / "y.xlsx", ["file"], ""))
