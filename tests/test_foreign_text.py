"""Text of strangers: it commands no terminal, no browser and no spreadsheet."""

import csv
import io
from pathlib import Path

import pytest
from rich.table import Table as Listed

from dira_scale.base.machine.console import Console
from dira_scale.base.storage.tables import as_written, harmless, read_table
from dira_scale.judge.pages.tables.cells import Cell, Table
from dira_scale.judge.pages.tables.page import as_csv, latex, markdown
from dira_scale.judge.pages.template import template
from dira_scale.predict.tables import write_quarantine, write_rejected_names
from dira_scale.shard.curate.verify import Damage, print_damages

EVIL = "a\x1b]52;c;b3du\x07\x9b31m\u202eb"
SAFE = r"a\x1b]52;c;b3du\x07\x9b31m\u202eb"


def test_verify_shows_keys_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_damages("shards", [Damage("a.tar", EVIL, EVIL)]) == 1
    assert f"a.tar, sample {SAFE}: {SAFE}\n" in capsys.readouterr().out


def test_tables_show_cells_escaped() -> None:
    table = Listed("key")
    table.add_row(EVIL)
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    console.print(table)
    console.print(f"line {EVIL}\nanother")
    assert out.getvalue().count(SAFE) == 2 and "\x1b" not in out.getvalue()
    assert "\nanother\n" in out.getvalue()


CELLS = ['=HYPERLINK("http://evil","x")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\tx", "\rx"]
PLAIN = ["-1", "+2.5e-3", "-inf", "a=b", "", "x,\ny", "'quoted'", "1.2.840"]


def test_a_spreadsheet_computes_no_cell_and_our_reader_gets_it_back(tmp_path: Path) -> None:
    assert harmless([*CELLS, *PLAIN, -1.5, None]) == [*("'" + cell for cell in CELLS), *PLAIN, -1.5, None]
    assert [as_written(cell) for cell in harmless([*CELLS, *PLAIN])] == [*CELLS, *PLAIN]
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["file"], *([f"'{cell}"] for cell in CELLS[:4])])
    assert [row.cells["file"] for row in read_table(path, ["file"], "this test")] == CELLS[:4]


def test_pages_and_tables_command_no_terminal(tmp_path: Path) -> None:
    """They are looked at by cat and less, too."""
    shown = r"a\x1b]52;c;b3du\x07\x9b31m\u202eb"
    assert shown == SAFE and harmless([EVIL, "a\n\tb"]) == [shown, "a\n\tb"]
    (tmp_path / "page.html.j2").write_text("<p>{{ text }}</p>")
    assert template(tmp_path / "page.html.j2").render(text=EVIL + "<b>\n") == f"<p>{shown}&lt;b&gt;\n</p>"


def test_a_sweeps_tables_are_text_to_markdown_spreadsheets_and_latex() -> None:
    evil = f"=1+1<img src=x>\n\\input{{x}}{EVIL}"
    table = Table("phase", evil, [evil], [evil], {(evil, evil): Cell(1.0, None, 1)})
    for text in (markdown("sweep", [table]), as_csv([table]), latex([table])):
        assert "\x1b" not in text and "\u202e" not in text
    assert "<img" not in markdown("sweep", [table])
    (row,) = csv.DictReader(io.StringIO(as_csv([table])))
    assert row["row"].startswith("'=1+1")
    assert not any(line.startswith("\\input") for line in latex([table]).splitlines())


def test_tables_of_what_was_refused_are_harmless(tmp_path: Path) -> None:
    refused = {cell: {"stage": "read", "reason": cell} for cell in CELLS[:5]}
    write_quarantine(tmp_path, refused)
    names = write_rejected_names(tmp_path / "out", refused.items())
    for path in (tmp_path / "quarantine.csv", names):
        with path.open(newline="") as file:
            _, *rows = csv.reader(file)
        assert rows == [[f"'{cell}", "read", f"'{cell}"] for cell in CELLS[:5]]
