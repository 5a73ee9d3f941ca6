"""Recipes and tables of others are data: no code runs, what does not fit is one line, tables take little memory."""

import collections
import itertools
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from archive import ingest
from archive.mutants.valid import png
from archive.sandbox import here, listing
from omegaconf import OmegaConf

from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.boxes import read_boxes, read_findings
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError, printable
from dira_scale.base.storage.tables import read_names, read_table
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard.convert import convert as convert_here

OWN = "defaults: [folder, _self_]\nname: theirs\nimages: {images}\n"
RECIPES = {
    "a tag that calls": 'x: !!python/object/apply:os.mkdir ["owned"]\n',
    "a target that evaluates": "_target_: builtins.eval\nsource: __import__('os').mkdir('owned')\n",
    "an alias of itself": "a: &a [*a]\n",
    "an unknown resolver": "x: ${system:mkdir owned}\n",
    "the environment, by a name in parts": "notes: env\nlicence: ${oc.${recipe.notes}:PATH}\n",
    "a source of others": "_target_: owned.Source\n",
    "defaults above": "defaults: [../../../../etc/passwd]\n",
}  # fmt: skip


def theirs(folder: Path, text: str) -> list[str]:
    """The arguments of somebody who uses that recipe."""
    (folder / "theirs" / "recipe").mkdir(parents=True)
    (folder / "images").mkdir()
    content = OWN.format(images=folder / "images") + text if not text.startswith(("[", "defaults", "owned")) else text
    (folder / "theirs" / "recipe" / "theirs.yaml").write_text(content)
    return ["--config-dir", str(folder / "theirs"), "recipe=theirs", f"out={folder / 'out'}"]


def test_a_recipe_of_ones_own_is_taken(tmp_path: Path) -> None:
    config = compose("shard", theirs(tmp_path, "codec: jpg\nofficial: &a {b: {train: 1}}\nsplits: {train: 1}\n"))
    assert config.recipe.codec == "jpg" and config.recipe.name == "theirs"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_others(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = theirs(tmp_path, RECIPES[name])
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    with pytest.raises(UserError) as error:
        plain = OmegaConf.to_container(compose("shard", words).recipe, resolve=True)
        Recipe.from_config(plain).make_source()  # type: ignore[arg-type]
    assert len(printable(str(error.value))) < 2000
    assert listing(tmp_path) == before and not (tmp_path / "owned").exists()


# CSV files as nobody should write them, of ``a0.png`` …; each with a part of the one line of error, or with how many
# samples and rejected inputs come of it.
HEADER = b"file,patient,nodule\n"
GOOD = 6
ROWS = b"".join(b"a%d.png,P%d,%d\n" % (n, n, n % 2) for n in range(GOOD))
WHOLE = HEADER + ROWS


class Table(NamedTuple):
    content: Callable[[int], bytes]  # of about so many bytes, where it is a large one
    outcome: str | tuple[int, int]


def _table(content: bytes, outcome: str | tuple[int, int]) -> Table:
    return Table(lambda size: content, outcome)


def _row(file: bytes, outcome: str | tuple[int, int] = (GOOD, 1)) -> Table:
    """The good rows, and one of another file."""
    return _table(WHOLE + b'"' + file.replace(b'"', b'""') + b'",P9,1\n', outcome)


LONG = "longer than 1048576 characters"
TABLES: dict[str, Table] = {
    "a line of 10^6 cells": _table(WHOLE + b"a,b" + b",0" * 10**6 + b"\n", LONG),
    "a cell without end": Table(lambda size: WHOLE + b"x.png," + b"P" * size + b",1\n", LONG),
    "a quote without its end": Table(lambda size: WHOLE + b'x.png,"P\n' + b"a,P,1\n" * (size // 6), "field larger"),
    "a row of quoted newlines": Table(lambda size: WHOLE + b'x.png,"P' + b'\n","' * (size // 4) + b'"', LONG),
    "NUL bytes in a name": _row(b"a\0.png", "NUL"),
    "NUL bytes only": Table(bytes, LONG),
    "Latin-1": _row("Müller.png".encode("latin-1"), "line 8: not UTF-8"),
    "UTF-8 with a mark": _table(b"\xef\xbb\xbf" + WHOLE, (GOOD, 0)),
    "lines that end as on old Macs": _table(WHOLE.replace(b"\n", b"\r"), (GOOD, 0)),
    "a newline in a label's name": _table(WHOLE.replace(b"nodule", b'"nod\nule"'), "a label is named 'nod"),
    "a label's name that speaks to a terminal": _table(WHOLE.replace(b"nodule", b"\x1b[2Jx"), "a label is named"),
    "files of one name": _table(b"file,file,patient,nodule\n" + ROWS, "two columns 'file'"),
    "no rows": _table(HEADER, "the source lists no files"),
    "a name without end": _row(b"n" * 10**5 + b".png"),
    "a name above": _row(b"../../../../etc/passwd"),
    "an address": _row(b"http://127.0.0.1:9/x.png"),
    "a name that speaks to a terminal": _row(b"\x1b[2J\x1b]0;owned\x07.png"),
}  # fmt: skip
ENDLESS = [name for name, table in TABLES.items() if table.outcome in (LONG, "field larger")]
LARGE = 2**25  # bytes of a large table


def write_images(folder: Path) -> Path:
    """The images of all good rows."""
    folder.mkdir()
    for number in range(GOOD):
        (folder / f"a{number}.png").write_bytes(png(number))
    return folder


def shown(error: UserError) -> str:
    """What the user reads."""
    line = printable(str(error))
    assert len(line) < 1500 and line.isprintable(), line[:200]
    return line


@pytest.mark.parametrize("name", TABLES)
def test_a_table(name: str, tmp_path: Path) -> None:
    images, table, out = write_images(tmp_path / "images"), tmp_path / "t.csv", tmp_path / "out"
    content, outcome = TABLES[name]
    table.write_bytes(content(2**22))
    before = listing(tmp_path)
    try:
        with here():
            convert_here(ingest.recipe("folder", images=str(images), labels=str(table)), out, workers=1)
    except UserError as error:
        assert isinstance(outcome, str) and outcome in shown(error), error
        assert not (out / "manifest.parquet").exists()
    else:
        rejected = pq.read_table(out / "quarantine.parquet").to_pylist()
        assert (ShardedDataset.open(out).table.num_rows, len(rejected)) == outcome
        assert all(row["reason"].isprintable() for row in rejected)
    assert listing(tmp_path) == before, "something else was touched"


READERS: dict[str, Callable[[Path], Iterable[object]]] = {
    "table": lambda path: read_table(path, ["file"], ""),
    "boxes": read_boxes,
    "findings": read_findings,
    "names": read_names,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_table_of_any_size_takes_little_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(TABLES[name].content(LARGE))
    for reader, read in READERS.items():
        tracemalloc.start()
        try:
            collections.deque(itertools.islice(read(path), 10**5), 0)  # a list of names has no cells that are too long
        except UserError as error:
            shown(error)
        else:
            assert reader == "names"
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < LARGE / 2, (reader, peak)
