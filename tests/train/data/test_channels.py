"""Channels with ranges of their own: what every reader makes of them, and what a manifest may not say of them."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from train.data.volumes import make, plain_view, spec

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import DatasetError, ShardedDataset, schema_of
from dira_scale.judge.evaluation.features import Images
from dira_scale.judge.evaluation.inference import Stored
from dira_scale.shard.curate.merge import merge
from dira_scale.shard.curate.stats import Stats
from dira_scale.shard.curate.stats_page import TILE, tile
from dira_scale.train.data.batch import Batch, unit_interval
from dira_scale.train.data.distort import build
from dira_scale.train.data.distort.corruptions import Bezier, GaussianNoise
from dira_scale.train.data.geometry.fixed import centre
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import Jitter, ViewSpec, draw, fixed_views

NAN, SIZE = math.nan, (25, 16, 16)
GENERATOR = np.random.default_rng(0)
VOLUMES = [GENERATOR.integers(-500, 900, (2, 17, 20 + 2 * n, 16), np.int16) for n in range(4)]
VOLUMES[1][1] = 0  # lacks T2
RANGES = [((-400.0, 10.0), (800.0, 500.0)), ((0.0, NAN), (700.0, NAN)), ((-5.5, -90), (600, 800)), ((1, 2), (3, 4))]


def dataset(root: Path, **more: Any) -> ShardedDataset:
    return make(root, VOLUMES, **{"ranges": RANGES, "channels": ("T1", "T2"), **more})


def scaled(number: int, values: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """The plain formula of ``values`` [2, …] of a volume."""
    channels = []
    for channel, low, high in zip(values.astype(np.float64), *RANGES[number], strict=True):
        low, high = (low, high) if window is None or np.isnan(low) else window
        channels.append(0 * channel if np.isnan(low) else np.clip((channel - low) / (high - low), 0, 1))
    return np.stack(channels)


@pytest.mark.parametrize("window", [None, (-100.0, 300.0)], ids=["own", "data.range"])
def test_every_reader_scales_each_channel_by_its_range(tmp_path: Path, window: tuple[float, float] | None) -> None:
    """The loader's crops, also beyond a volume; whole volumes of `embed`; windows of `evaluate` and `predict`."""
    shards = dataset(tmp_path / "toy", codec="b2nd")
    views = fixed_views(SIZE, centre(3, extent=SIZE), pad=True, range=window)
    loader = CpuLoader(LoaderSpec([shards], "train", EvalOrder(4, 4), views, seed=0, fixed_epoch=0))
    (batch,) = loader.iterate(0, 1)
    assert batch.low.shape == (4, 1, 2) and batch.views[0].dtype == torch.int16
    moved = batch.to("cpu")
    assert torch.equal(moved.to("cpu").views[0], moved.views[0])
    for each in (batch, moved, moved.to("cpu"), *moved.split(1)):
        assert each.lacking(0).tolist() == np.isnan([low for low, _ in RANGES]).tolist()
    reader = SampleReader(Samples([shards], "train", views=views))
    images = next(Images(shards, np.arange(4), (17, 20, 16), 1, window).batches(4))
    for n, voxels in enumerate(VOLUMES):
        lows = [math.floor(0 if np.isnan(low) else window[0] if window else low) for low in RANGES[n][0]]
        box = (-4, n + 2, 0, *SIZE)  # from below the volume to above it
        crop = [plain_view(c, box, (False,) * 3, SIZE, outside=low) for c, low in zip(voxels, lows, strict=True)]
        np.testing.assert_allclose(moved.views[0][n], scaled(n, np.stack(crop), window), atol=1e-5)
        stored = Stored.of(reader, n).seen(range=window, pad=True)
        np.testing.assert_allclose(stored.image(), scaled(n, voxels, window), atol=1e-5)
        np.testing.assert_allclose(stored.view(centre(3, extent=SIZE)[0], SIZE), moved.views[0][n])
    np.testing.assert_allclose(images[0], scaled(0, VOLUMES[0], window), atol=1e-5)
    assert not images[1, 1].any()
    assert shards.shown(1) == (0, 0.0, 700.0)
    pictures = Stats(shards)
    for n, there in enumerate((2, 1, 2, 2)):  # side by side, by their own ranges
        planes = scaled(n, VOLUMES[n][:, 8])[:there]
        np.testing.assert_allclose(pictures.dataset.picture(n), np.concatenate(planes, axis=1), atol=1e-5)
        assert tile(pictures, n).shape == (TILE, TILE, 3)


