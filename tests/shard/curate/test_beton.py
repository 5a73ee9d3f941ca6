"""FFCV's form of a dataset: its samples are the tars', and FFCV itself reads the same."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
import torch
from archive import ingest
from harness import finish
from needs import need_extra

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.beton import (
    JPEG,
    PAGES,
    ArrayField,
    BetonError,
    BytesField,
    ImageField,
    IntField,
    Reader,
    Writer,
)
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard import main
from dira_scale.shard.convert import convert
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.train.data.order import EvalOrder
from dira_scale.train.data.views import ViewSpec


@pytest.fixture(scope="module", params=["jpg", "png"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in both forms; left as it is."""
    folder = tmp_path_factory.mktemp(request.param)
    config = ingest.recipe("folder", **ingest.source_of(ingest.pngs(folder)), shard_size=5, codec=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRA_SCALE_HASH_KEY", ingest.HASH_KEY)
        convert(config, folder / "ds", workers=1)
        assert main(["convert", f"path={folder / 'ds'}", "to=ffcv"]) == 0
    return folder / "ds"


def test_a_beton_has_the_samples_of_its_split_in_order(made: Path) -> None:
    opened = ShardedDataset.open(made)
    for split in opened.splits:
        assert opened.info.betons[f"{split}.beton"] == (made / f"{split}.beton").stat().st_size
        for row, values in zip(opened.rows(split).tolist(), Reader(made / f"{split}.beton"), strict=True):
            assert values["index"] == row and bytes(values["key"]).decode() == opened.column("key")[row]
            np.testing.assert_array_equal(values["labels"], opened.labels(np.array([row]))[0])
            assert (values["mask"] if values.get("mask_size") else None) == opened.read_mask(row)


def test_16_bits_are_refused(tmp_path: Path, png_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(ingest.recipe("folder", **ingest.source_of(png_folder), bits=16), tmp_path / "ds", workers=1)
    assert main(["convert", f"path={tmp_path / 'ds'}"]) == 2
    assert "8-bit images only, these are 2D of 16 bits" in capsys.readouterr().err


def test_a_beton_that_is_not_of_the_dataset_is_not_replaced(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor what a link in its place, or in that of the unfinished file, leads to."""
    dataset, mine = Path(shutil.copytree(made, tmp_path / "copy")), tmp_path / "mine.txt"
    mine.write_text("mine")
    for file in dataset.glob("*.beton"):
        file.unlink()
    info = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(info | {"betons": {}}))
    (dataset / "train.beton").write_text("mine")
    assert main(["convert", f"path={dataset}", "to=ffcv"]) == 2
    assert "train.beton would be replaced" in capsys.readouterr().err
    (dataset / "train.beton").unlink()
    (dataset / ".train.beton.part").symlink_to(mine)
    assert main(["convert", f"path={dataset}", "to=ffcv"]) == 0
    assert mine.read_text() == "mine" and not (dataset / "train.beton").is_symlink()


def test_the_size_is_reported_before_and_a_full_disk_is_refused(
    tmp_path: Path, png_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(ingest.recipe("folder", **ingest.source_of(png_folder)), tmp_path / "ds", workers=1)
    full = SimpleNamespace(free=2**20)  # less than a page
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert main(["convert", f"path={tmp_path / 'ds'}"]) == 2
    printed = capsys.readouterr()
    assert "free space, or shard with recipe.codec=jpg" in printed.err
    assert not list((tmp_path / "ds").glob("*.beton"))
    full.free = 2**30
    assert main(["convert", f"path={tmp_path / 'ds'}"]) == 0
    written = sum(path.stat().st_size for path in (tmp_path / "ds").glob("*.beton"))
    assert f"FFCV's format will take about {written / 1e6:,.1f} MB" in printed.out


def test_samples_that_fill_pages_lie_each_in_one(tmp_path: Path) -> None:
    """FFCV reads by pages: a sample that is cut by the end of one would be read wrong."""
    rng, fields = (
        np.random.default_rng(0),
        {"image": ImageField(), "n": IntField(), "more": BytesField(), "a": ArrayField("<f4", (2, 3))},
    )
    samples = [
        {"image": (JPEG, 7, 9, rng.bytes(size)), "n": -size, "more": rng.bytes(5), "a": rng.random((2, 3), np.float32)}
        for size in rng.integers(1_000_000, 6_000_000, 9).tolist()
    ]
    with Writer(tmp_path / "x.beton", fields, len(samples), 6_000_100) as writer:
        for sample in samples:
            writer.add(sample)
    reader = Reader(tmp_path / "x.beton")
    for sample, found in zip(samples, reader, strict=True):
        assert found["image"] == sample["image"] and (found["n"], found["more"]) == (sample["n"], sample["more"])
        np.testing.assert_array_equal(found["a"], sample["a"])
    pages = reader._allocations["pointer"] // writer.page
    ends = (reader._allocations["pointer"] + reader._allocations["size"] - 1) // writer.page
    for number in range(len(samples)):
        mine = reader._allocations["sample"] == number
        assert len({*pages[mine], *ends[mine]}) == 1
    with pytest.raises(BetonError, match="exceeds"):
        Writer(tmp_path / "y.beton", fields, 1, PAGES[-1] + 1)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.system)])
def test_ffcv_itself_reads_the_same(made: Path, compiled: bool, tmp_path: Path) -> None:
    need_extra("ffcv")
    if compiled:
        reader, out = Path(__file__).with_name("read_beton.py"), tmp_path / "read.npz"
        finish([sys.executable, str(reader), str(made / "train.beton"), str(out)])
        read = dict(np.load(out))
    else:
        from shard.curate import read_beton

        read = read_beton.read_uncompiled(made / "train.beton")
    opened = ShardedDataset.open(made)
    assert read["index"][:, 0].tolist() == opened.rows("train").tolist()
    for n, row in enumerate(opened.rows("train").tolist()):
        assert bytes(read["key"][n]).decode() == opened.column("key")[row]
        if opened.info.codec == "jpg":  # FFCV takes libjpeg's fast, coarse DCT
            pixels = simplejpeg.decode_jpeg(opened.read(row), "RGB", fastdct=True, fastupsample=True)
        else:
            pixels = decode(opened.read(row), opened.column("codec")[row])[..., None]
        assert (read["image"][n] == pixels).all()
        np.testing.assert_array_equal(read["labels"][n], opened.labels(np.array([row]))[0])
        assert bytes(read["mask"][n][: int(read["mask_size"][n, 0])]) == (opened.read_mask(row) or b"")


def test_the_loader_reads_it(made: Path) -> None:
    """The samples, crops and masks of the shards; pixels up to decoder and filter
    (tests/train/data/loaders/test_ffcv.py)."""
    need_extra("ffcv")
    opened = ShardedDataset.open(made)
    arguments = {"datasets": [opened], "split": "train", "order": EvalOrder(opened.info.counts["train"], 4),
                 "views": ViewSpec(size=16), "seed": 0, "masks": True}  # fmt: skip
    read, expected = (next(choose(name).build(LoaderSpec(**arguments)).iterate(0, 1)) for name in ("ffcv", "cpu"))
    assert torch.equal(read.index, expected.index) and torch.equal(read.mask, expected.mask)
    for view, plain in zip(read.views, expected.views, strict=True):
        assert (view.float() - plain.float()).abs().mean() < 3
