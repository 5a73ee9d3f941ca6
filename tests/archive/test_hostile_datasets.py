"""Datasets and shards of others are data only: one clear error or a correct reading, and nothing outside is read.

``verify`` names every odd shard, also where manifest and checksums fit it. Nothing is written but what a command says
that it writes; none takes more memory than a shard has bytes.
"""

import json
import math
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from archive import ingest
from archive.mutants.tars import PAYLOAD, tars
from archive.sandbox import listing

from dira_scale.base.errors import UserError, printable
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.judge.pages.figure import svg
from dira_scale.shard.convert import convert
from dira_scale.shard.curate import stats_page
from dira_scale.shard.curate.merge import merge
from dira_scale.shard.curate.stats import Stats
from dira_scale.shard.curate.stats_page import print_table, render_dataset
from dira_scale.shard.curate.subset import SubsetPart, subset
from dira_scale.shard.curate.verify import print_damages, verify_shard

SECRET = b"Drumwhistle's letter"
PART = SubsetPart(fraction=0.5, seed=0, splits=("train",), where={}, folds=None, fold=0)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets of somebody else; beside them a file of ours."""
    folder = tmp_path_factory.mktemp("made")
    source = ingest.source_of(ingest.pngs(folder / "source", 12))
    recipes = {
        "theirs": ingest.recipe("folder", **source, splits={"train": 0.5, "val": 0.5}),
        "other": ingest.recipe("folder", images=str(folder / "source/masks"), min_side=8, archive="another"),
    }
    for name, config in recipes.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DIRA_SCALE_HASH_KEY", f"the key of {name}, which is long enough")
            convert(config, folder / "sets" / name, workers=1)
    (folder / "sets" / "ours").mkdir()
    (folder / "sets" / "ours" / "letter").write_bytes(SECRET * 1000)
    return folder / "sets"


@pytest.fixture
def theirs(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of them, to be spoilt."""
    monkeypatch.setattr(stats_page, "svg", undrawn)
    return Path(shutil.copytree(sets, tmp_path / "sets")) / "theirs"


def undrawn(label: str, draw: Callable[[Any], None]) -> str:
    """What is to be drawn is computed; drawing it is most of a page's time."""
    draw(MagicMock())
    return "<svg></svg>"


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
    printed = json.loads((folder / "dataset.json").read_text())
    first = next(iter(printed["shards"]))
    try:
        size = (folder / to).stat().st_size
    except (OSError, ValueError):
        size = 10
    info(folder, shards={to: size} | {k: v for k, v in printed["shards"].items() if k != first},
         checksums={k: v for k, v in printed["checksums"].items() if k != first})  # fmt: skip
    column(folder, "shard", lambda name: to if name == first else name)


