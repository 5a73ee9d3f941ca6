"""Probes of frozen features: linear classifiers and nearest neighbours, at several shares of the labels.

Every encoder gets the same :class:`ProbeTask`: the same images, the same draws of labelled patients.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dira_scale.evaluation.probe_figures import Score
from dira_scale.metrics.neighbours import knn_scores
from dira_scale.probe.config import USUAL
from dira_scale.probe.heads import RATES, train_heads, with_ones

PARTS = ("train", "val", "test")
ITERATIONS = 1000  # of L-BFGS
Parts = dict[str, np.ndarray]  # an array for each of PARTS


@dataclass(frozen=True)
class ProbeTask:
    """Images by part: ``labels`` [n, L], 0, 1 or NaN (unknown), and ``patients`` [n]. ``classes``: the columns of each
    label of several classes, one against the rest."""

    names: tuple[str, ...]
    labels: Parts
    patients: Parts
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)


def standardise(features: Parts) -> Parts:
    """Mean 0 and standard deviation 1 over all train images, labelled or not; constant features become 0."""
    mean, deviation = features["train"].mean(0, dtype=np.float64), features["train"].std(0, dtype=np.float64)
    constant = deviation < 1e-6 * np.abs(mean) + 1e-12
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return {part: (values - mean) * scale for part, values in features.items()}


def linear_probe(features: Parts, task: ProbeTask, drawn: np.ndarray, grid: Sequence[float]) -> Score:
    """One logistic regression (L2) per label, on the drawn training images whose label is known.

    C is the value in ``grid`` with the largest area under the ROC curve on the whole validation part, the smaller one
    on ties; there is no refit with the validation images.
    """
    auc, chosen, unfinished = np.full(len(task.names), np.nan), np.full(len(task.names), np.nan), 0
    on_test = np.full(task.labels["test"].shape, np.nan)
    for label in range(len(task.names)):
        truth = task.labels["train"][drawn, label]
        known = ~np.isnan(truth)
        x, y = features["train"][drawn[known]], truth[known]
        if len(np.unique(y)) < 2:
            continue
        best = -np.inf
        model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)  # continues from the previous C
        for c in sorted(grid):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # counted below
                model.set_params(C=c).fit(x, y)
            unfinished += int(model.n_iter_[0] >= ITERATIONS)
            on_val = _auc(model.decision_function(features["val"]), task.labels["val"][:, label])
            if on_val > best:
                on_test[:, label] = model.decision_function(features["test"])
                best, chosen[label], auc[label] = on_val, c, _auc(on_test[:, label], task.labels["test"][:, label])
    return Score(auc, chosen, unfinished, _accuracy(on_test, task))


def knn_probe(features: Parts, task: ProbeTask, drawn: np.ndarray, k: int) -> Score:
    """The vote of the ``k`` nearest drawn training images, by cosine similarity of standardised features."""
    bank, labels = features["train"][drawn].astype(np.float32), task.labels["train"][drawn]
    scores = knn_scores(bank, labels, features["test"].astype(np.float32), k=k).cpu().numpy()
    auc = np.full(len(task.names), np.nan)
    for label, truth in enumerate(task.labels["test"].T):
        if len(np.unique(labels[~np.isnan(labels[:, label]), label])) == 2:
            auc[label] = _auc(scores[:, label], truth)
    return Score(auc, accuracy=_accuracy(scores, task))


def sgd_probe(features: Parts, task: ProbeTask, drawn: np.ndarray) -> Score:
    """Linear classifiers at 13 learning rates in one training, on the drawn training images.

    As for C, a label's rate is the one with the largest area under the ROC curve on the whole validation part, the
    smaller one on ties.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    of = {part: torch.from_numpy(values.astype(np.float32)).to(device) for part, values in features.items()}
    labels = task.labels["train"][drawn]
    weights = train_heads(of["train"][torch.from_numpy(drawn).to(device)], torch.from_numpy(labels).to(device).float())
    scores = {part: (with_ones(of[part]) @ weights).cpu().numpy() for part in ("val", "test")}
    auc, chosen = np.full(len(task.names), np.nan), np.full(len(task.names), np.nan)
    on_test = np.full(task.labels["test"].shape, np.nan)
    for label, truth in enumerate(labels.T):
        if len(np.unique(truth[~np.isnan(truth)])) < 2:
            continue
        held_out = task.labels["val"][:, label]
        if len(np.unique(held_out[~np.isnan(held_out)])) < 2:  # nothing to choose a rate by
            continue
        best = int(np.argmax([_auc(values[:, label], held_out) for values in scores["val"]]))
        on_test[:, label], chosen[label] = scores["test"][best, :, label], RATES[best]
        auc[label] = _auc(on_test[:, label], task.labels["test"][:, label])
    return Score(auc, accuracy=_accuracy(on_test, task), rate=chosen)


def probe(
    features: Parts,
    task: ProbeTask,
    draws: dict[float, list[np.ndarray]],
    grid: Sequence[float],
    k: int,
    names: Sequence[str] = USUAL,
) -> dict[tuple[str, float], list[Score]]:
    """Scores of one encoder's features by probe (of ``names``) and fraction, one per draw."""
    ready = standardise(features)
    by_name: dict[str, Callable[[np.ndarray], Score]] = {
        "linear": lambda drawn: linear_probe(ready, task, drawn, grid),
        "knn": lambda drawn: knn_probe(ready, task, drawn, k),
        "sgd": lambda drawn: sgd_probe(ready, task, drawn),
    }
    return {
        (name, fraction): [by_name[name](drawn) for drawn in sets] for fraction, sets in draws.items() for name in names
    }


def _accuracy(scores: np.ndarray, task: ProbeTask) -> dict[str, float]:
    """``scores`` [n, L] of the test part; a class without any is never the answer. Images of a class that is left
    out do not count. NaN if fewer than two classes have scores: the answer is then given."""
    accuracy = {}
    for label, columns in task.classes.items():
        truth, given = task.labels["test"][:, columns], scores[:, columns]
        known = (truth == 1).any(1)
        answers = np.where(np.isnan(given), -np.inf, given).argmax(1)
        right = truth[np.arange(len(truth)), answers] == 1
        scored = (~np.isnan(given).all(0)).sum()
        accuracy[label] = float(right[known].mean()) if scored > 1 and known.any() else float("nan")
    return accuracy


def _auc(scores: np.ndarray, truth: np.ndarray) -> float:
    known = ~np.isnan(truth)
    return float(roc_auc_score(truth[known], scores[known]))
