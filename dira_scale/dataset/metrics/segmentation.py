"""Metrics of masks, of images and volumes, case by case and class by class: MONAI's functions, one call each.

Distances are in mm where the spacing is known, else in pixels, and named so. What is averaged are cases, never batches:
processes hand over their cases (:func:`dira_scale.dataset.metrics.cases.merged`), not their means.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.cases import MaskCase
from dira_scale.dataset.metrics.figure import Figure, mean
from dira_scale.dataset.metrics.statistics.weighted import Statistic, weighted_mean, weighted_ratio

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import numpy as np
    import torch
    from monai import metrics

TOLERANCE = 2.0  # of the surface Dice, in mm or pixels
BothEmpty = Literal["one", "nan"]
IN_CASES = " in cases with the class"  # the end of a metric's name
FIELDS = {"Dice": "dice", "IoU": "iou", "HD95": "hd95", "surface Dice": "surface_dice"}
BOTH_EMPTY = {"Dice": 1.0, "IoU": 1.0, "HD95": 0.0, "surface Dice": 1.0}  # of both_empty=one: the best value


def mask_cases(
    key: str,
    patient: str,
    split: str,
    prediction: Tensor,
    target: Tensor,
    names: Sequence[str],
    spacing: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
) -> list[MaskCase]:
    """The metrics of one case, for each class.

    Dice and IoU count pixels; the HD95 is the larger of the two 95th percentiles of distances between edge pixels; the
    surface Dice is the share of both surfaces within ``tolerance`` of the other one (Nikolov et al. 2021), with areas
    of surfaces as DeepMind's code measures them. Where both masks are empty all are NaN: :func:`segmentation` decides.
    Where one is, Dice, IoU and surface Dice are 0, and the HD95 is infinite.

    Args:
        prediction, target: bool [C, *size], a mask for each class, in 2D or 3D; classes may overlap.
        names: of the C classes; a background is none of them.
        spacing: mm of each axis of ``size``; None = unknown: then ``tolerance`` and distances are in pixels.

    Raises:
        ValueError: shapes that do not match, masks that are not bool, a spacing that is not positive.
    """
    prediction, target = _checked(prediction, target, names, spacing)
    unit = "pixels" if spacing is None else "mm"
    cases = []
    for name, answer, truth in zip(names, prediction, target, strict=True):
        filled = {"prediction": bool(answer.any()), "target": bool(truth.any())}
        empty = [mask for mask, has in filled.items() if not has]
        where = "both" if len(empty) == 2 else "".join(empty)
        measured = _measured(answer, truth, filled, spacing, tolerance)
        overlap, predicted, present = (int(mask.sum()) for mask in (answer & truth, answer, truth))
        about = key, patient, split, name, where
        cases.append(MaskCase(*about, *measured, tolerance, unit, overlap, predicted, present))
    return cases


def _measured(
    answer: Tensor, truth: Tensor, filled: Mapping[str, bool], spacing: Sequence[float] | None, tolerance: float
) -> tuple[float, float, float, float]:
    """Dice, IoU, HD95 and surface Dice of two masks [*size]; ``filled``: which of them have a pixel."""
    if not any(filled.values()):
        return (float("nan"),) * 4
    pair = answer[None, None], truth[None, None]
    dice, iou = metrics.compute_dice(*pair, ignore_empty=False), metrics.compute_iou(*pair, ignore_empty=False)
    if not all(filled.values()):
        return float(dice), float(iou), float("inf"), 0.0
    options = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():  # MONAI 1.6 calls itself with an argument that it has deprecated
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        hd95 = metrics.compute_hausdorff_distance(*pair, percentile=95, **options)
        surface = metrics.compute_surface_dice(*pair, [tolerance], use_subvoxels=True, **options)
    return float(dice), float(iou), float(hd95), float(surface)


def segmentation(cases: Sequence[MaskCase], both_empty: BothEmpty = "one") -> list[Figure]:
    """The mean over cases of each metric for each class, and the mean of each metric over the classes.

    A distance's metric has its unit in its name, and the tolerance: cases with and without a known spacing have rows of
    their own. Beside each metric of all cases are those ``in cases with the class``: with a target that is not empty.

    Args:
        both_empty: what a case counts where target and prediction are empty. ``one``: the best value (Dice, IoU and
            surface Dice 1, HD95 0), as the papers' code has it; ``nan``: nothing, it is left out.

    An HD95 that is infinite, as one mask is empty, is left out and counted.
    """
    figures: list[Figure] = []
    names = dict.fromkeys(case.label for case in cases)
    for metric in FIELDS:
        for title in dict.fromkeys(_title(metric, case) for case in cases):
            chosen = [case for case in cases if _title(metric, case) == title]
            for suffix, some in (("", chosen), (IN_CASES, _with_class(chosen))):
                rows = [_over_cases(metric, f"{title}{suffix}", name, some, both_empty) for name in names]
                figures += [*rows, mean(rows, len({case.patient for case in some}))]
    for metric in ("Dice", "IoU") if cases else ():
        rows = [_pooled(metric, name, cases) for name in names]
        figures += [*rows, mean(rows, len({case.patient for case in cases}))]
    return figures


def _title(metric: str, case: MaskCase) -> str:
    """The name of the figure that a case counts for."""
    if metric == "HD95":
        return f"HD95 ({case.unit})"
    return f"surface Dice at {case.tolerance:g} {case.unit}" if metric == "surface Dice" else metric


def _counted(metric: str, case: MaskCase, both_empty: BothEmpty) -> float:
    best = case.empty == "both" and both_empty == "one"
    return BOTH_EMPTY[metric] if best else float(getattr(case, FIELDS[metric]))


def _over_cases(metric: str, title: str, name: str, cases: Sequence[MaskCase], both_empty: BothEmpty) -> Figure:
    cases = [case for case in cases if case.label == name]
    values = np.array([_counted(metric, case, both_empty) for case in cases])
    known, empty = np.isfinite(values), sum(case.empty == "both" for case in cases)
    value = float(values[known].mean()) if known.any() else float("nan")
    patients = len({case.patient for case, counts in zip(cases, known, strict=True) if counts})
    counts = int(known.sum()), int((~known).sum()), patients, len(_with_class(cases))
    return Figure(title, name, value, *counts, f"both_empty={both_empty}", empty, share=metric in ("Dice", "IoU"))


def _pooled(metric: str, name: str, cases: Sequence[MaskCase]) -> Figure:
    cases = [case for case in cases if case.label == name]
    overlap, both = sum(case.overlap for case in cases), sum(case.predicted + case.present for case in cases)
    above, below = (2 * overlap, both) if metric == "Dice" else (overlap, both - overlap)
    patients, empty = len({case.patient for case in cases}), sum(case.empty == "both" for case in cases)
    value, positives = above / below if below else float("nan"), len(_with_class(cases))
    return Figure(f"pooled {metric}", name, value, len(cases), 0, patients, positives, both_empty=empty, share=True)


def _with_class(cases: Sequence[MaskCase]) -> list[MaskCase]:
    return [case for case in cases if case.empty not in ("both", "target")]


def _checked(
    prediction: Tensor, target: Tensor, names: Sequence[str], spacing: Sequence[float] | None
) -> tuple[Tensor, Tensor]:
    if prediction.shape != target.shape or len(names) != len(target) or target.dim() not in (3, 4):
        shapes = f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}"
        raise ValueError(f"{shapes} must both be [{len(names)}, *size] of two or three dimensions")
    if prediction.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(f"masks must be bool, not {prediction.dtype} and {target.dtype}")
    if spacing is not None and (len(spacing) != target.dim() - 1 or not all(0 < side < np.inf for side in spacing)):
        axes = target.dim() - 1
        raise ValueError(f"spacing {tuple(spacing)} must have a positive number of mm for each of {axes} axes")
    return prediction.cpu(), target.cpu()


def class_statistic(metric: str, cases: Sequence[MaskCase | None]) -> Statistic:
    """Return a figure of :func:`segmentation` of one class, of whose ``cases`` None stands for those without a row."""
    title = metric.removesuffix(IN_CASES)
    if title.startswith("pooled "):
        overlap, both = (
            np.array([value(case) if case else 0 for case in cases], float)
            for value in (lambda case: case.overlap, lambda case: case.predicted + case.present)
        )
        return weighted_ratio(2 * overlap, both) if title.endswith("Dice") else weighted_ratio(overlap, both - overlap)
    base = next(name for name in FIELDS if title.startswith(name))
    values = np.full(len(cases), np.nan)
    for number, case in enumerate(cases):
        if case is not None and _title(base, case) == title and (title == metric or case.present):
            values[number] = _counted(base, case, "one")
    return weighted_mean(np.where(np.isfinite(values), values, np.nan))
