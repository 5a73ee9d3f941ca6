"""Volumes through the loaders: the crops of the arrays themselves, whatever reads them; and one step of training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.volumes import make, plain_view, random_volumes, spec
from needs import need_extra

from dira_scale.data.batch import Batch
from dira_scale.data.loaders import LoaderSpec
from dira_scale.data.loaders.build import LoaderChoice, choose
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.order import Order
from dira_scale.data.samples import Samples
from dira_scale.data.views import Blur, ViewSpec, draw
from dira_scale.errors import UserError
from dira_scale.pixels.boxes import Crop
from dira_scale.shard.curate.verify import verify_shard

COUNT, BATCH = 9, 4
SPEC = spec(8, 10, 9)
ORDER = Order((COUNT,), seed=5, batch=BATCH)
VOLUMES = random_volumes(COUNT)


@pytest.fixture
def dataset(tmp_path: Path) -> ShardedDataset:
    return make(tmp_path / "toy", VOLUMES)


def load(
    dataset: ShardedDataset, views: ViewSpec = SPEC, name: str = "cpu", steps: int = 3, **more: Any
) -> list[Batch]:
    choice: LoaderChoice = choose("cpu").in_helper() if name == "helper" else choose(name)
    arguments = {"datasets": [dataset], "split": "train", "order": ORDER, "views": views, "seed": 3} | more
    loader = choice.build(LoaderSpec(**arguments))
    return list(loader.iterate(0, steps))


def plain_batch(views: ViewSpec, step: int, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Views [b, *size] of a step, from the order, the draws and the arrays alone."""
    at = ORDER.batch_at(step)
    sides = np.array([arrays[i].shape for i in at.index]).T
    batch = []
    for view in range(views.count):
        geometry, _ = draw(views, 3, at.epoch, at.index, at.occurrence, view, *sides)
        drawn = zip(at.index, geometry.box.tolist(), geometry.flip.tolist(), strict=True)
        batch.append(np.stack([plain_view(arrays[i], box, flip, views.sides) for i, box, flip in drawn]))
    return batch


def test_crops_are_those_of_the_arrays_mirrored_along_each_axis(dataset: ShardedDataset) -> None:
    batches = load(dataset, steps=6)
    flips = torch.cat([flip for batch in batches for flip in batch.flips])
    for batch in batches:
        for view, expected in zip(batch.views, plain_batch(SPEC, batch.step, VOLUMES), strict=True):
            assert view.dtype == torch.int16 and view.shape == (BATCH, 1, 8, 10, 9)
            np.testing.assert_array_equal(view[:, 0], expected)
    assert flips.shape == (48, 3) and len(flips.unique(dim=0)) == 8  # mirrored in all ways
    scaled = batches[0].to("cpu").views[0]
    assert 0 <= scaled.min() < scaled.max() <= 1 and scaled.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("codec", ["npy", "b2nd"])
@pytest.mark.parametrize("channels", [1, 2])
def test_crops_of_other_sizes_are_resized_with_one_rounding(tmp_path: Path, codec: str, channels: int) -> None:
    volumes = random_volumes(COUNT, channels)
    views = spec(8, 10, 9, extents=((14, 13, 9), (5, 10, 16), (8, 10, 9)))
    for batch in load(make(tmp_path / "toy", volumes, codec), views):
        for channel in range(channels):
            arrays = [volume if channels == 1 else volume[channel] for volume in volumes]
            for view, expected in zip(batch.views, plain_batch(views, batch.step, arrays), strict=True):
                assert np.abs(view[:, channel].numpy() - expected).max() < 0.501


def same_batches(batches: list[Batch], expected: list[Batch]) -> None:
    for batch, same in zip(batches, expected, strict=True):
        assert torch.equal(batch.index, same.index) and torch.equal(batch.mask, same.mask)  # type: ignore[arg-type]
        assert all(torch.equal(x, y) for x, y in zip(batch.views, same.views, strict=True))


