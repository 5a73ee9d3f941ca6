"""Spacing, padding, turns and pairs of volumes' views through the loader: against the arrays, voxel by voxel."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from data.volumes import WORDS, make, plain_view, random_volumes, spec
from omegaconf import OmegaConf

from dira_scale import methods
from dira_scale.config.compose import compose
from dira_scale.data.batch import IGNORE, Batch
from dira_scale.data.geometry.fixed import centre
from dira_scale.data.geometry.volume import VolumeCrop
from dira_scale.data.loaders import LoaderSpec
from dira_scale.data.loaders.build import choose
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.order import EvalOrder, Order
from dira_scale.data.views import ViewSpec, draw, fixed_views
from dira_scale.errors import UserError
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.pretrain.description import describe

COUNT, BATCH = 9, 3
ORDER = Order((COUNT,), seed=5, batch=BATCH)
VOLUMES = random_volumes(COUNT)  # 17 x 20 x 16 to 25 x 17 x 18
SPACING = [(2.0, 0.7, 0.7), (1.0, 1.0, 1.0), (3.0, 0.8, 0.8)] * 3
CROPS = ((6, 12, 9), (9, 9, 9))


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
    "views",
    [
        spec(8, 8, 8, extents=CROPS, turns=0.7, transpose=0.3),
        spec(8, 10, 9, spacing=(1.5, 1.1, 1.1)),
        spec(8, 12, 12, extents=((6, 11, 9), (9, 9, 9)), spacing=(2.0, 0.9, 0.9), turns=0.5),
        spec(20, 24, 24, pad=True, turns=0.5, range=(-2000.0, 500.0)),
        spec(12, 16, 14, extents=((24, 12, 30), (12, 16, 14)), pad=True, spacing=(1.3, 0.9, 0.9), transpose=0.5),
        spec(8, 8, 8, extents=CROPS, iou=0.25, crop_border=(1, 2, 2)),
        spec(8, 8, 8, extents=CROPS, iou=0.2, same_size=True, spacing=1.7, pad=True, turns=0.5, crop_border=(0, 1, 1)),
    ],
    ids=["turned", "spacing", "both", "padded", "padded and transposed", "a pair", "all"],
)
def test_views_and_masks_are_those_of_the_arrays(tmp_path: Path, views: ViewSpec) -> None:
    dataset = make(tmp_path / "toy", VOLUMES, spacing=SPACING)
    low, high = views.range or (-1024.0, 3000.0)
    turned = beyond = 0
    for batch in load(dataset, views):
        at, scaled = ORDER.batch_at(batch.step), batch.to("cpu").views
        sides, spacing = np.array([VOLUMES[i].shape for i in at.index]), np.array([SPACING[i] for i in at.index])
        for view in range(2):
            crops, _ = draw(views, 3, at.epoch, at.index, at.occurrence, view, *sides.T, spacing=spacing)
            for i, sample in enumerate(at.index.tolist()):
                box, flip, transposed = crops.crop(i)
                about = VOLUMES[sample], box, flip, views.sides, transposed
                expected = plain_view(*about, outside=int(low))
                shown = batch.views[view][i, 0].numpy()
                assert np.abs(shown - expected).max() < 0.501
                np.testing.assert_allclose(
                    scaled[view][i, 0], np.clip((shown - low) / (high - low), 0, 1), rtol=1e-5, atol=1e-6
                )
                if sample % 2 == 0:  # the others have no mask
                    np.testing.assert_array_equal(batch.mask[i, view], plain_mask(*about))  # type: ignore[index]
                turned += transposed
                beyond += int((batch.mask[i, view] == IGNORE).any()) if sample % 2 == 0 else 0  # type: ignore[index]
    assert (turned > 0) == bool(views.turns or views.transpose) and (beyond > 0) == views.pad


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


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_turns_are_numpys(flip: float) -> None:
    """Mirrored, transposed, then turned by ``np.rot90``; each of the three turns with a third of the probability."""
    rule, count = VolumeCrop(((3, 4, 5),), flip, turns=0.6, transpose=0.5), 4000
    u = np.random.default_rng(0).random((count, rule.numbers))
    x = np.arange(60).reshape(3, 4, 5)
    crops = rule.draw(u, np.full((count, 3), 9))
    quarters = np.zeros(count, int)
    for i, row in enumerate(u):
        expected = np.flip(x, [axis for axis in range(3) if row[4 + axis] < flip])
        expected = expected.transpose(0, 2, 1) if row[7] < 0.5 else expected
        quarters[i] = 1 + int(3 * row[9]) if row[8] < 0.6 else 0
        expected = np.rot90(expected, quarters[i], axes=(1, 2))
        _, mirrored, transposed = crops.crop(i)
        shown = np.flip(x, [axis for axis in range(3) if mirrored[axis]])
        np.testing.assert_array_equal(shown.transpose(0, 2, 1) if transposed else shown, expected)
    assert np.abs(np.bincount(quarters) / count - [0.4, 0.2, 0.2, 0.2]).max() < 0.03


def test_what_a_volume_lacks_is_reported_in_one_line(tmp_path: Path) -> None:
    dataset = make(tmp_path / "toy", VOLUMES[:3], spacing=[(2.0, 0.7, 0.7), None, (2.0, 0.7, 0.9)])
    for views, message in (
        (
            spec(8, 8, 8, spacing=1.5),
            r"toy: sample v1 has no spacing in the manifest, nor have 0 others of 3 in split 'train', and "
            r"data.spacing=1.5 needs it: use data.spacing=stored, or shard again",
        ),
        (
            spec(8, 8, 8, turns=0.5),
            "toy: sample v2 has voxels of 0.7 x 0.9 mm in the plane, and 1 of 3 in split 'train' are not square, which "
            "views.turns and views.transpose would distort: use data.spacing=MM, or set both to 0",
        ),
    ):
        with pytest.raises(UserError, match=f"^{tmp_path}/{message}"):
            load(dataset, views, order=Order((3,), seed=5, batch=3))
    whole = make(tmp_path / "whole", VOLUMES[:3], spacing=[(2.0, 0.7, 0.7)] * 3)
    message = (
        "whole: sample v0 has 17 x 20 x 16 voxels, fewer than a crop of 16 x 12 x 12 (of its voxels 8 x 17.1 x 17.1), "
        "as have 2 of 3 in split 'train': use data.pad=true, or views.extents=[[34,12,11]], which fits all"
    )
    with pytest.raises(UserError) as raised:
        load(whole, spec(16, 12, 12, spacing=1.0), order=Order((3,), seed=5, batch=3))
    assert str(raised.value) == f"{tmp_path}/{message}"


@pytest.mark.parametrize("loader", ["cpu", "stream"])
def test_a_range_is_of_images_too(make_dataset: Any, radiograph: Any, loader: str) -> None:
    dataset = make_dataset([radiograph(40, 40, seed) for seed in range(3)])
    views = ViewSpec(size=16, range=(50, 150))
    (batch,) = load(dataset, views, steps=1, order=Order((3,), seed=1, batch=3), name=loader, masks=False)
    assert (batch.low == 50).all() and (batch.high == 150).all()
    np.testing.assert_allclose(
        batch.to("cpu").views[0].numpy(), np.clip((batch.views[0].numpy() - 50.0) / 100, 0, 1), rtol=1e-6
    )
    with pytest.raises(UserError, match=r"images do not have views\.iou, data\.spacing, data\.pad, only those of"):
        ViewSpec(size=16, iou=0.2, spacing=1.0, pad=True)


def test_the_keys_of_data_reach_views_and_description() -> None:
    words = [*WORDS, "data.shards=any", "data.size=[8,16,16]"]
    cfg = compose("pretrain", [*words, "data.spacing=[2,1,1]", "data.range=[-1000,400]", "data.pad=true"])
    assert methods.views_of(cfg).stored == {"spacing": [2, 1, 1], "range": [-1000, 400], "pad": True}
    assert methods.views_of(compose("pretrain", words)).stored == {"spacing": None, "range": None, "pad": False}
    assert describe(OmegaConf.to_container(cfg)).input.window == (-1000, 400)  # type: ignore[arg-type]
    for word, printed in (
        ("data.spacing=[1,2]", "data.spacing=[1, 2]: give stored, or 0.05 to 50 millimetres: a number, or [z,y,x]"),
        ("data.range=[400,-1000]", "data.range=[400, -1000]: give stored values [low,high], such as"),
    ):
        with pytest.raises(UserError, match=re.escape(printed)):
            compose("pretrain", [*words, word])


def test_volumes_that_no_view_or_network_fits_are_one_error(tmp_path: Path) -> None:
    """A pretraining refuses them before there is a run."""
    volumes = make(tmp_path / "toy", random_volumes(8, channels=2)).root
    alone: Any = SimpleNamespace(rank=0, ranks=1, main=True, device=torch.device("cpu"))
    run = ["data.val_split=null", "data.batch=4", "parallel.threads=1", f"run={tmp_path / 'run'}"]
    for words, printed in (
        ([*WORDS, "data.size=[8,8,8]"], "toy has images of 2 channels, and Tiny3D takes 1, or grey ones: shard one of"),
        (["experiment=small"], r"toy holds volumes, and this training reads images.*experiments\.md"),
    ):
        cfg = compose("pretrain", [*words, *run, f"data.shards={volumes}"])
        with pytest.raises(UserError, match=printed):
            PretrainBlueprint(cfg).task(alone)