def test_of_one_range_nothing_is_computed_otherwise() -> None:
    stored, low, high = torch.randint(0, 255, (3, 1, 8, 8)), torch.tensor([0.0, 9, 7]), torch.tensor([200.0, 90, 7])
    expected = ((stored.float() - low.view(3, 1, 1, 1)) / (high - low).view(3, 1, 1, 1)).clamp(0, 1)
    assert torch.equal(unit_interval(stored, low, high).nan_to_num(5), expected.nan_to_num(5))


def test_datasets_mix_by_the_names_of_their_channels(tmp_path: Path) -> None:
    """An older one has one range for all channels, and does not name them."""
    new, old = dataset(tmp_path / "new"), make(tmp_path / "old", VOLUMES)
    assert old.info.format_version == 3 and "channels" not in json.loads((old.root / "dataset.json").read_text())
    low, high = Samples([new, old], "train").range(np.array([1, 5]))
    np.testing.assert_array_equal(low, [[0, NAN], [-1024, -1024]])
    np.testing.assert_array_equal(high, [[700, NAN], [3000, 3000]])
    swapped = dataset(tmp_path / "swapped", channels=("T2", "T1"))
    with pytest.raises(UserError, match=r"differ in their channels \(T1, T2 in .*new and T2, T1 in .*swapped\)"):
        Samples([new, swapped], "train")
    with pytest.raises(UserError, match=r"has T1, T2, but .*swapped T2, T1: merge datasets of the same channels"):
        merge([new.root, swapped.root], tmp_path / "merged", "both")


def test_a_network_takes_the_channels_that_it_has_learned(tmp_path: Path) -> None:
    shards, grey = dataset(tmp_path / "toy"), make(tmp_path / "grey", [each[0] for each in VOLUMES])
    for each, names in ((shards, ("T1", "T2")), (shards, ()), (grey, ())):
        each.require_channels(["train"], 2, names, "it")
    with pytest.raises(DatasetError, match=r"toy has the channels T1, T2, and it has learned T2, T1: shard again with"):
        shards.require_channels(["train"], 2, ("T2", "T1"), "it")
    with pytest.raises(DatasetError, match=r"grey has images of 1 channels, and it takes 2: name"):  # is no T2
        grey.require_channels(["train"], 2, ("T1", "T2"), "it")
    with pytest.raises(DatasetError, match=r"toy has images of 2 channels, and it takes 1 or 3: name"):
        shards.require_channels(["train"], 3, (), "it")
    with pytest.raises(DatasetError, match=r"grey has images of 1 channels, and it takes 3: name"):
        grey.require_channels(["train"], 3, (), "it", colour=True)


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("low", [0.0, NAN], "low and high are not of the same channels"), ("high", [5.0], "high is not of 2 channels"),
        ("low", [900.0, 10.0], "low is not below high"), ("low", [NAN, NAN], "not of the same channels, or of none"),
        ("low", [-math.inf, 1.0], "low is not finite"), ("low", [None, 1.0], "not of the same channels, or of none"),
        ("channels", 3, "channels is not 2"), ("low", None, "rows without low"),
    ],
)  # fmt: skip
def test_a_strangers_ranges_are_checked(tmp_path: Path, column: str, value: Any, words: str) -> None:
    root = dataset(tmp_path / "toy").root
    rows = pq.read_table(root / "manifest.parquet").to_pylist()
    rows[0][column] = value
    if value == [NAN, NAN]:
        rows[0]["high"] = value
    pq.write_table(pa.Table.from_pylist(rows, schema_of(("T1", "T2"))), root / "manifest.parquet")
    with pytest.raises(DatasetError, match=words):
        ShardedDataset.open(root)


@pytest.mark.parametrize("named", [[], ["T1"], ["T1", "T1"], "T1", [1, 2], ["T1", "\x1b[2J"], [*map(str, range(999))]])
def test_a_strangers_names_are_checked(tmp_path: Path, named: Any) -> None:
    root = dataset(tmp_path / "toy").root
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(content | {"channels": named}))
    with pytest.raises(DatasetError, match=r"is damaged \(invalid (channels|text)\)"):
        ShardedDataset.open(root)


