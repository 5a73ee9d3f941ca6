"""Hostile tables: each gives one line of error or all good rows, rows that name nothing are counted; little memory."""

import collections
import itertools
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from archive.mutants.tables import GOOD, LONG, TABLES
from archive.mutants.valid import png
from archive.sandbox import here, listing

from dira_scale.archive.sources.boxes import read_boxes, read_findings
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError, printable
from dira_scale.shard.convert import convert as convert_here
from dira_scale.storage.tables import read_names, read_table

ENDLESS = [name for name, table in TABLES.items() if table.outcome in (LONG, "field larger")]
LARGE = 2**26  # bytes of a large table


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
def test_a_table(name: str, tmp_path: Path, ingest: SimpleNamespace) -> None:
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
