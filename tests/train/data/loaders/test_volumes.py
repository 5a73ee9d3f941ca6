"""Volumes through the loaders: the crops of the arrays, voxel by voxel, whatever reads, spaces, pads and turns them."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from needs import need_extra
from omegaconf import OmegaConf
from train.data.volumes import WORDS, make, plain_view, random_volumes, spec

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import DatasetError, UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.boxes import Crop
from dira_scale.pretrain.description import describe
from dira_scale.shard.curate.verify import verify_shard
from dira_scale.train import methods
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.geometry.fixed import centre
from dira_scale.train.data.geometry.volume import VolumeCrop
from dira_scale.train.data.labels import IGNORE
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.storage import ShardFiles
from dira_scale.train.data.views import Blur, ViewSpec, Warp, draw, fixed_views

COUNT, BATCH = 9, 3
ORDER = Order((COUNT,), seed=5, batch=BATCH)
VOLUMES = random_volumes(COUNT)  # 17 x 20 x 16 to 25 x 17 x 18
SPACING = [(2.0, 0.7, 0.7), (1.0, 1.0, 1.0), (3.0, 0.8, 0.8)] * 3
CROPS, LARGE = ((6, 12, 9), (9, 9, 9)), ((24, 12, 30), (12, 16, 14))
PAIR: dict[str, Any] = {"iou": 0.2, "same_size": True, "crop_border": (0, 1, 1)}


def load(dataset: ShardedDataset, views: ViewSpec, steps: int = 6, name: str = "cpu", **more: Any) -> list[Batch]:
    arguments = {"datasets": [dataset], "split": "train", "order": ORDER, "views": views, "seed": 3} | more
    return list(choose(name).build(LoaderSpec(**{"masks": True} | arguments)).iterate(0, steps))


def plain_mask(voxels: np.ndarray, box: list[float], flip: list[bool], size: list[int], transposed: bool) -> np.ndarray:
    """Whether the voxel in which the middle of each of a view's lies is above 0; ``IGNORE`` beyond the volume."""
    size = [size[0], size[2], size[1]] if transposed else size
    far = 40  # voxels beyond the volume
    above = np.pad((voxels > 0).astype(int), far, constant_values=IGNORE)
    at = [[far + math.floor(box[a] + (i + 0.5) * box[3 + a] / size[a]) for i in range(size[a])] for a in range(3)]
    mask = np.flip(above[np.ix_(*at)], [axis for axis in range(3) if flip[axis]])
    return mask.transpose(0, 2, 1) if transposed else mask


@pytest.mark.parametrize(
    ("views", "codec", "channels"),
    [
        (spec(8, 10, 9), "npy", 1),
        (spec(8, 10, 9, extents=((14, 13, 9), (5, 10, 16), (8, 10, 9))), "npy", 2),
        (spec(8, 8, 8, extents=CROPS, turns=0.7, transpose=0.3), "b2nd", 1),
        (spec(8, 10, 9, spacing=(1.5, 1.1, 1.1)), "b2nd", 2),
        (spec(8, 12, 12, extents=((6, 11, 9), (9, 9, 9)), spacing=(2.0, 0.9, 0.9), turns=0.5), "npy", 1),
        (spec(20, 24, 24, pad=True, turns=0.5, range=(-2000.0, 500.0)), "npy", 1),
        (spec(12, 16, 14, extents=LARGE, pad=True, spacing=(1.3, 0.9, 0.9), transpose=0.5), "npy", 1),
        (spec(8, 8, 8, extents=CROPS, iou=0.25, crop_border=(1, 2, 2)), "npy", 1),
        (spec(8, 8, 8, extents=CROPS, spacing=1.7, pad=True, turns=0.5, **PAIR), "b2nd", 1),
    ],
    ids=["as stored", "resized", "turned", "spacing", "both", "padded", "padded and transposed", "a pair", "all"],
)
def test_views_and_masks_are_those_of_the_arrays(tmp_path: Path, views: ViewSpec, codec: str, channels: int) -> None:
    volumes = random_volumes(COUNT, channels)
    dataset = make(tmp_path / "toy", volumes, codec, spacing=SPACING)
    low, high = views.range or (-1024.0, 3000.0)
    turned = beyond = 0
    for batch in load(dataset, views):
        at, scaled = ORDER.batch_at(batch.step), batch.to("cpu").views
        assert all(view.is_contiguous(memory_format=torch.channels_last_3d) for view in scaled)
        sides, spacing = np.array([volumes[i].shape[-3:] for i in at.index]), np.array([SPACING[i] for i in at.index])
        for view in range(2):
            crops, _ = draw(views, 3, at.epoch, at.index, at.occurrence, view, *sides.T, spacing=spacing)
            for i, sample in enumerate(at.index.tolist()):
                box, flip, transposed = crops.crop(i)
                arrays = volumes[sample].reshape(channels, *sides[i])
                for array, shown, seen in zip(arrays, batch.views[view][i].numpy(), scaled[view][i], strict=True):
                    expected = plain_view(array, box, flip, views.sides, transposed, outside=int(low))
                    assert np.abs(shown - expected).max() < 0.501
                    np.testing.assert_allclose(seen, np.clip((shown - low) / (high - low), 0, 1), rtol=1e-5, atol=1e-6)
                if sample % 2 == 0:  # the others have no mask
                    mask = plain_mask(arrays[0], box, flip, views.sides, transposed)
                    np.testing.assert_array_equal(batch.mask[i, view], mask)  # type: ignore[index]
                    beyond += int((mask == IGNORE).any())
                turned += transposed
    assert (turned > 0) == bool(views.turns or views.transpose) and (beyond > 0) == views.pad


