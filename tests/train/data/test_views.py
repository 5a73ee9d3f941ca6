"""View parameters: the same however a batch is cut, and distributed as the recipe says."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data import views
from dira_scale.train.data.distort.corruptions import CropBlocks
from dira_scale.train.data.views import (
    Cutout,
    InverseCutout,
    Shuffle,
    ViewSpec,
    draw,
)

N = 20000
TURNED = ViewSpec(rotation=10.0, orientations=2)


def draws(n=N, spec=None, seed=0, epoch=0, view=0, height=200, width=300, occurrence=0):
    """Parameters of n samples, as two dictionaries of arrays."""
    geometry, distortion = draw(
        spec or ViewSpec(),
        seed,
        epoch,
        np.arange(n),
        np.full(n, occurrence),
        view,
        np.full(n, height),
        np.full(n, width),
    )
    return geometry, {name: values.numpy() for name, values in distortion.tensors().items()}


def flattened(index, spec):
    heights = 100 + index % 150
    geometry, distortion = draw(spec, 5, 3, index, index % 3, 1, heights, 260 - heights)
    columns = [geometry.box, geometry.flip, *(values.numpy() for values in distortion.tensors().values())]
    return np.concatenate(
        [column.reshape(len(index), math.prod(column.shape[1:])).astype(np.float64) for column in columns], 1
    )


@pytest.mark.parametrize("spec", [ViewSpec(size=64), TURNED])
def test_the_same_however_the_batch_is_cut(spec):
    index = np.arange(100) * 7919
    whole = flattened(index, spec)
    np.testing.assert_array_equal(np.concatenate([flattened(index[i : i + 1], spec) for i in range(100)]), whole)
    np.testing.assert_array_equal(np.concatenate([flattened(part, spec) for part in np.array_split(index, 7)]), whole)
    permutation = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(flattened(index[permutation], spec), whole[permutation])
    assert flattened(index[:0], spec).shape == (0, whole.shape[1])


def test_every_part_of_the_key_gives_another_view():
    base = draws(50)
    for change in ({"seed": 1}, {"epoch": 1}, {"view": 1}, {"occurrence": 1}):
        geometry, distortion = draws(50, **change)
        assert (geometry.box != base[0].box).any(1).all()
        assert (distortion["sigma"] != base[1]["sigma"]).any() and (distortion["branch"] != base[1]["branch"]).any()


def near(observed, probability, n=N):
    """Within four standard errors of a frequency."""
    return abs(observed - probability) < 4 * math.sqrt(probability * (1 - probability) / n)


def test_frequencies():
    geometry, distortion = draws()
    assert near(geometry.flip[:, 1].mean(), 0.5)
    for branch, probability in zip(
        (views.CUTOUT, views.INVERSE_CUTOUT, views.SHUFFLE, views.NONE), (0.30, 0.05, 0.30, 0.35), strict=True
    ):
        assert near((distortion["branch"] == branch).mean(), probability)
    assert near((distortion["brightness"] != 1).mean(), 0.8) and near((distortion["sigma"] > 0).mean(), 0.5)
    assert near(distortion["contrast_first"].mean(), 0.5)
    assert ((distortion["brightness"] != 1) == (distortion["contrast"] != 1)).all()


def test_intensities_are_uniform():
    distortion = draws()[1]
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("sigma", 0.1, 2.0)):
        drawn = distortion[name][distortion[name] != (0 if name == "sigma" else 1)]
        assert low <= drawn.min() and drawn.max() <= high
        assert stats.kstest(drawn, "uniform", (low, high - low)).pvalue > 1e-3


def test_number_of_boxes():
    distortion = draws()[1]
    for branch in (views.CUTOUT, views.INVERSE_CUTOUT):
        number = distortion["n_boxes"][distortion["branch"] == branch]
        assert number.min() == 1 and number.max() == 10
        assert abs(number.mean() - (1 - 0.9**10) / 0.1) < 4 * 3.4 / math.sqrt(len(number))  # 6.51
        assert near((number == 1).mean(), 0.1, len(number)) and near((number == 10).mean(), 0.9**9, len(number))
    assert (distortion["n_boxes"][distortion["branch"] >= views.SHUFFLE] == 0).all()
    used = np.arange(10) < distortion["n_boxes"][:, None]
    assert ((distortion["boxes"][..., 2] > 0) == used).all()
    assert ((distortion["swaps"][..., 0] > 0) == (distortion["branch"] == views.SHUFFLE)[:, None]).all()


@pytest.mark.parametrize("size", [8, 32, 64, 96, 448])
def test_sizes_scale_with_the_view(size):
    spec = ViewSpec(size=size)
    distortion = draws(8000, spec=spec)[1]
    assert distortion["sigma"].max() <= 2.0 * size / 224 and distortion["sigma"].max() > 1.9 * size / 224
    boxes = distortion["boxes"].reshape(-1, 4)
    boxes = boxes[boxes[:, 2] > 0]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= size).all()
    sides = distortion["boxes"][distortion["branch"] == views.CUTOUT][..., 2]
    assert sides.max() == round(70 * size / 224) and sides[sides > 0].min() == max(1, round(10 * size / 224))
    swaps = distortion["swaps"][distortion["branch"] == views.SHUFFLE]
    assert (swaps[..., 0].min() >= 1 and swaps[..., 0].max() == round(15 * size / 224)) or size == 8
    assert (swaps[..., 2:] >= 0).all() and (swaps[..., 4] + swaps[..., 0] <= size).all()


def test_rotations_are_uniform_either_way():
    degrees = draws(spec=TURNED)[1]["rotation"]
    assert degrees.shape == (N,) and degrees.dtype == np.float32 and np.abs(degrees).max() <= 10
    assert stats.kstest(degrees, "uniform", (-10, 20)).pvalue > 1e-3
    assert (draws(50)[1]["rotation"] == 0).all()


def test_orientations_are_fair_coins_and_quarter_turns():
    orientations = draws(spec=TURNED)[1]["orientations"]
    assert orientations.shape == (N, 2, 3) and orientations.dtype == np.uint8
    codes = orientations @ np.array([8, 4, 1])
    for each in codes.T:
        counts = np.bincount(each, minlength=16)
        assert len(counts) == 16 and stats.chisquare(counts).pvalue > 1e-3
    assert near((codes[:, 0] == codes[:, 1]).mean(), 1 / 16)
    assert draws(50)[1]["orientations"].shape == (50, 0, 3)


@pytest.mark.parametrize("change", [{"rotation": 10.0}, {"orientations": 2}, {"rotation": 45.0, "orientations": 3}])
def test_rotations_and_orientations_leave_all_other_draws_as_they_are(change):
    plain, turned = draws(200), draws(200, spec=replace(ViewSpec(), **change))
    assert (plain[0].box == turned[0].box).all() and (plain[0].flip == turned[0].flip).all()
    for name, values in plain[1].items():
        if name not in change:
            np.testing.assert_array_equal(values, turned[1][name])
    more = draws(200, spec=ViewSpec(rotation=20.0, orientations=5))[1]
    fewer = draws(200, spec=ViewSpec(rotation=10.0, orientations=2))[1]
    np.testing.assert_array_equal(fewer["orientations"], more["orientations"][:, :2])
    np.testing.assert_allclose(fewer["rotation"] * 2, more["rotation"], rtol=1e-6)


@pytest.mark.parametrize("size", [64, 224])
def test_squares_that_reach_beyond_the_edges(size):
    """PCRL's: three of a seventh of the view, up to half beyond each edge, uniformly."""
    spec = ViewSpec(size=size, cutout=Cutout(p=1.0, boxes=3, side=(32, 32), stop=0.0), border=-16,
                    inverse_cutout=InverseCutout(p=0.0), shuffle=Shuffle(p=0.0))  # fmt: skip
    distortion = draws(4000, spec=spec)[1]
    side, half = round(32 * size / 224), round(16 * size / 224)
    assert (distortion["branch"] == views.CUTOUT).all() and (distortion["n_boxes"] == 3).all()
    assert (distortion["boxes"][:, :3, 2:] == side).all() and (distortion["boxes"][:, 3:] == 0).all()
    for start in distortion["boxes"][:, :3, :2].reshape(-1, 2).T:
        assert start.min() == -half and start.max() == size + half - side
        counts = np.bincount(start + half, minlength=size + 2 * half - side + 1)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_local_crops_are_blurred_by_as_many_pixels_as_global_ones():
    """DINO's code: by 0.1 to 2 of the crop's own at 224 pixels, whatever the size of local ones."""
    spec = ViewSpec(size=224, crops=({"count": 2}, {"count": 1, "size": 98}))
    for view in (0, 2):
        sigma = draws(spec=spec, view=view)[1]["sigma"]
        assert stats.kstest(sigma[sigma > 0], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    assert (spec.version, replace(spec, crops=()).version, ViewSpec(size=64).version) == (3, 2, 2)
    unblurred = ViewSpec(size=224, crops=({"count": 2}, {"count": 1, "size": 98, "blur": {"p": 0.0}}))
    assert unblurred.version == 2
    assert ViewSpec(size=64, corruptions={"patches": CropBlocks()}).version == 3


def test_golden_views():
    """A change here changes what every run sees: raise VIEWS_VERSION."""
    index, occurrence = np.array([3, 2**33, 4, 6]), np.array([0, 1, 0, 0])
    geometry, distortion = draw(ViewSpec(), 7, 11, index, occurrence, 1, np.full(4, 256), np.full(4, 800))
    assert geometry.box.tolist() == GOLDEN["box"] and geometry.flip[:, 1].tolist() == GOLDEN["flip"]
    assert not geometry.flip[:, 0].any()
    assert distortion.branch.tolist() == GOLDEN["branch"] and distortion.n_boxes.tolist() == GOLDEN["n_boxes"]
    assert distortion.boxes.sum((1, 2)).tolist() == GOLDEN["boxes"]
    assert distortion.swaps.sum((1, 2)).tolist() == GOLDEN["swaps"]
    np.testing.assert_allclose(distortion.brightness, GOLDEN["brightness"], rtol=1e-6)
    np.testing.assert_allclose(distortion.contrast, GOLDEN["contrast"], rtol=1e-6)
    np.testing.assert_allclose(distortion.sigma, GOLDEN["sigma"], rtol=1e-6)
    geometry, distortion = draws(2000, TURNED)
    drawn = {"box": geometry.box, "flip": geometry.flip, **distortion}
    digests = {
        name: hashlib.sha256(values.astype(np.int64).tobytes()).hexdigest()[:8]
        for name, values in drawn.items()
        if values.dtype.kind != "f"  # whole numbers are the same on all machines
    }
    assert digests == GOLDEN["2000 views"]


GOLDEN = {
    "2000 views": {
        "box": "48dc05bd",
        "flip": "35a83526",
        "contrast_first": "59687679",
        "branch": "d7dcd748",
        "boxes": "be92f867",
        "n_boxes": "491f3e2b",
        "swaps": "bb4acd60",
        "orientations": "1715e3d7",
    },
    "box": [[4, 331, 249, 247], [16, 362, 237, 228], [15, 443, 218, 234], [11, 170, 241, 270]],
    "flip": [False, True, True, False],
    "branch": [3, 3, 2, 0],
    "n_boxes": [0, 0, 0, 2],
    "boxes": [0, 0, 0, 648],
    "swaps": [0, 0, 4312, 0],
    "brightness": [0.9904206395149231, 0.8721894025802612, 1.3318465948104858, 0.6079937815666199],
    "contrast": [1.2086637020111084, 0.9703388214111328, 0.8773601055145264, 1.3222970962524414],
    "sigma": [0.0, 0.4319221079349518, 0.9925151467323303, 0.0],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flip": (0.5, 0.0, 0.0)}, "flip: expected one number: images are mirrored left and right alone"),
        ({"cutout": Cutout(p=0.8)}, "cutout.p: expected cutout.p, inverse_cutout.p and shuffle.p to add up to at"),
        ({"scale": (0.5, 0.2)}, r"scale: .*at most 1, in ascending order, got \(0.5, 0.2\)"),
        ({"shuffle": Shuffle(side=(10, 300))}, "shuffle.side: .*a border of 3: one has 300 of 224 pixels"),
        ({"target_flip": "releasd"}, "target_flip: expected with_input or released; did you mean 'released'"),
        ({"border": -1}, "border: expected at least 0, or shuffle.p to be 0"),
        ({"turns": 0.5}, "turns: expected to be left out: only views of volumes have it, got 0.5"),
    ],
)
def test_impossible_views_are_refused(changes, words):
    with pytest.raises(ArgumentError, match=words):
        replace(ViewSpec(), **changes)
