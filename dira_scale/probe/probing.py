"""Probes of frozen features: linear models and nearest neighbours, at several shares of the labels.

Every encoder gets the same :class:`ProbeTask`: the same images, the same draws of labelled patients.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dira_scale.base.machine.device import compute_device
from dira_scale.dataset.metrics.classification import ACCURACY, AUROC, SHARES
from dira_scale.dataset.metrics.figure import Figure, Key, mean
from dira_scale.dataset.metrics.neighbours import knn_scores
from dira_scale.dataset.metrics.regression import MAE, PEARSON, R2
from dira_scale.judge.pages.probe_figures import Fit
from dira_scale.probe.config import USUAL
from dira_scale.train.distributed.precision import set_fp32

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)  # for a batch of 256
BATCH, STEPS, MOMENTUM = 128, 1250, 0.9


def train_heads(
    features: Tensor, labels: Tensor, rates: Sequence[float] = RATES, steps: int = STEPS, numbers: bool = False
) -> Tensor:
    """Weights and, last, biases of a model for each rate and label: [R, d + 1, L], on the features' device.

    All see the same batches, which are drawn from one seed. Each label has its own loss over its known images in the
    batch: binary cross-entropy, of numbers half the squared error.

    Args:
        features: float32 [n, d].
        labels: [n, L] of 0, 1 and NaN (unknown), or, with ``numbers``, of numbers and NaN.
    """
    inputs, batch = with_ones(features), min(BATCH, len(features))
    known, targets = (~labels.isnan()).float(), labels.nan_to_num()
    rows = batches(len(features), batch, steps).to(features.device)
    scaled = torch.tensor([rate * batch / 256 for rate in rates], device=features.device)[:, None, None]
    weights = features.new_zeros(len(rates), inputs.shape[1], labels.shape[1])
    velocity = torch.zeros_like(weights)
    for step, drawn in enumerate(rows):
        x, counted = inputs[drawn], known[drawn]
        answers = x @ weights if numbers else (x @ weights).sigmoid()
        errors = (answers - targets[drawn]) * counted / counted.sum(0).clamp(min=1)
        velocity.mul_(MOMENTUM).add_(x.T @ errors)
        weights -= scaled * (1 + math.cos(math.pi * step / steps)) / 2 * velocity
    return weights


def with_ones(features: Tensor) -> Tensor:
    """[n, d] -> [n, d + 1], for the biases."""
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def batches(count: int, batch: int, steps: int) -> Tensor:
    """Row numbers int64 [steps, batch]: one permutation of all rows after another, the same at every call."""
    generator, passes = torch.Generator().manual_seed(0), -(-steps * batch // count)
    rows = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    return rows[: steps * batch].reshape(steps, batch)


PARTS = ("train", "val", "test")
ITERATIONS = 1000  # of L-BFGS
Parts = dict[str, np.ndarray]  # an array for each of PARTS
Measure = Callable[[np.ndarray, np.ndarray], float]  # of what is true and what is answered, both [n]
Model = tuple[float, Callable[[np.ndarray], np.ndarray], bool]  # C, answers to features, whether it converged


@dataclass(frozen=True)
class ProbeTask:
    """Images by part: ``labels`` [n, L], 0, 1 or NaN (unknown), of the main ``metric`` R2 any numbers or NaN, and
    ``patients`` [n]. ``classes``: the columns of each label of several classes, one against the rest. ``unit`` [L]:
    what 1 means in the label's own unit."""

    names: tuple[str, ...]
    labels: Parts
    patients: Parts
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    metric: str = AUROC
    unit: np.ndarray | float = 1.0


def standardise(features: Parts) -> Parts:
    """Mean 0 and standard deviation 1 over all train images, labelled or not; constant features become 0."""
    mean, deviation = features["train"].mean(0, dtype=np.float64), features["train"].std(0, dtype=np.float64)
    constant = deviation < 1e-6 * np.abs(mean) + 1e-12
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return {part: (values - mean) * scale for part, values in features.items()}