@pytest.mark.parametrize(("name", "channels"), [("cpu", 1), ("stream", 2)])
def test_bricks_give_what_whole_volumes_give(tmp_path: Path, name: str, channels: int) -> None:
    """Plain arrays are read whole, and give equal batches."""
    volumes = [np.ascontiguousarray(np.tile(v, (2, 2, 3))) for v in random_volumes(COUNT, channels)]
    views = spec(8, 10, 9, extents=((14, 13, 9), (8, 10, 9)))
    expected = load(make(tmp_path / "npy", volumes, "npy"), views, steps=3)
    bricks = load(make(tmp_path / "bricks", volumes, "b2nd"), views, steps=3, name=name, workers=2)
    for batch, same in zip(bricks, expected, strict=True):
        assert torch.equal(batch.index, same.index) and torch.equal(batch.mask, same.mask)  # type: ignore[arg-type]
        assert all(torch.equal(x, y) for x, y in zip(batch.views, same.views, strict=True))


def test_a_crop_covers_as_many_millimetres_of_every_volume(tmp_path: Path) -> None:
    """To 1/2048 of a voxel; where the spacing is the volume's own, voxels are copied."""
    views, requested = spec(8, 10, 9, spacing=(2.0, 1.0, 1.0), turns=1.0), np.array((2.0, 1.0, 1.0))
    index, zero, spacing = np.arange(COUNT), np.zeros(COUNT, int), np.array(SPACING)
    sides = np.full((COUNT, 3), 60)
    drawn, _ = draw(views, 3, 0, index, zero, 0, *sides.T, spacing=spacing)
    assert drawn.transposed is not None and drawn.transposed.any() and not drawn.transposed.all()
    sizes = np.where(drawn.transposed[:, None], (8, 9, 10), (8, 10, 9))
    np.testing.assert_allclose(drawn.box[:, 3:], sizes * requested / spacing, rtol=0, atol=1 / 2048)
    assert (drawn.box[:, :3] == np.rint(drawn.box[:, :3])).all() and (drawn.box[:, :3] >= 0).all()
    assert (drawn.box[:, :3] + drawn.box[:, 3:] <= sides).all()
    dataset = make(tmp_path / "toy", VOLUMES, spacing=[(2.0, 0.7, 0.7)] * COUNT)
    own = spec(8, 10, 9, spacing=(2.0, 0.7, 0.7))  # 0.7 is stored as 0.699999988
    for asked_views in (own, spec(8, 10, 9)):
        assert all(
            torch.equal(a, b)
            for one, other in zip(load(dataset, own), load(dataset, asked_views), strict=True)
            for a, b in zip(one.views, other.views, strict=True)
        )


def test_evaluation_crops_are_in_millimetres_and_padded_evenly(tmp_path: Path) -> None:
    dataset = make(tmp_path / "toy", VOLUMES[:2], spacing=[(2.0, 0.5, 0.5), (1.0, 1.0, 1.0)])
    views = fixed_views((20, 12, 12), centre(3, extent=(20, 12, 12)), spacing=1.0, pad=True)
    (batch,) = load(dataset, views, steps=1, order=EvalOrder(2, 2), fixed_epoch=0)
    boxes = [(4, -2, -4, 10, 24, 24), (-1, 4, 2, 20, 12, 12)]  # of 17 x 20 x 16 and 18 x 19 x 17 voxels
    for i, box in enumerate(boxes):
        expected = plain_view(VOLUMES[i], box, (False,) * 3, (20, 12, 12), outside=-1024)
        assert np.abs(batch.views[0][i, 0].numpy() - expected).max() < 0.501


