"""Metrics say which figures tables show in percent; rows of older files are read by the names of their time."""

import json

import numpy as np
import torch

from dira_scale.dataset.metrics.classification import classification
from dira_scale.dataset.metrics.figure import Figure
from dira_scale.dataset.metrics.multiclass import multiclass
from dira_scale.dataset.metrics.ordinal import ordinal
from dira_scale.dataset.metrics.regression import regression
from dira_scale.dataset.metrics.segmentation import mask_cases, segmentation
from dira_scale.dataset.metrics.statistics.spread import Result, Spread, spreads
from dira_scale.dataset.metrics.survival import survival

IN_PERCENT = ("AUROC", "accuracy", "Dice", "IoU", "pooled", "R2", "concordance", "kappa")  # titles begin so


def every_figure() -> list[Figure]:
    rng, patients = np.random.default_rng(0), [f"p{n}" for n in range(30)]
    flags, scores, grades = rng.integers(0, 2, (30, 2)), rng.random((30, 3)), rng.integers(0, 3, 30)
    masks = torch.from_numpy(rng.random((2, 1, 8, 8)) > 0.5)
    return [
        *classification(flags, scores[:, :2], ["a", "b"], patients, [0.5, 0.5]),
        *multiclass(grades, scores, ["x", "y", "z"], patients),
        *ordinal(grades, rng.integers(0, 3, 30), "grade", patients),
        *regression(scores[:, :2], scores[:, 1:], ["c", "d"], patients),
        *survival(scores[:, 0], flags[:, 0], scores[:, 1], "death", patients),
        *segmentation(mask_cases("k", "p", "test", *masks, ["lesion"], (1.0, 1.0))),
    ]


def test_shares_are_said_by_the_metrics_and_carried_to_tables() -> None:
    figures = every_figure()
    assert [figure.share for figure in figures] == [figure.title.startswith(IN_PERCENT) for figure in figures]
    assert {figure.share for figure in figures if figure.overall} == {True, False}
    for figure in figures:
        (spread,) = spreads([Result("s", "r", 0, figure)])
        assert spread.share == figure.share and spread.scale == (100 if figure.share else 1)


def test_rows_of_json_are_read_as_they_were() -> None:
    for figure in every_figure():
        assert repr(Figure.of_json(json.loads(json.dumps(figure.as_json())))) == repr(figure)
        (spread,) = spreads([Result("s", "r", 0, figure)])
        assert repr(Spread.of_json(vars(spread))) == repr(spread)
