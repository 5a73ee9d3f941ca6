"""Views of evaluation: the same crops of every image, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import functional
from train.data.loaders.backends import build, parameters
from train.data.volumes import make, random_volumes

from dira_scale.base.arguments import ArgumentError
from dira_scale.dataset.pixels.planes import resize
from dira_scale.train.data.distort import build as build_distort
from dira_scale.train.data.geometry.fixed import FixedCrop, centre, ten_crops
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder
from dira_scale.train.data.views import draw, fixed_views

TEN = fixed_views(28, ten_crops(2, 28 / 32))
UPSIDE_DOWN = FixedCrop((0.0, 0.0), (-2,), 28 / 32)


@pytest.mark.parametrize("name", parameters())
def test_ten_crops_are_torchvisions(make_dataset: Any, radiograph: Any, name: str) -> None:
    """A dataset of images of 32 pixels, which no loader has to resize. An eleventh one is mirrored top to bottom."""
    images = [radiograph(32, 32, seed=i) for i in range(3)]
    masks = [np.uint8(image > 127) for image in images]
    dataset = make_dataset(images, masks=masks)
    views = fixed_views(28, (*TEN.fixed, UPSIDE_DOWN))
    loader = build(name, datasets=[dataset], split="train", order=EvalOrder(3, 3), views=views, seed=0, masks=True)
    (batch,) = loader.iterate(0, 1)
    for expected, made in ((images, batch.views), (masks, batch.mask.unbind(1))):
        ten = functional.ten_crop(torch.from_numpy(np.stack(expected)), 28)
        for view, crop in zip(made, (*ten, ten[0].flip(-2)), strict=True):
            assert torch.equal(view.view(crop.shape), crop.to(view.dtype))


def test_a_resized_image_and_its_middle(make_dataset: Any, radiograph: Any) -> None:
    """The whole image, whatever its sides; and the middle 7/8 of each side: of an image resized to 64, 56 pixels."""
    image = radiograph(96, 80)
    crops = (*centre(2), *centre(2, 56 / 64), FixedCrop((1.0, 0.0), (-2,), 0.5))
    views = fixed_views(16, crops)
    (batch,) = CpuLoader(LoaderSpec([make_dataset([image])], "train", EvalOrder(1, 1), views, seed=0)).iterate(0, 1)
    boxes = (0, 0, 96, 80), (6, 5, 84, 70), (48, 0, 48, 40)
    for view, box, flip in zip(batch.views, boxes, ((), (), (True, False)), strict=True):
        np.testing.assert_array_equal(view[0], resize(image, box, 16, flip))


def test_crops_of_volumes(tmp_path: Path) -> None:
    """8 corners and the centre, also mirrored left and right; the middle in voxels; the whole volume."""
    volumes = random_volumes(2)
    dataset = make(tmp_path / "toy", volumes)

    def views(crops: tuple[FixedCrop, ...]) -> list[np.ndarray]:
        loader = CpuLoader(
            LoaderSpec([dataset], "train", EvalOrder(2, 2), fixed_views((8, 10, 9), crops), seed=0, masks=True)
        )
        (batch,) = loader.iterate(0, 1)
        for view, mask in zip(batch.views, batch.mask.unbind(1), strict=True):
            assert torch.equal(mask[0], (view[0, 0] > 0).to(torch.int16)) or crops[0].extent is None
        return [view[:, 0].numpy() for view in batch.views]

    made = views(ten_crops(3, extent=(8, 10, 9)))
    assert len(made) == 18
    for i, volume in enumerate(volumes):
        for view, backwards in zip(made[:9], made[9:], strict=True):
            assert any((view[i] == other[i][..., ::-1]).all() for other in made[9:])
            assert any((backwards[i] == other[i][..., ::-1]).all() for other in made[:9])
        np.testing.assert_array_equal(made[0][i], volume[:8, :10, :9])
        np.testing.assert_array_equal(made[6][i], volume[-8:, -10:, :9])
        np.testing.assert_array_equal(made[9][i], volume[:8, :10, -9:][..., ::-1])  # of the mirrored, the first corner
    (middle,) = views(centre(3, extent=(8, 10, 9)))
    z, y, x = (round((side - size) / 2) for side, size in zip(volumes[0].shape, (8, 10, 9), strict=True))
    np.testing.assert_array_equal(middle[0], volumes[0][z : z + 8, y : y + 10, x : x + 9])
    sides = [np.array([side]) for side in volumes[0].shape]
    whole = draw(fixed_views((8, 10, 9), centre(3)), 0, 0, np.zeros(1, int), np.zeros(1, int), 0, *sides)[0]
    assert whole.box.tolist() == [[0, 0, 0, *volumes[0].shape]] and views(centre(3))[0].shape == (2, 8, 10, 9)
    with pytest.raises(
        ArgumentError, match="v0 has 17 x 20 x 16 voxels, fewer than a crop of 18 x 8 x 8, as have 1 of 2"
    ):
        views(centre(3, extent=(18, 8, 8)))


def test_nothing_is_drawn() -> None:
    index, sides = np.arange(4), [np.full(4, 40)] * 2
    first, distortion = draw(TEN, 0, 0, index, np.zeros(4, int), 7, *sides)
    again, _ = draw(TEN, 9, 5, index, np.ones(4, int), 7, *sides)
    assert (first.box == again.box).all() and (first.flip == again.flip).all()
    images = torch.rand(4, 1, 28, 28)
    assert torch.equal(build_distort(TEN)(images, distortion), images)


@pytest.mark.parametrize(
    ("change", "printed"),
    [
        ({"count": 3}, "fixed: expected 3 crops, one for each view, not 10"),
        ({"fixed": centre(3), "count": 1}, r"fixed\[0\]: expected a crop of 2 axes"),
    ],
)
def test_impossible_crops_are_refused(change: dict[str, Any], printed: str) -> None:
    with pytest.raises(ArgumentError, match=printed):
        replace(TEN, **change)
    with pytest.raises(ArgumentError, match=r"share: expected a number above 0 and at most 1, got 1\.5"):
        centre(2, 1.5)
    with pytest.raises(ArgumentError, match=r"extent\[0\]: expected a whole number of at least 1, got 0"):
        centre(2, extent=(0, 8))