def test_turns_are_numpys() -> None:
    """Mirrored, transposed, then turned by ``np.rot90``; each of the three turns with a third of the probability."""
    rule, count = VolumeCrop(((3, 4, 5),), 0.5, turns=0.6, transpose=0.5), 4000
    u = np.random.default_rng(0).random((count, rule.numbers))
    x = np.arange(60).reshape(3, 4, 5)
    crops = rule.draw(u, np.full((count, 3), 9))
    quarters = np.zeros(count, int)
    for i, row in enumerate(u):
        expected = np.flip(x, [axis for axis in range(3) if row[4 + axis] < 0.5])
        expected = expected.transpose(0, 2, 1) if row[7] < 0.5 else expected
        quarters[i] = 1 + int(3 * row[9]) if row[8] < 0.6 else 0
        expected = np.rot90(expected, quarters[i], axes=(1, 2))
        _, mirrored, transposed = crops.crop(i)
        shown = np.flip(x, [axis for axis in range(3) if mirrored[axis]])
        np.testing.assert_array_equal(shown.transpose(0, 2, 1) if transposed else shown, expected)
    assert np.abs(np.bincount(quarters) / count - [0.4, 0.2, 0.2, 0.2]).max() < 0.03


@pytest.mark.parametrize("loader", ["cpu", "stream"])
def test_a_range_is_of_images_too(make_dataset: Any, radiograph: Any, loader: str) -> None:
    dataset = make_dataset([radiograph(40, 40, seed) for seed in range(3)])
    views = ViewSpec(size=16, range=(50, 150))
    (batch,) = load(dataset, views, steps=1, order=Order((3,), seed=1, batch=3), name=loader, masks=False)
    assert (batch.low == 50).all() and (batch.high == 150).all()
    np.testing.assert_allclose(
        batch.to("cpu").views[0].numpy(), np.clip((batch.views[0].numpy() - 50.0) / 100, 0, 1), rtol=1e-6
    )
    with pytest.raises(ArgumentError, match=r"^spacing: expected to be left out: only views of volumes have it"):
        ViewSpec(size=16, spacing=1.0, pad=True)


def test_the_keys_of_data_reach_views_and_description() -> None:
    words = [*WORDS, "data.shards=any", "data.size=[8,16,16]"]
    cfg = compose("pretrain", [*words, "data.spacing=[2,1,1]", "data.range=[-1000,400]", "data.pad=true"])
    assert methods.views_of(cfg).stored == {"spacing": [2, 1, 1], "range": [-1000, 400], "pad": True}
    assert methods.views_of(compose("pretrain", words)).stored == {"spacing": None, "range": None, "pad": False}
    assert describe(OmegaConf.to_container(cfg)).input.window == (-1000, 400)  # type: ignore[arg-type]
    for word, printed in (
        ("data.spacing=[1,2]", "data.spacing=[1, 2]: expected stored, or 0.05 to 50 millimetres: a number, or [z,y,x]"),
        ("data.range=[400,-1000]", "data.range=[400, -1000]: expected stored values [low,high], such as"),
    ):
        with pytest.raises(UserError, match=re.escape(printed)):
            compose("pretrain", [*words, word])


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, make_dataset: Any, radiograph: Any) -> None:
    volumes, images = make(tmp_path / "toy", VOLUMES), make_dataset([radiograph(40, 40)] * COUNT, name="flat")
    spaced = make(
        tmp_path / "spaced", VOLUMES, spacing=[(2.0, 0.7, 0.7), None, (2.0, 0.7, 0.9), *[(2.0, 0.7, 0.7)] * 6]
    )
    whole = make(tmp_path / "whole", VOLUMES, spacing=[(2.0, 0.7, 0.7)] * COUNT)
    extents = ((8, 8, 8), (8, 17, 17))
    for data, views, message in (
        (spaced, spec(8, 8, 8, spacing=1.5), "spaced: sample v1 has no spacing .* of 9 in .* of 1.5 mm need it"),
        (spaced, spec(8, 8, 8, turns=0.5), "^spacing: expected millimetres, .* sample v2 has voxels of 0.7 x 0.9 mm"),
        (whole, spec(16, 12, 12, spacing=1.0), r"^pad: expected true, or views.extents \[\[34,\d+,\d+\]\], which fits "
         "all: .*v0 has 17 x 20 x 16 voxels, .* of 16 x 12 x 12 .of its voxels 8 x 17.1 x 17.1., as have"),
        (whole, spec(8, 8, 8, crops=({}, {"extents": ((18, 8, 8),)})), r"^pad: .* views.crops\[1\].extents \[\[17,1\d,1"
         r"\d\]\], which fits all: .*v0 has 17 x 20 x 16 .* of 18 x 8 x 8, as have 1 of 9"),
        (volumes, spec(8, 8, 8, extents=extents), "v0 has 17 x 20 x 16 voxels, .* of 8 x 17 x 17, as have 4"),
        (volumes, ViewSpec(size=16), "holds volumes, and this loader reads images"),
        (images, spec(8, 10, 9), "holds images, and this loader reads volumes"),
    ):  # fmt: skip
        with pytest.raises((ArgumentError, DatasetError), match=message):
            load(data, views, masks=False)
    with pytest.raises(UserError, match=r"holds images, and a mixture with .*toy reads volumes"):
        Samples([volumes, images], "train")


