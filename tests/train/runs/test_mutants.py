"""Damaged and hostile runs, exports and embeddings: each is read, or refused in one line."""

import json
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from archive.mutants.damage import damaged
from report.test_neighbours import embed
from toy_run import write
from train.runs.test_foreign import tuned_run, undrawn

from dira_scale import export
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.embeddings import Embeddings
from dira_scale.judge.evaluation.encoders import stored_encoder
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.report import health, neighbours, page, plots
from dira_scale.report.content import read_run

__all__ = ["tuned_run", "undrawn"]  # fixtures
SEED = 11


ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**12, 1.5, 1e300, float("nan"), "", "x", "\x1b[2J", "../../x", "/dev/zero",
    "x" * 10**5, [], [None], [[[]]], {}, {"_target_": "os.system"}, {"a": {}},
]  # fmt: skip
COUNTS = [12, pytest.param(2000, marks=[pytest.mark.torture, pytest.mark.timeout(7200)])]
Read = Callable[[Path], object]


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Each mapping or list within, with each of its keys."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from places(content[key])


def edited(content: Any, rng: random.Random) -> Any:
    """One or two values are gone, twice there, exchanged or others; or all of it is."""
    for _ in range(rng.choice((1, 1, 2))):
        if not (found := list(places(content))):
            return rng.choice(ODD)
        inside, key = rng.choice(found)
        kind = rng.randrange(6)
        if kind == 0:
            del inside[key]
        elif kind == 1 and isinstance(inside[key], list):
            inside[key] = inside[key] * rng.choice((2, 1000))
        elif kind == 2:
            other, there = rng.choice(found)
            inside[key] = json.loads(json.dumps(other[there]))
        elif kind == 3 and isinstance(inside, dict):
            inside[rng.choice(("x", "format", "_target_", ""))] = rng.choice(ODD)
        else:
            inside[key] = rng.choice(ODD)
    return content


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
    if file.suffix in (".json", ".yaml") and rng.random() < 0.8:
        if file.suffix == ".json":
            file.write_text(json.dumps(edited(json.loads(file.read_text()), rng)))
        else:
            file.write_text(yaml.safe_dump(edited(yaml.safe_load(file.read_text()), rng)))
        return f"{file.relative_to(folder)}: edited"
    if file.suffix == ".jsonl" and rng.random() < 0.8:
        lines = file.read_text().splitlines()
        number = rng.randrange(len(lines))
        lines[number] = json.dumps(edited(json.loads(lines[number]), rng))
        file.write_text("\n".join(lines) + "\n")
        return f"{file.relative_to(folder)}: edited"
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


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a page's time, and reads nothing."""
    for module, name in ((plots, "curves"), (health, "monitor_plots"), (neighbours, "maps")):
        monkeypatch.setattr(module, name, lambda *_: [])


@pytest.mark.parametrize("count", COUNTS)
def test_runs(tuned_run: Path, tmp_path: Path, count: int) -> None:
    cfg = compose("export", [f"run={tmp_path / 'copy'}", "formats=[timm,plain]", f"out={tmp_path / 'out'}"])

    def read(copy: Path) -> None:
        page.render(read_run(copy), {})
        TrainedRun.of(copy)
        export.COMMAND.carry_out(cfg)

    none_ends_in_a_traceback(tuned_run, tmp_path / "copy", count, read)


@pytest.mark.parametrize("count", COUNTS)
def test_exports(tuned_run: Path, tmp_path: Path, count: int) -> None:
    def read(copy: Path) -> None:
        TrainedRun.of(copy)
        stored_encoder(copy)

    none_ends_in_a_traceback(tuned_run.parent / "export", tmp_path / "copy", count, read)


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