def normalised(task: ProbeTask, drawn: np.ndarray) -> ProbeTask:
    """Numbers less their mean over the ``drawn`` training images, in their standard deviations there."""
    if task.metric == AUROC:
        return task
    values = np.ma.masked_invalid(task.labels["train"][drawn].astype(np.float64))
    mean, deviation = values.mean(0).filled(0.0), values.std(0).filled(0.0)
    unit = np.where(deviation > 0, deviation, 1.0)
    return replace(task, labels={part: (values - mean) / unit for part, values in task.labels.items()}, unit=unit)


def linear_probe(features: Parts, task: ProbeTask, drawn: np.ndarray, grid: Sequence[float]) -> Fit:
    """One logistic regression (L2) per label, of numbers ridge regression, on the drawn training images that have it.

    C is the value in ``grid`` with the largest area under the ROC curve, of numbers R2, on the whole validation part,
    the smaller one on ties; there is no refit with the validation images.
    """
    task = normalised(task, drawn)
    labels = task.labels["train"][drawn]
    counts, chosen, unfinished = _varied(labels), dict[str, float](), 0
    on_test = np.full(task.labels["test"].shape, np.nan)
    for label in np.flatnonzero(counts):
        known = ~np.isnan(labels[:, label])
        best = -np.inf
        models = _ridge if task.metric == R2 else _logistic
        for c, answers, finished in models(features["train"][drawn[known]], labels[known, label], sorted(grid)):
            unfinished += not finished
            on_val = _measured(MEASURES[task.metric], answers(features["val"]), task.labels["val"][:, label])
            if on_val > best:
                on_test[:, label] = answers(features["test"])
                best, chosen[task.names[label]] = on_val, c
    return Fit(figures_of(task, on_test, counts), chosen, unfinished)


def _ridge(x: np.ndarray, y: np.ndarray, grid: Sequence[float]) -> Iterator[Model]:
    for c in grid:
        yield c, Ridge(alpha=1 / c).fit(x, y).predict, True


def _logistic(x: np.ndarray, y: np.ndarray, grid: Sequence[float]) -> Iterator[Model]:
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)  # continues from the previous C
    for c in grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted by the caller
            model.set_params(C=c).fit(x, y)
        yield c, model.decision_function, model.n_iter_[0] < ITERATIONS


def knn_probe(features: Parts, task: ProbeTask, drawn: np.ndarray, k: int) -> Fit:
    """The vote of the ``k`` nearest drawn training images, of numbers their weighted mean, by cosine similarity of
    standardised features."""
    task = normalised(task, drawn)
    bank, labels = features["train"][drawn].astype(np.float32), task.labels["train"][drawn]
    scores = knn_scores(bank, labels, features["test"].astype(np.float32), k=k).cpu().numpy()
    return Fit(figures_of(task, scores, _varied(labels)))


def sgd_probe(features: Parts, task: ProbeTask, drawn: np.ndarray) -> Fit:
    """Linear models at 13 learning rates in one training, on the drawn training images.

    As for C, a label's rate is the one with the best figure on the whole validation part, the smaller one on ties.
    """
    set_fp32("fp32")
    task = normalised(task, drawn)
    device = compute_device()
    of = {part: torch.from_numpy(values.astype(np.float32)).to(device) for part, values in features.items()}
    labels = task.labels["train"][drawn]
    inputs, targets = of["train"][torch.from_numpy(drawn).to(device)], torch.from_numpy(labels).to(device).float()
    weights = train_heads(inputs, targets, numbers=task.metric == R2)
    scores = {part: (with_ones(of[part]) @ weights).cpu().numpy() for part in ("val", "test")}
    chosen, on_test = dict[str, float](), np.full(task.labels["test"].shape, np.nan)
    counts = _varied(labels) & _varied(task.labels["val"])  # else there is nothing to choose a rate by
    for label in np.flatnonzero(counts):
        held_out = task.labels["val"][:, label]
        on_val = [_measured(MEASURES[task.metric], values[:, label], held_out) for values in scores["val"]]
        best = int(np.argmax(np.nan_to_num(on_val, nan=-np.inf)))  # of numbers, large rates may diverge
        on_test[:, label], chosen[task.names[label]] = scores["test"][best, :, label], RATES[best]
    return Fit(figures_of(task, on_test, counts), chosen)


