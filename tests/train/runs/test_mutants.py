"""Damaged and hostile embeddings: each is read, or refused in one line."""

import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive.mutants.damage import damaged
from report.test_neighbours import embed
from toy_run import write

from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.embeddings import Embeddings
from dira_scale.report import neighbours

SEED = 11
COUNTS = [12, pytest.param(2000, marks=[pytest.mark.torture, pytest.mark.timeout(7200)])]
Read = Callable[[Path], object]


def edited_table(path: Path, rng: random.Random) -> None:
    """A part of embeddings with a null, rows more or less, other lists, columns or types, or another's metadata."""
    table = pq.read_table(path)
    number = rng.randrange(table.num_columns)
    column, name = table.column(number), table.column_names[number]
    values = column.to_pylist()
    row = rng.randrange(len(values))
    kind = rng.randrange(6)
    if kind == 0:
        values[row] = None
        table = table.set_column(number, table.field(number), pa.array(values, column.type))
    elif kind == 1:
        table = pa.concat_tables([table, table]) if rng.random() < 0.5 else table.slice(rng.randrange(2), row)
    elif kind == 2 and isinstance(values[row], list):
        values[row] = rng.choice(([], values[row][:-1], values[row] * 2, [None] * len(values[row])))
        table = table.set_column(number, name, pa.array(values, pa.list_(pa.float32())))
    elif kind == 3:
        table = table.drop_columns([name]) if rng.random() < 0.5 else table.rename_columns([*table.column_names[::-1]])
    elif kind == 4:
        table = table.set_column(number, name, pa.array([rng.choice((1, "x", b"x", None))] * len(values)))
    else:
        table = table.replace_schema_metadata({b"dira_scale.embedding": b"{}"})
    pq.write_table(table, path)


def mutate(folder: Path, rng: random.Random) -> str:
    """Change one file of the folder; what was done, for messages."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".dira_scale.json"))
    if file.suffix == ".parquet" and rng.random() < 0.7:
        edited_table(file, rng)
        return f"{file.relative_to(folder)}: edited"
    kind, content = damaged(file.read_bytes() or b"\0", rng)
    file.write_bytes(content)
    return f"{file.relative_to(folder)}: {kind}"


def none_ends_in_a_traceback(whole: Path, copy: Path, count: int, read: Read) -> None:
    outcomes, broken = Counter[str](), list[str]()
    read(shutil.copytree(whole, copy))
    for number in range(count):
        rng = random.Random(f"{SEED} {number}")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        what = f"mutant {number}, {mutate(copy, rng)}"
        try:
            read(copy)
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            if "\n" in str(error):
                broken.append(f"{what}: {error}")
        except Exception:
            broken.append(f"{what}: {traceback.format_exc()}")
            print(broken[-1], flush=True)
    print(dict(outcomes))
    assert not broken, "\n".join([f"{len(broken)} of {count}", *broken[:5]])
    assert outcomes["refused"] and outcomes["read"]


@pytest.mark.parametrize("count", COUNTS)
def test_embeddings(tmp_path: Path, count: int) -> None:
    shards = write(tmp_path / "shards")
    values = np.random.default_rng(0).normal(size=(108, 6)).astype(np.float32)

    def read(copy: Path) -> None:
        opened = Embeddings.open(copy)
        rows = np.concatenate([opened.rows(split) for split in opened.splits])
        assert len(opened.column("patient")) == len(rows) == len(opened.labels(rows)) == len(opened.values)
        assert opened.flags(rows).shape == (len(rows), len(opened.info.flags)) and {*opened.places} <= {"affine"}
        neighbours.page(str(copy), str(shards))

    none_ends_in_a_traceback(embed(tmp_path / "whole", shards, values), tmp_path / "copy", count, read)