@pytest.mark.parametrize("name", ["dali", "ffcv"])
def test_loaders_of_images_say_so(tmp_path: Path, name: str) -> None:
    if name == "dali":
        need_extra("dali")
    with pytest.raises(ValueError, match=f"^{name} reads images, and these shards hold volumes: use cpu"):
        load(make(tmp_path / "toy", VOLUMES), spec(8, 10, 9), name=name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blur": Blur(), "warp": Warp(p=1)}, "blur.p: expected 0: views of volumes do not have it, nor warp.p"),
        ({"scale": (0.5, 1.0)}, "scale: expected to be left out: only views of images have it"),
        ({"extents": ((8, 8),)}, r"extents\[0\]: expected a list of 3 numbers, got \(8, 8\)"),
        ({"extents": (8, 8, 8)}, r"extents\[0\]: expected a list of 3 numbers, got 8"),
        ({"size": (8, 8, 7)}, r"size\[2\]: expected a whole number of at least 8, got 7"),
        ({"size": 32, "extents": ((8, 8, 8),)}, "extents: expected to be left out: only views of volumes"),
    ],
)
def test_views_that_volumes_do_not_have_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        replace(spec(8, 10, 9), **changed)


def test_a_damaged_brick_is_named_and_a_damaged_copy_renewed(tmp_path: Path) -> None:
    dataset = make(tmp_path / "toy", VOLUMES, "b2nd")
    reader = SampleReader(Samples([dataset], "train"))
    shard = tmp_path / "toy" / "train-000000.tar"
    offset, size = (int(dataset.column(name)[4]) for name in ("offset", "size"))
    good, bad = shard.read_bytes(), bytearray(shard.read_bytes())
    bad[offset + size // 2] ^= 1
    crop, view = Crop((0, 0, 0, 8, 8, 8), (False,) * 3), np.empty((1, 8, 8, 8), np.int16)
    shard.write_bytes(bad)
    with pytest.raises(UserError, match=r"toy: sample v4 \(shard .*, offset \d+\) cannot be read: brick 0"):
        reader.read(4, [crop], [view])
    reader.read(5, [crop], [view])

    class Renewed(ShardFiles):
        def renew(self, dataset: int, row: int) -> bool:
            assert (dataset, row) == (0, 4)
            shard.write_bytes(good)
            return True

    SampleReader(reader.samples, Renewed([dataset])).read(4, [crop], [view])
    np.testing.assert_array_equal(view[0], VOLUMES[4][:8, :8, :8])


def test_verify_names_a_volume_whose_mask_has_a_damaged_brick(tmp_path: Path) -> None:
    """Decoding alone does not tell: a flipped bit of a checksum leaves every voxel as it was."""
    dataset = make(tmp_path / "toy", VOLUMES, "b2nd")
    shard = tmp_path / "toy" / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[int(dataset.column("mask_offset")[4]) + int(dataset.column("mask_size")[4]) - 1] ^= 1
    shard.write_bytes(content)
    named = {damage.key: damage.reason for damage in verify_shard(tmp_path / "toy", shard.name) if damage.key}
    assert set(named) == {"v4"} and "the mask cannot be decoded (brick" in named["v4"]
    offset = int(dataset.column("mask_offset")[4])
    with pytest.raises(UserError, match=rf"offset {offset}\) cannot be read: its mask: brick"):
        SampleReader(Samples([dataset], "train")).mask(4)
