"""Datasets and tables of others are data only: one clear error or a correct reading, and nothing outside is read."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dira_scale.curation import stats_page
from dira_scale.curation.merge import merge
from dira_scale.curation.stats import Stats
from dira_scale.curation.stats_page import print_table, render_dataset
from dira_scale.curation.subset import Part, subset
from dira_scale.curation.verify import print_damages, verify_shard
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.ingest.convert import convert
from dira_scale.reporting.plots import svg

SECRET = b"Quillfeather's letter"


@pytest.fixture
def theirs(png_folder: Path, tmp_path: Path, ingest: SimpleNamespace) -> Path:
    """A dataset as it comes from somebody else, to be spoilt; beside it a file that is none of it."""
    config = ingest.recipe("folder", **ingest.source_of(png_folder), splits={"train": 0.5, "val": 0.5})
    convert(config, tmp_path / "theirs", workers=1)
    (tmp_path / "secret").write_bytes(SECRET * 1000)
    return tmp_path / "theirs"


def info(folder: Path, **keys: Any) -> None:
    """Change ``dataset.json``."""
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def column(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change all cells of a column of the manifest."""
    table = pq.read_table(folder / "manifest.parquet")
    index = table.schema.get_field_index(name)
    values = pa.array([change(value) for value in table[name].to_pylist()], table.schema.field(name).type)
    pq.write_table(table.set_column(index, name, values), folder / "manifest.parquet")


def renamed_shard(folder: Path, to: str) -> None:
    """The dataset says that its first shard lies at ``to``."""
    said = json.loads((folder / "dataset.json").read_text())
    first = next(iter(said["shards"]))
    try:
        size = (folder / to).stat().st_size
    except (OSError, ValueError):
        size = 10
    info(folder, shards={to: size} | {k: v for k, v in said["shards"].items() if k != first},
         checksums={k: v for k, v in said["checksums"].items() if k != first})  # fmt: skip
    column(folder, "shard", lambda name: to if name == first else name)


def use(folder: Path, scratch: Path) -> dict[str, str]:
    """Whatever can be done with a dataset: what each gave, or its one line of error."""
    scratch.mkdir(parents=True, exist_ok=True)

    def stats() -> str:
        found = Stats(ShardedDataset.open(folder))
        print_table(found)
        return render_dataset(found)

    def verified() -> str:
        dataset = ShardedDataset.open(folder, check_shards=False)
        damages = [damage for shard in dataset.info.shards for damage in verify_shard(folder, shard)]
        print_damages(folder, damages)
        return f"{len(damages)} damages"

    part = Part(fraction=0.5, seed=0, splits=("train",), where={}, folds=None, fold=0)
    works = {
        "open": lambda: str(len(ShardedDataset.open(folder).read(0))),
        "verify": verified,
        "stats": stats,
        "subset": lambda: str(subset(folder, scratch / "part", part).counts),
        "merge": lambda: str(merge([folder, folder.with_name("other")], scratch / "sum", "sum").counts),
    }
    outcomes = {}
    for name, work in works.items():
        try:
            outcomes[name] = work()
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, error
            outcomes[name] = f"error: {error}"
    return outcomes


def undrawn(label: str, draw: Callable[[Any], None]) -> str:
    """What is to be drawn is computed; drawing it is most of a page's time."""
    draw(MagicMock())
    return "<svg></svg>"


TEXTS = ["<script>alert(1)</script>", "\x1b[2J\x1b]0;owned\x07", "[/bold][link=file:///etc/passwd]x[/link]", "=1+1",
         "a\nb", "{{ 7*7 }}", "\u202e", "x" * 10000, "../../x"]  # fmt: skip
