"""Dice of whole volumes in validation: by brute force of every window, in one slab and in many."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from torch import Tensor
from train.data.volumes import make, plain_view, random_volumes

from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation import whole_volumes
from dira_scale.judge.evaluation.whole_volumes import WholeVolumes
from dira_scale.judge.tasks.masks import Segmentation
from dira_scale.train.data.geometry.fixed import centre
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import fixed_views

SIZE = (8, 8, 8)
CPU = torch.device("cpu")


def bright(images: Tensor) -> Tensor:
    """Two classes, by the image and by the place in the window: so that it matters which windows see a voxel."""
    ramp = torch.linspace(-0.3, 0.3, 8)
    place = ramp[:, None, None] + ramp[None, :, None] - ramp
    return torch.cat([torch.full_like(images, 0.5), images * 1.5 + place - 0.2], 1)


def volumes_of(root: Path, most: int = 9, windows: int = 10**6, **stored: Any) -> WholeVolumes:
    dataset = make(root, random_volumes(6), "b2nd", spacing=[(2.0, 1.0, 1.0)] * 6)
    views = fixed_views(SIZE, centre(3, extent=SIZE), **stored)
    samples = Samples([dataset], "train", views=views)
    return WholeVolumes(samples, Segmentation({"above": 1}), SIZE, most, windows, batch=4)


def plain(volume: np.ndarray, step: tuple[int, int, int]) -> float:
    """Every window after the other, on ``step`` times fewer voxels."""
    sides = [side // by for side, by in zip(volume.shape, step, strict=True)]
    extents = [float(side * by) for side, by in zip(sides, step, strict=True)]
    seen = np.rint(plain_view(volume, [0.0, 0.0, 0.0, *extents], [False] * 3, sides))
    image = np.clip((seen + 1024.0) / 4024, 0, 1)
    mask = volume[tuple(slice(by // 2, by * side, by) for side, by in zip(sides, step, strict=True))] > 0
    weights = compute_importance_map(SIZE, "gaussian").numpy()
    sums, total = np.zeros((2, *image.shape)), np.zeros(image.shape)
    starts = [sorted({*range(0, side - 8, 4), side - 8}) for side in image.shape]
    for corner in product(*starts):
        part = tuple(slice(start, start + 8) for start in corner)
        sums[:, *part] += bright(torch.from_numpy(image[part])[None, None])[0].numpy() * weights
        total[part] += weights
    predicted = sums[1] > sums[0]
    return 2 * (predicted & mask).sum() / (predicted.sum() + mask.sum())


@pytest.mark.parametrize(("stored", "step"), [({}, (1, 1, 1)), ({"spacing": (2.0, 2.0, 2.0)}, (1, 2, 2))])
def test_the_dice_is_that_of_every_window(tmp_path: Path, stored: Any, step: Any, monkeypatch: Any) -> None:
    volumes = volumes_of(tmp_path / "toy", **stored)
    assert volumes.chosen == [0, 2, 4]  # those with a mask
    expected = np.mean([plain(random_volumes(6)[number], step) for number in volumes.chosen])
    whole = volumes.figures(bright, CPU)
    assert whole == {"volume_dice": pytest.approx(expected, abs=1e-3)}
    assert 0.3 < expected < 0.9
    one = volumes.windows
    monkeypatch.setattr(whole_volumes, "VALUES", 1)
    slabs = volumes_of(tmp_path / "slabs", **stored)
    assert len([*slabs._slabs(0)]) > 3 and slabs.windows > one
    assert slabs.figures(bright, CPU)["volume_dice"] == pytest.approx(whole["volume_dice"], abs=1e-12)


def test_a_class_counts_where_a_volume_or_its_prediction_has_it(tmp_path: Path, monkeypatch: Any) -> None:
    """Else a network that finds nothing would be as good as there are volumes without the class."""
    volumes = volumes_of(tmp_path / "toy")
    volumes.supervision = Segmentation({"a": 1, "b": 2, "nowhere": 3})
    sums = {0: [[2, 0, 0], [4, 0, 0]], 2: [[1, 3, 0], [4, 6, 0]], 4: [[0, 0, 0], [4, 2, 0]]}
    monkeypatch.setattr(volumes, "_sums", lambda sample, *_: torch.tensor(sums[sample], dtype=torch.float64))
    each = {"volume_dice/a": 0.5, "volume_dice/b": 0.5, "volume_dice/nowhere": 1.0}
    assert volumes.figures(bright, CPU) == pytest.approx({"volume_dice": 2 / 3} | each)


def test_volumes_are_bounded_in_number_and_windows_and_all_ranks_ask_as_often(tmp_path: Path) -> None:
    volumes = volumes_of(tmp_path / "toy", most=2)
    assert volumes.chosen == [0, 4]
    assert str(volumes) == f"validation sees 2 whole volumes through {volumes.windows} windows of 8 x 8 x 8"
    fewer = volumes_of(tmp_path / "toy", windows=volumes.windows)
    assert fewer.chosen == [0, 4] and volumes_of(tmp_path / "toy", windows=volumes.windows - 1).chosen == [0]
    with pytest.raises(UserError, match=r"^validate.windows=1: a volume has \d+ windows of 8 x 8 x 8"):
        volumes_of(tmp_path / "toy", windows=1)
    passes = []
    for rank in range(2):
        part, asked = volumes_of(tmp_path / "toy"), list[int]()
        part.rank, part.ranks = rank, 2
        part.figures(lambda images, asked=asked: (asked.append(len(images)), bright(images))[1], CPU)  # type: ignore[misc]
        passes.append(len(asked))
    assert passes[0] == passes[1]