def works(folder: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """All that is done with a dataset."""
    scratch.mkdir(parents=True, exist_ok=True)

    def read() -> int:
        dataset = ShardedDataset.open(folder)
        return sum(len(dataset.read(row)) for row in range(dataset.table.num_rows))

    def stats() -> str:
        counted = Stats(ShardedDataset.open(folder))
        print_table(counted)
        return render_dataset(counted)

    def verified() -> str:
        dataset = ShardedDataset.open(folder, check_shards=False)
        damages = [damage for shard in dataset.info.shards for damage in verify_shard(folder, shard)]
        print_damages(folder, damages)
        return f"{len(damages)} damages"

    return {
        "read": read,
        "verify": verified,
        "stats": stats,
        "subset": lambda: subset(folder, scratch / "part", PART).counts,
        "merge": lambda: merge([folder, folder.with_name("other")], scratch / "sum", "sum").counts,
    }


def use(folder: Path, scratch: Path, measured: bool) -> dict[str, str]:
    """What each work gave, or its one line of error; if ``measured``, none takes more memory than 64 MB."""
    outcomes = {}
    for name, work in works(folder, scratch).items():
        if measured:
            tracemalloc.start()
        try:
            outcomes[name] = str(work())
        except UserError as error:
            assert "\n" not in str(error) and len(printable(str(error))) < 1000, error
            outcomes[name] = f"error: {error}"
        finally:
            _, peak = tracemalloc.get_traced_memory()  # 0 where it is not measured
            tracemalloc.stop()
        assert peak < 2**26, f"{name} took {peak} bytes"
    return outcomes


def exchanged(folder: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the first shard, and what ``dataset.json`` says of it."""
    printed = json.loads((folder / "dataset.json").read_text())
    shard = next(iter(printed["shards"]))
    content = change((folder / shard).read_bytes())
    (folder / shard).write_bytes(content)
    sums = printed["checksums"] | {shard: xxhash.xxh3_64_hexdigest(content)}
    info(folder, shards=printed["shards"] | {shard: len(content)}, checksums=sums)


TEXTS = ["<script>alert(1)</script>", "\x1b[2J\x1b]0;owned\x07", "[/bold][link=file:///etc/passwd]x[/link]", "a\nb",
         "x" * 10000, "../../x"]  # fmt: skip
# What no image hangs on is read as it is: the page reports that a spacing is NaN.
HARMLESS = {"spacing no number", "quarantine of other columns"}
# What claims to be large: there memory is measured, which takes most of a test's time.
CLAIMS = ("without end", "petabyte", "deep", "huge", "GiB", "10^18", "size below", "back to the beginning")
# Beside what tests/dataset/manifest/test_index.py and test_manifest.py have of rows, counts and cut files.
SPOILT: dict[str, Callable[[Path], None]] = {
    "shard above": lambda f: renamed_shard(f, "../ours/letter"),
    "shard without end": lambda f: renamed_shard(f, "/dev/zero"),
    "shard with a NUL": lambda f: renamed_shard(f, "a\0b"),
    "shard that only the manifest names": lambda f: column(f, "shard", lambda _: "../ours/letter"),
    "size of a petabyte": lambda f: column(f, "size", lambda _: 2**50),
    "spacing no number": lambda f: column(f, "spacing", lambda _: [math.nan, math.inf]),
    "shards that are a list": lambda f: info(f, shards=["a", "b"]),
    "label names that are a number": lambda f: info(f, label_names=7),
    "one label name": lambda f: info(f, label_names=["a"]),
    "name that is a list": lambda f: info(f, name=[1], modality={}, licence=3, dims="two", codec=None),
    "recipe that is a text": lambda f: info(f, recipe="x", recipe_hash=4, quarantined="many"),
    "dataset.json is deep": lambda f: (f / "dataset.json").write_text("[" * 10**5),
    "dataset.json has a huge number": lambda f: (f / "dataset.json").write_text(f'{{"format_version": {"9" * 9999}}}'),
    "quarantine is absent": lambda f: (f / "quarantine.parquet").unlink(),
    "quarantine of other columns": lambda f: pq.write_table(pa.table({"a": [1]}), f / "quarantine.parquet"),
    **{f"texts {number}": lambda f, text=text: texts(f, text) for number, text in enumerate(TEXTS)},
    **{name: lambda f, odd=name: exchanged(f, tars(f.with_name("ours") / "letter")[odd]) for name in tars(Path("/"))},
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
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(theirs, tmp_path / "whole")
    whole = use(theirs, tmp_path / "scratch" / "whole", measured=True)
    assert not any(outcome.startswith("error") for outcome in whole.values()) and whole["verify"] == "0 damages"
    failed, pages = {}, list[str]()
    for number, (what, spoil) in enumerate(SPOILT.items()):
        shutil.rmtree(theirs)
        shutil.copytree(tmp_path / "whole", theirs)
        spoil(theirs)
        monkeypatch.setattr(stats_page, "svg", svg if what in HARMLESS else undrawn)
        before, scratch = listing(tmp_path / "sets"), tmp_path / "scratch" / str(number)
        capsys.readouterr()
        try:
            outcomes = use(theirs, scratch, measured=any(claim in what for claim in CLAIMS))
        except Exception as error:  # all are told at the end
            failed[what] = repr(error)[:300]
            continue
        assert listing(tmp_path / "sets") == before, what
        for path in scratch.rglob("*"):
            assert not path.is_symlink() and (path.is_dir() or PAYLOAD not in path.read_bytes()), what
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
            failed[what] = f"went unnoticed: {outcomes['read']}"
    assert not failed, "\n".join(f"{what}: {error}" for what, error in failed.items())
    assert any("&lt;script&gt;alert" in page for page in pages)  # it was read, and shown
