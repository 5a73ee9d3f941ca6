"""Temperatures of cases: fitted on validation's probabilities as on the logits that they are of."""

import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from dira_scale.dataset.metrics.cases import LabelCase, image_cases, label_arrays
from dira_scale.dataset.metrics.temperature import class_temperature, label_temperatures, scaled
from dira_scale.judge.evaluation.judge import choose
from dira_scale.judge.tasks.labels import Classification
from dira_scale.train.data.labels import Labels

NAMES = "a", "b", "c"
KEYS = [f"k{number:03}" for number in range(200)]


def logits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three times too sure, and their true classes."""
    generator = np.random.default_rng(seed)
    sure = generator.normal(size=(200, 3))
    return 3 * sure, (generator.gumbel(size=sure.shape) + sure).argmax(1)


@pytest.mark.parametrize("exclusive", [False, True], ids=["labels", "classes"])
def test_temperatures_are_those_of_the_logits(exclusive: bool) -> None:
    values, classes = logits(0)
    activation = (lambda x: softmax(x, 1)) if exclusive else expit
    targets = np.eye(3)[classes]
    if not exclusive:
        targets[::7, 1] = np.nan
    cases = image_cases(LabelCase, KEYS, KEYS, "val", NAMES, targets, activation(values))
    task = Classification(Labels(NAMES, (), (np.nan,) * 3, np.nan, exclusive))
    fitted = task.temperatures(cases)
    expected = [class_temperature(classes, values)] * 3 if exclusive else label_temperatures(targets, values).tolist()
    assert [*fitted.values()] == pytest.approx(expected, rel=1e-4) and min(expected) > 1.5
    chosen = choose(task, cases, temperature=True)
    if not exclusive:  # answers stay: a threshold becomes what a probability at it becomes
        assert chosen.thresholds is not None and chosen.calibrated_thresholds is not None
        before, moved = (np.array([*of.values()]) for of in (chosen.thresholds, chosen.calibrated_thresholds))
        np.testing.assert_allclose(moved, expit(logit(before) / np.array(expected)), rtol=1e-3)
    other, _ = logits(1)
    test = image_cases(LabelCase, KEYS, KEYS, "test", NAMES, targets, activation(other))
    after = label_arrays(task.calibrated(test, fitted))[1]
    np.testing.assert_allclose(after, activation(other / np.array(expected)), rtol=1e-3, atol=1e-6)


def test_a_probability_of_0_or_1_stays_a_number() -> None:
    after = scaled(np.array([[0.0, 1.0], [0.5, 0.25]]), [2.0, 1.0], exclusive=False)
    assert 0 < after[0, 0] < 1e-3 and 1 - 1e-6 < after[0, 1] < 1
    np.testing.assert_allclose(after[1], [0.5, 0.25])