def dropped(views: ViewSpec, index: np.ndarray, epoch: int = 0, lacking: torch.Tensor | None = None) -> torch.Tensor:
    """Which channels are 0 of views of ones, bool [b, C]."""
    sides = [np.full(len(index), side) for side in views.sides]
    _, params = draw(views, 3, epoch, index, np.zeros(len(index), int), 0, *sides)
    x = torch.ones(len(index), 3, *views.sides)
    return build(views)(x, params, False, lacking).flatten(2).amax(2) == 0


@pytest.mark.parametrize("size", [(8, 8, 8), 16], ids=["volume", "image"])
def test_channels_are_dropped_by_the_samples_key_alone_and_never_all(size: Any) -> None:
    plain = spec(8, 8, 8) if isinstance(size, tuple) else replace(spec(8, 8, 8), size=size)
    views, index = replace(plain, channel_dropout=0.5), np.arange(1000)
    gone = dropped(views, index)
    assert not gone.all(1).any()
    # of three with p = 1/2, of which one stays if all would go: (3/2 - 1/8) / 3 of each
    assert torch.allclose(gone.float().mean(0), torch.full((3,), 11 / 24), atol=0.065)
    parts = [dropped(views, index[part]) for part in (slice(0, 7), slice(7, 600), slice(600, None))]
    assert torch.equal(torch.cat(parts), gone) and not torch.equal(dropped(views, index, epoch=1), gone)
    assert not dropped(plain, index[:9]).any()
    lacking = torch.tensor([[False, True, True]] * 200)  # of the only one there is nothing to drop
    assert torch.equal(dropped(views, index[:200], lacking=lacking), lacking)


def test_a_lacking_channel_stays_0_through_jitter_and_corruptions() -> None:
    """So do dropped ones: falling curves would make them 1, and noise would show in them."""
    views = replace(
        spec(8, 8, 8), jitter=Jitter(), corruptions={"curve": Bezier(p=1.0), "noise": GaussianNoise(sigma=(0.1, 0.2))}
    )
    x, index = torch.rand(64, 2, 8, 8, 8), np.arange(64)
    x[:32, 1], lacking = 0, torch.tensor([[False, True]] * 32 + [[False, False]] * 32)
    for p in (0.0, 0.5):
        each = replace(views, channel_dropout=p)
        _, params = draw(each, 0, 0, index, np.zeros(64, int), 0, *[np.full(64, 8)] * 3)
        zero = build(each)(x, params, lacking=lacking).flatten(2).amax(2) == 0
        assert torch.equal(zero[:32], lacking[:32]) and (0 < zero[32:].sum() < 32) == (p > 0)
    jitter = build(replace(views, corruptions={}))  # of each channel as of a volume that has only this one
    torch.testing.assert_close(jitter(x, params), torch.cat([jitter(x[:, [c]], params) for c in (0, 1)], 1))


def test_the_second_view_is_another_sequence_of_the_session(tmp_path: Path) -> None:
    """However many processes: four sessions' sequences, one of them alone."""
    volumes, studies = [v[0] for v in VOLUMES] * 2, ["a", "b", "a", "c", "b", "a", "d", "d"]
    shards = make(tmp_path / "toy", volumes, studies=studies)
    views = replace(spec(8, 8, 8), pair="session")

    def shown(rank: int, world: int) -> list[Batch]:
        order = Order((8,), seed=0, batch=8)
        return [*CpuLoader(LoaderSpec([shards], "train", order, views, seed=0, rank=rank, world=world)).iterate(0, 3)]

    for alone, *halves in zip(shown(0, 1), shown(0, 2), shown(1, 2), strict=True):
        assert torch.equal(torch.cat([half.images for half in halves]), alone.images)
        for first, second in alone.images.tolist():
            assert studies[first] == studies[second] and (first != second) == (studies[first] != "c")
    whole = make(tmp_path / "whole", volumes, studies=[*"abcdefgh"])
    order, held_out = Order((8,), seed=0, batch=8), EvalOrder(8, 8)
    assert CpuLoader(LoaderSpec([whole], "train", held_out, views, seed=0, fixed_epoch=0))
    with pytest.raises(UserError, match=r"no two images of split 'train' of .*whole are of one session, so"):
        CpuLoader(LoaderSpec([whole], "train", order, views, seed=0))
