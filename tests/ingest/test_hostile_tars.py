"""Shards of others, with a manifest and checksums that fit them: members are data, and ``verify`` tells the odd ones.

Nothing is written but what a command says that it writes; none takes more memory than a shard has bytes.
"""

import contextlib
import json
import shutil
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import xxhash
from ingest.mutants.tars import PAYLOAD, tars
from ingest.sandbox import listing
from PIL import Image

from dira_scale.curation import stats_page
from dira_scale.curation.audit.audit import audit
from dira_scale.curation.beton import to_beton
from dira_scale.curation.merge import merge
from dira_scale.curation.stats import Stats
from dira_scale.curation.stats_page import print_table, render_dataset
from dira_scale.curation.subset import Part, subset
from dira_scale.curation.verify import print_damages, verify_shard
from dira_scale.data.manifest import DatasetError, ShardedDataset
from dira_scale.errors import UserError, printable
from dira_scale.ingest.convert import convert

SECRET = b"Drumwhistle's letter"
PART = Part(fraction=0.5, seed=0, splits=("train",), where={}, folds=None, fold=0)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, ingest: SimpleNamespace) -> Path:
    """Two datasets of somebody else."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("theirs", "other"):
        (folder / name).mkdir()
        for number in range(8):
            Image.fromarray(ingest.picture(number + ord(name[0]))).save(folder / name / f"{number}.png")
        config = ingest.recipe("folder", images=str(folder / name), codec="jpg", splits={"train": 0.5, "val": 0.5})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DIRA_SCALE_HASH_KEY", f"the key of {name}, which is long enough")
            convert(config, folder / "sets" / name, workers=1)
    return folder / "sets"


@pytest.fixture(autouse=True)
def once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs most time, and nothing of a shard: curves are computed, and drawn in one case."""
    if "a sample twice" not in request.node.name:
        monkeypatch.setattr(stats_page, "svg", lambda label, draw: f"data:{draw(MagicMock())}")


@pytest.fixture
def theirs(sets: Path, tmp_path: Path) -> Path:
    """One of them, to be spoilt, in a folder of its own; beside it a file of ours."""
    shutil.copytree(sets, tmp_path / "sets")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "letter").write_bytes(SECRET)
    return tmp_path / "sets" / "theirs"


def spoil(folder: Path, change: Callable[[bytes], bytes]) -> str:
    """Exchange the first shard, in ``dataset.json``, too; its name."""
    info = json.loads((folder / "dataset.json").read_text())
    shard = next(iter(info["shards"]))
    content = change((folder / shard).read_bytes())
    (folder / shard).write_bytes(content)
    info["shards"][shard], info["checksums"][shard] = len(content), xxhash.xxh3_64_hexdigest(content)
    (folder / "dataset.json").write_text(json.dumps(info))
    return shard


def works(folder: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """All that is done with a dataset."""

    def read() -> int:
        dataset = ShardedDataset.open(folder)
        return sum(len(dataset.read(row)) for row in range(dataset.table.num_rows))

    def stats() -> None:
        found = Stats(ShardedDataset.open(folder))
        print_table(found)
        render_dataset(found)

    return {
        "read": read,
        "stats": stats,
        "subset": lambda: subset(folder, scratch / "part", PART),
        "merge": lambda: merge([folder, folder.with_name("other")], scratch / "sum", "sum"),
        "audit": lambda: audit(str(folder), str(folder.parents[1] / "ours"), [], [], False, 1),
        "beton": lambda: to_beton(folder),
    }


def test_verify_notices_each(theirs: Path, tmp_path: Path) -> None:
    whole = {path: path.read_bytes() for path in theirs.iterdir()}
    before, unnoticed = elsewhere(tmp_path, theirs), []
    for name, change in tars(tmp_path / "ours" / "letter").items():
        for path, content in whole.items():
            path.write_bytes(content)
        try:
            if not verify_shard(theirs, spoil(theirs, change)):
                unnoticed.append(name)
        except DatasetError as error:
            assert "samples outside shard" in str(error)
    assert not unnoticed and elsewhere(tmp_path, theirs) == before


FEW = ("a link, and a file through it", "a size below zero", "a JSON of 8 GiB", "a sample twice")


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.torture) for name in tars(Path("/ours/letter"))],
)
def test_a_shard_of_somebody_else(name: str, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scratch, ours = tmp_path / "scratch", tmp_path / "ours"
    scratch.mkdir()
    shard = spoil(theirs, tars(ours / "letter")[name])
    names = {path.name for path in theirs.iterdir()}
    with contextlib.suppress(DatasetError):  # where the manifest points behind the shard's end
        assert print_damages(theirs, verify_shard(theirs, shard)) == 1
    before = elsewhere(tmp_path, theirs, scratch)
    for what, work in works(theirs, scratch).items():
        tracemalloc.start()
        try:
            work()
        except UserError as error:
            assert len(printable(str(error))) < 1000
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 2**26, f"{what} took {peak} bytes"
    assert elsewhere(tmp_path, theirs, scratch) == before and (ours / "letter").read_bytes() == SECRET
    assert {path.name for path in theirs.iterdir()} <= names | {"train.beton", "val.beton"}
    for path in scratch.rglob("*"):
        assert not path.is_symlink() and (path.is_dir() or PAYLOAD not in path.read_bytes())
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown and "\x07" not in shown


def elsewhere(folder: Path, *but: Path) -> dict[bytes, tuple]:
    """All files in ``folder``, but for those whose paths begin so."""
    return {
        path: state for path, state in listing(folder).items()
        if not stat.S_ISDIR(state[0]) and not any(path.startswith(str(place).encode()) for place in but)
    }  # fmt: skip