def probe(
    features: Parts,
    task: ProbeTask,
    draws: dict[float, list[np.ndarray]],
    grid: Sequence[float],
    k: int,
    names: Sequence[str] = USUAL,
) -> dict[tuple[str, float], list[Fit]]:
    """Return the fits to one encoder's features by probe (of ``names``) and fraction, one for each draw."""
    ready = standardise(features)
    by_name: dict[str, Callable[[np.ndarray], Fit]] = {
        "linear": lambda drawn: linear_probe(ready, task, drawn, grid),
        "knn": lambda drawn: knn_probe(ready, task, drawn, k),
        "sgd": lambda drawn: sgd_probe(ready, task, drawn),
    }
    return {
        (name, fraction): [by_name[name](drawn) for drawn in sets] for fraction, sets in draws.items() for name in names
    }


def figures_of(task: ProbeTask, on_test: np.ndarray, counts: np.ndarray) -> dict[Key, Figure]:
    """Return the figures of answers ``on_test`` [n, L], by metric and name; NaN for labels that lack answers or of
    which ``counts`` [L] is false.

    Numbers have R2, the mean absolute error in their own unit, and Pearson's r. Labels have areas under the ROC curve,
    with the mean over the classes of each label that has classes, which counts as one label in the mean over all.
    """
    truth, patients = task.labels["test"], task.patients["test"]
    scored, unit = counts & ~np.isnan(on_test).any(0), np.broadcast_to(task.unit, len(task.names))
    metrics = (R2, MAE, PEARSON) if task.metric == R2 else (AUROC,)

    def figure(metric: str, name: str, value: float, known: np.ndarray) -> Figure:
        sizes = int(known.sum()), int((~known).sum()), len(np.unique(patients[known]))
        return Figure(metric, name, value, *sizes, share=metric in (*SHARES, R2))

    of_labels = list[Figure]()
    for i, name in enumerate(task.names):
        known = ~np.isnan(truth[:, i])
        true, answers = truth[known, i], on_test[known, i]
        if not scored[i]:
            values = [math.nan] * len(metrics)
        elif task.metric == AUROC:
            values = [roc_auc_score(true, answers)]
        else:  # all answers may be the same
            correlation = np.corrcoef(true, answers)[0, 1] if np.ptp(answers) > 0 else math.nan
            values = [_r2(true, answers), unit[i] * np.abs(true - answers).mean(), correlation]
        of_labels += [figure(metric, name, float(v), known) for metric, v in zip(metrics, values, strict=True)]
    means = list[Figure]()
    if task.metric == AUROC:
        alone = [area for i, area in enumerate(of_labels) if not any(i in columns for columns in task.classes.values())]
        for label, columns in task.classes.items():
            known = (truth[:, columns] == 1).any(1)
            area = replace(mean([of_labels[i] for i in columns], len(np.unique(patients[known]))), name=label)
            alone.append(area)
            means += [area, figure(ACCURACY, label, _accuracy(truth[:, columns], on_test[:, columns]), known)]
        means.insert(0, mean(alone, len(np.unique(patients[~np.isnan(truth).all(1)]))))
    return {each.key: each for each in (*means, *of_labels)}


def _accuracy(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the share of right answers [n, K]; a class without any score is never the answer. Images of a class that
    is left out do not count. NaN if fewer than two classes have scores: the answer is then certain."""
    known = (truth == 1).any(1)
    answers = np.where(np.isnan(scores), -np.inf, scores).argmax(1)
    right = truth[np.arange(len(truth)), answers] == 1
    scored = (~np.isnan(scores).all(0)).sum()
    return float(right[known].mean()) if scored > 1 and known.any() else float("nan")


def _measured(measure: Measure, answers: np.ndarray, truth: np.ndarray) -> float:
    """Over the images whose label is known."""
    known = ~np.isnan(truth)
    return float(measure(truth[known], answers[known]))


def _varied(labels: np.ndarray) -> np.ndarray:
    """[n, L] -> [L]: whether two different values of a label are known."""
    return np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in labels.T], dtype=bool)


def _r2(truth: np.ndarray, answers: np.ndarray) -> float:
    """Minus infinity or NaN of answers that are not finite, which scikit-learn's refuses."""
    return 1 - np.square(truth - answers).sum() / np.square(truth - truth.mean()).sum()


MEASURES: dict[str, Measure] = {AUROC: roc_auc_score, R2: _r2}  # what the validation part chooses by
