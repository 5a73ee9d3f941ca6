"""Metrics of masks: each is its MONAI call, and what it is by definition; empty masks; 2D and 3D."""

import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist

from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.dataset.metrics.segmentation import mask_cases, segmentation

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's, of its own call
SPACINGS = {2: (0.5, 2.0), 3: (2.5, 0.7, 1.3)}


def blobs(seed: int, dimensions: int, classes: int = 2) -> torch.Tensor:
    """Random masks with smooth edges, bool [classes, *size]; the sides differ, so that no two axes can be exchanged."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(classes, *(24, 31, 17)[:dimensions]))
    return torch.from_numpy(np.stack([ndimage.gaussian_filter(one, 3) > 0.01 for one in noise]))


def edges(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The coordinates of a mask's pixels with a neighbour outside it, in mm; what lies beyond the image is outside."""
    padded = np.pad(mask, 1)
    inside = padded.copy()
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)
    return np.argwhere(padded & ~inside) * np.array(spacing)


@pytest.mark.parametrize("known", [True, False], ids=["mm", "pixels"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_metric_is_its_monai_call_and_its_definition(dimensions: int, known: bool) -> None:
    spacing = SPACINGS[dimensions] if known else None
    for seed in range(3):
        prediction, target = blobs(seed, dimensions), blobs(seed + 100, dimensions)
        cases = mask_cases("k", "p", "test", prediction, target, ["a", "b"], spacing, tolerance=1.5)
        pair = prediction[None], target[None]
        surface = compute_surface_dice(*pair, [1.5, 1.5], include_background=True, spacing=spacing, use_subvoxels=True)
        by_monai = {
            "dice": compute_dice(*pair), "iou": compute_iou(*pair), "surface_dice": surface,
            "hd95": compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing),
        }  # fmt: skip
        for i, case in enumerate(cases):
            assert {field: getattr(case, field) for field in by_monai} == {
                k: float(v[0, i]) for k, v in by_monai.items()
            }
            a, b = prediction[i].numpy(), target[i].numpy()
            assert case.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
            assert case.iou == pytest.approx((a & b).sum() / (a | b).sum())
            away = cdist(edges(a, spacing or (1,) * dimensions), edges(b, spacing or (1,) * dimensions))
            percentiles = [np.percentile(away.min(axis), 95) for axis in (0, 1)]
            assert case.hd95 == pytest.approx(max(percentiles), rel=1e-5)
            assert (case.label, case.empty, case.tolerance) == ("ab"[i], "", 1.5)
            assert case.unit == ("mm" if known else "pixels")


def test_the_surface_dice_of_images_by_lengths_of_contours() -> None:
    """As DeepMind's code has it: each window of 2 x 2 pixels that are not all alike is a piece of the contour."""
    high, wide = SPACINGS[2]
    diagonal = np.hypot(high, wide) / 2

    def contour(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [n, 2] in mm, and lengths [n]."""
        grid = np.pad(mask, 1).astype(int)
        windows = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]], -1)
        locations, lengths = [], []
        for y, x in np.ndindex(windows.shape[:2]):
            a, b, c, d = windows[y, x]
            if 0 < a + b + c + d < 4:
                straight = wide if a == b else high
                lengths.append(diagonal if a + b + c + d != 2 else 2 * diagonal if a == d else straight)
                locations.append((y * high, x * wide))
        return np.array(locations), np.array(lengths)

    for seed in range(4):
        prediction, target = blobs(seed, 2, 1), blobs(seed + 50, 2, 1)
        (a, long_a), (b, long_b) = contour(prediction[0].numpy()), contour(target[0].numpy())
        away = cdist(a, b)
        near = long_a[away.min(1) <= 1.5].sum() + long_b[away.min(0) <= 1.5].sum()
        (case,) = mask_cases("k", "p", "test", prediction, target, ["a"], SPACINGS[2], 1.5)
        assert case.surface_dice == pytest.approx(near / (long_a.sum() + long_b.sum()), rel=1e-5)
        assert 0.05 < case.surface_dice < 0.95


def test_one_empty_mask_is_a_miss_and_both_empty_what_the_convention_says() -> None:
    full, empty = torch.ones(1, 6, 6, dtype=torch.bool), torch.zeros(1, 6, 6, dtype=torch.bool)
    pairs = {"": (full, full), "prediction": (empty, full), "target": (full, empty), "both": (empty, empty)}
    cases = [case for key, pair in pairs.items() for case in mask_cases(key, key, "test", *pair, ["a"])]
    assert [case.empty for case in cases] == list(pairs)
    for case, (prediction, target) in zip(cases[1:3], [(empty, full), (full, empty)], strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI's: "the prediction is all 0"
            pair = prediction[None], target[None]
            expected = (
                float(compute_dice(*pair, ignore_empty=False)),
                float(compute_iou(*pair, ignore_empty=False)),
                float(compute_surface_dice(*pair, [2.0], include_background=True, use_subvoxels=True)),
            )
            distance = float(compute_hausdorff_distance(*pair, include_background=True, percentile=95))
        assert (case.dice, case.iou, case.surface_dice) == expected == (0, 0, 0)
        assert case.hd95 == np.inf and not np.isfinite(distance)
    assert np.isnan([cases[3].dice, cases[3].iou, cases[3].hd95, cases[3].surface_dice]).all()

    def of(both_empty: str, metric: str) -> Figure:
        return next(f for f in segmentation(cases, both_empty) if (f.metric, f.name) == (metric, "a"))  # type: ignore[arg-type]

    assert (of("one", "Dice").value, of("one", "Dice").n, of("one", "Dice").left_out) == (0.5, 4, 0)
    assert (of("nan", "Dice").value, of("nan", "Dice").n, of("nan", "Dice").left_out) == (pytest.approx(1 / 3), 3, 1)
    assert of("one", "Dice").positives == of("nan", "IoU").positives == 2
    assert (of("one", "HD95 (pixels)").n, of("one", "HD95 (pixels)").left_out) == (2, 2)  # infinite: left out, counted
    assert (of("nan", "HD95 (pixels)").n, of("nan", "HD95 (pixels)").left_out) == (1, 3)
    assert of("nan", "surface Dice at 2 pixels").value == pytest.approx(1 / 3)
    with_class = of("one", "Dice in cases with the class")
    assert (with_class.value, with_class.n) == (0.5, 2)
    assert of("one", "Dice").convention == "both_empty=one"
    assert [of(rule, "Dice").both_empty for rule in ("one", "nan")] == [1, 1] and with_class.both_empty == 0


def test_millimetres_and_pixels_are_never_one_mean() -> None:
    prediction, target = blobs(0, 2), blobs(1, 2)
    cases = mask_cases("k", "p", "test", prediction, target, ["a", "b"], (0.5, 0.5), 3.0)
    cases += mask_cases("l", "q", "test", prediction, target, ["a", "b"], None, 3.0)
    figures = {(f.metric, f.name): f for f in segmentation(cases)}
    assert figures["HD95 (mm)", "a"].value == pytest.approx(figures["HD95 (pixels)", "a"].value / 2)
    assert figures["HD95 (mm)", "a"].n == figures["HD95 (pixels)", "a"].n == 1
    assert {"surface Dice at 3 mm", "surface Dice at 3 pixels"} <= {metric for metric, _ in figures}
    assert (figures["Dice", "a"].n, figures["Dice", "a"].patients) == (2, 2)
    mean = figures["Dice", MEAN]
    assert mean.value == pytest.approx((figures["Dice", "a"].value + figures["Dice", "b"].value) / 2) and mean.n == 2
    assert segmentation([]) == []


def test_pooled_figures_are_those_of_all_pixels_together() -> None:
    """With cases of several sizes the mean over cases is another figure."""
    sizes = (10, 20, 40)
    masks = [(blobs(i, 2)[:, :size], blobs(i + 9, 2)[:, :size]) for i, size in enumerate(sizes)]
    cases = [case for i, pair in enumerate(masks) for case in mask_cases(f"k{i}", "p", "test", *pair, ["a", "b"])]
    figures = {(f.metric, f.name): f for f in segmentation(cases)}
    for i, name in enumerate("ab"):
        a, b = (np.concatenate([pair[side][i].numpy().ravel() for pair in masks]) for side in range(2))
        assert figures["pooled Dice", name].value == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert figures["pooled IoU", name].value == pytest.approx((a & b).sum() / (a | b).sum())
        assert figures["pooled Dice", name].value != pytest.approx(figures["Dice", name].value, rel=1e-3)
        assert (figures["pooled IoU", name].n, figures["pooled IoU", name].patients) == (3, 1)
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    nothing = {f.metric: f for f in segmentation(mask_cases("k", "p", "test", empty, empty, ["a"]))}
    assert np.isnan(nothing["pooled Dice"].value) and np.isnan(nothing["pooled IoU"].value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": torch.ones(1, 4, 4)}, "must be bool"),
        ({"prediction": torch.ones(1, 4, 5, dtype=torch.bool)}, "must both be"),
        ({"names": ["a", "b"]}, "must both be"),
        ({"spacing": (1.0, 0.0)}, "positive number of mm"),
        ({"spacing": (1.0, 1.0, 1.0)}, "each of 2 axes"),
    ],
)
def test_masks_that_do_not_match_are_refused(change: dict[str, object], message: str) -> None:
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        mask_cases("k", "p", "test", **({"prediction": mask, "target": mask, "names": ["a"]} | change))  # type: ignore[arg-type]