def test_what_does_not_fit_is_refused_in_one_line(dataset: ShardedDataset, make_dataset, radiograph) -> None:
    images = make_dataset([radiograph(40, 40)] * COUNT, name="flat")
    for data, views, message in (
        (
            dataset,
            spec(18, 8, 8),
            r"v0 has 17 x 20 x 16 voxels, fewer than a crop of 18 x 8 x 8, as have 1 of 9 in split 'train': use "
            r"data.pad=true, or views.extents=..17,1\d,1\d..",
        ),
        (
            dataset,
            spec(8, 8, 8, extents=((8, 8, 8), (8, 17, 17))),
            r"v0 has 17 x 20 x 16 voxels, .* of 8 x 17 x 17, as have 4",
        ),
        (dataset, ViewSpec(size=16), r"holds volumes, and this loader reads images"),
        (images, SPEC, r"holds images, and this loader reads volumes: name"),
    ):
        with pytest.raises(UserError, match=message):
            load(data, views)
    with pytest.raises(UserError, match=r"holds images, and a mixture with .*toy reads volumes"):
        Samples([dataset, images], "train")


@pytest.mark.parametrize("name", ["dali", "ffcv"])
def test_loaders_of_images_say_so(dataset: ShardedDataset, name: str) -> None:
    if name == "dali":
        need_extra("dali")
    with pytest.raises(
        UserError, match=f"^data.loader={name} reads images, and these shards hold volumes: use data.lo"
    ):
        load(dataset, name=name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blur": Blur()}, "views of volumes do not have blur.p=0.5: set each to 0"),
        ({"scale": (0.5, 1.0)}, "do not have scale and ratio, but extents"),
        ({"extents": ((8, 8),)}, r"extents of such sizes: got .* extents=\[\[8, 8\]\]"),
        ({"extents": (8, 8, 8)}, r"views.extents=\[8, 8, 8\]: give a list of sizes, \[\[8, 8, 8\]\]"),
        ({"size": (8, 8, 7)}, "at least 8 pixels, got 2 of 8 x 8 x 7"),
        ({"size": 32, "extents": ((8, 8, 8),)}, "are of volumes: views of images have scale and ratio"),
    ],
)
def test_views_that_volumes_do_not_have_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SPEC, **changed)


@pytest.mark.parametrize(("name", "channels"), [("cpu", 1), ("stream", 2)])
def test_bricks_give_what_whole_volumes_give(tmp_path: Path, name: str, channels: int) -> None:
    """Plain arrays are read whole, and give equal batches."""
    volumes = [np.ascontiguousarray(np.tile(v, (2, 2, 3))) for v in random_volumes(COUNT, channels)]
    views = spec(8, 10, 9, extents=((14, 13, 9), (8, 10, 9)))
    expected = load(make(tmp_path / "npy", volumes, "npy"), views, masks=True)
    bricks = make(tmp_path / "bricks", volumes, "b2nd")
    same_batches(load(bricks, views, name, masks=True, workers=2), expected)


def test_a_damaged_brick_is_named_and_a_damaged_copy_renewed(tmp_path: Path) -> None:
    dataset = make(tmp_path / "toy", VOLUMES, "b2nd")
    samples = Samples([dataset], "train")
    shard = tmp_path / "toy" / "train-000000.tar"
    offset, size = (int(dataset.column(name)[4]) for name in ("offset", "size"))
    good, bad = shard.read_bytes(), bytearray(shard.read_bytes())
    bad[offset + size // 2] ^= 1
    crop, view = Crop((0, 0, 0, 8, 8, 8), (False,) * 3), np.empty((1, 8, 8, 8), np.int16)
    shard.write_bytes(bad)
    with pytest.raises(UserError, match=r"toy: sample v4 \(shard .*, offset \d+\) cannot be read: brick 0"):
        samples.read(4, [crop], [view])
    samples.read(5, [crop], [view])

    def renewed(dataset: int, row: int) -> bool:
        assert (dataset, row) == (0, 4)
        shard.write_bytes(good)
        return True

    samples.renewed = renewed
    samples.read(4, [crop], [view])
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
        Samples([dataset], "train").mask(4)