# What no image hangs on is read as it is: the page reports that a spacing is NaN.
HARMLESS = {"spacing no number", "ages that are no ages", "quarantine of other columns"}
SPOILT: dict[str, Callable[[Path], None]] = {
    "shard above": lambda f: renamed_shard(f, "../secret"),
    "shard by its whole path": lambda f: renamed_shard(f, str(f.with_name("secret"))),
    "shard of the system": lambda f: renamed_shard(f, "/etc/passwd"),
    "shard without end": lambda f: renamed_shard(f, "/dev/zero"),
    "shard is a folder": lambda f: renamed_shard(f, "."),
    "shard is a FIFO": lambda f: (os.mkfifo(f / "fifo"), renamed_shard(f, "fifo")),
    "shard of no name": lambda f: renamed_shard(f, ""),
    "shard with a NUL": lambda f: renamed_shard(f, "a\0b"),
    "shard of a long name": lambda f: renamed_shard(f, "n" * 5000),
    "shard that only the manifest names": lambda f: column(f, "shard", lambda _: "../secret"),
    "offset behind the end": lambda f: column(f, "offset", lambda _: 2**40),
    "offset below zero": lambda f: column(f, "offset", lambda _: -512),
    "size of a petabyte": lambda f: column(f, "size", lambda _: 2**50),
    "size below zero": lambda f: column(f, "size", lambda _: -1),
    "mask of a petabyte": lambda f: column(f, "mask_size", lambda _: 2**50),
    "no size": lambda f: column(f, "size", lambda _: None),
    "no shard": lambda f: column(f, "shard", lambda _: None),
    "no split": lambda f: column(f, "split", lambda _: None),
    "no labels": lambda f: column(f, "labels", lambda _: None),
    "labels too many": lambda f: column(f, "labels", lambda v: [*v, 1.0]),
    "codec unknown": lambda f: column(f, "codec", lambda _: "pickle"),
    "codec of others": lambda f: column(f, "codec", lambda _: "b2nd"),
    "sides absurd": lambda f: (column(f, "height", lambda _: 2**31 - 1), column(f, "width", lambda _: -1)),
    "low and high no numbers": lambda f: (column(f, "low", lambda _: math.nan), column(f, "high", lambda _: None)),
    "spacing no number": lambda f: column(f, "spacing", lambda _: [math.nan, math.inf]),
    "ages that are no ages": lambda f: column(f, "attributes", lambda _: [("age", "²"), ("<b>", "<i>")]),
    "counts that do not add up": lambda f: info(f, counts={"train": 5}),
    "counts that are texts": lambda f: info(f, counts={"train": "many"}),
    "counts of other splits": lambda f: info(f, counts={"nobody": 24}),
    "counts that are a list": lambda f: info(f, counts=[24]),
    "shards that are a list": lambda f: info(f, shards=["a", "b"]),
    "shards of texts": lambda f: info(f, shards={"train-000000.tar": "big"}),
    "no shards": lambda f: info(f, shards={}),
    "label names that are a number": lambda f: info(f, label_names=7),
    "one label name": lambda f: info(f, label_names=["a"]),
    "name that is a list": lambda f: info(f, name=[1], modality={}, licence=3, dims="two", codec=None),
    "dims that do not fit": lambda f: info(f, dims=3),
    "recipe that is a text": lambda f: info(f, recipe="x", recipe_hash=4, quarantined="many"),
    "dataset.json is a list": lambda f: (f / "dataset.json").write_text("[1]"),
    "dataset.json is deep": lambda f: (f / "dataset.json").write_text("[" * 10**5),
    "dataset.json is no UTF-8": lambda f: (f / "dataset.json").write_bytes(b'{"name": "\xff"}'),
    "dataset.json is a folder": lambda f: ((f / "dataset.json").unlink(), (f / "dataset.json").mkdir()),
    "dataset.json has a huge number": lambda f: (f / "dataset.json").write_text(f'{{"format_version": {"9" * 9999}}}'),
    "manifest is cut": lambda f: (f / "manifest.parquet").write_bytes((f / "manifest.parquet").read_bytes()[:-99]),
    "manifest is something else": lambda f: (f / "manifest.parquet").write_bytes(b"PAR1" + bytes(999) + b"PAR1"),
    "quarantine is absent": lambda f: (f / "quarantine.parquet").unlink(),
    "quarantine is something else": lambda f: (f / "quarantine.parquet").write_bytes(b"x"),
    "quarantine of other columns": lambda f: pq.write_table(pa.table({"a": [1]}), f / "quarantine.parquet"),
    **{f"texts {number}": lambda f, text=text: texts(f, text) for number, text in enumerate(TEXTS)},
}  # fmt: skip


def texts(folder: Path, text: str) -> None:
    """``text`` wherever there may be one."""
    info(folder, name=text, modality=text, licence=text, codec=text, tool_version=text, recipe={text: text},
         label_names=[text, text + "2"])  # fmt: skip
    for name in ("patient", "study"):
        column(folder, name, lambda _: text)
    column(folder, "attributes", lambda _: [(text, text), ("age", text)])
    column(folder, "boxes", lambda _: [{"label": text} | dict.fromkeys("yxhwzd", 1.0)])
    rows = {"source": [text], "stage": [text], "reason": [text]}
    pq.write_table(pa.table(rows), folder / "quarantine.parquet")


def test_datasets_of_others_are_data_only(
    theirs: Path,
    tmp_path: Path,
    ingest: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(theirs, tmp_path / "whole")
    other = ingest.recipe("folder", images=str(tmp_path / "source" / "masks"), min_side=8, archive="another")
    convert(other, tmp_path / "other", workers=1)
    whole = use(theirs, tmp_path / "scratch" / "whole")
    assert not any(outcome.startswith("error") for outcome in whole.values()) and whole["verify"] == "0 damages"
    failed, pages = {}, list[str]()
    for number, (what, spoil) in enumerate(SPOILT.items()):
        shutil.rmtree(theirs)
        shutil.copytree(tmp_path / "whole", theirs)
        spoil(theirs)
        monkeypatch.setattr(stats_page, "svg", svg if what in HARMLESS else undrawn)
        before = {path: path.lstat().st_mtime_ns for path in sorted(tmp_path.rglob("*")) if "scratch" not in path.parts}
        capsys.readouterr()
        try:
            outcomes = use(theirs, tmp_path / "scratch" / str(number))
        except Exception as error:  # all are told at the end
            failed[what] = repr(error)[:300]
            continue
        after = {path: path.lstat().st_mtime_ns for path in sorted(tmp_path.rglob("*")) if "scratch" not in path.parts}
        assert after == before, what
        shown = capsys.readouterr().out
        if "\x1b[2J" in shown or "\x07" in shown:
            failed[what] = "control characters reach the terminal"
        if what.startswith("texts"):
            if "<script>alert" in outcomes["stats"] and not outcomes["stats"].startswith("error"):
                failed[what] = "HTML is not escaped"
            pages.append(outcomes["stats"])
        elif (
            what not in HARMLESS
            and all(not outcome.startswith("error") for outcome in outcomes.values())
            and outcomes["verify"] == "0 damages"
        ):
            failed[what] = f"went unnoticed: {outcomes['open']}"
    assert not failed, "\n".join(f"{what}: {error}" for what, error in failed.items())
    assert any("&lt;script&gt;alert" in page for page in pages)  # it was read, and shown
