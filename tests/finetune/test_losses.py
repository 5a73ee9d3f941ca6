"""The losses against their formulas, written plainly; what nobody knows does not count."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.segmentation import mask_cases
from dira_scale.judge.tasks.labels import balance, cross_entropy
from dira_scale.judge.tasks.masks import ONE, SMOOTH, MaskTask, Segmentation, dice_and_cross_entropy
from dira_scale.judge.tasks.task import Chosen, identity
from dira_scale.train.data.labels import IGNORE

NAN = math.nan


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(values: list[float]) -> list[float]:
    return [math.exp(x) / sum(map(math.exp, values)) for x in values]


def test_binary_cross_entropy_is_the_mean_over_known_labels() -> None:
    logits, targets = [[0.5, -2.0], [3.0, 0.1], [-1.0, 4.0]], [[1, NAN], [0, 1], [NAN, NAN]]
    known = [
        -math.log(sigmoid(x) if t else 1 - sigmoid(x))
        for row, truth in zip(logits, targets, strict=True) for x, t in zip(row, truth, strict=True) if t == t
    ]  # fmt: skip
    loss = cross_entropy(torch.tensor(logits), torch.tensor(targets), False, identity)
    assert float(loss) == pytest.approx(sum(known) / 3)


def test_cross_entropy_of_classes_is_the_mean_over_known_rows() -> None:
    logits, targets = [[0.5, -2.0, 1.0], [3.0, 0.1, 0.0], [1.0, 1.0, 2.0]], [[0, 1, 0], [NAN, NAN, NAN], [0, 0, 1]]
    expected = -(math.log(softmax(logits[0])[1]) + math.log(softmax(logits[2])[2])) / 2
    assert float(cross_entropy(torch.tensor(logits), torch.tensor(targets), True, identity)) == pytest.approx(expected)


def test_weights_and_the_focal_exponent_are_those_of_the_formulas() -> None:
    """For labels the mean is over what is known, for classes it is weighted, as torch's own."""
    logits, targets = torch.tensor([[0.5, -2.0], [3.0, 0.1]]), torch.tensor([[1.0, 0.0], [NAN, 1.0]])
    chances = [(sigmoid(0.5), 3), (1 - sigmoid(-2.0), 1), (sigmoid(0.1), 5)]
    expected = sum(-w * (1 - p) ** 2 * math.log(p) for p, w in chances) / 3
    assert float(cross_entropy(logits, targets, False, identity, (3, 5), 2.0)) == pytest.approx(expected)

    one_hot = torch.tensor([[0.0, 1], [1, 0]])
    expected = float(torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0]), torch.tensor([3.0, 5])))
    assert float(cross_entropy(logits, one_hot, True, identity, (3, 5))) == pytest.approx(expected)


def test_balanced_weights() -> None:
    targets = torch.tensor([[1, 0], [0, 0], [0, 1], [NAN, 0]])
    assert balance(targets, False) == (2, 3)
    classes = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert balance(classes, True) == pytest.approx((4 / 6, 4 / 3, 4 / 3))


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_batch_of_which_nothing_is_known_moves_nothing(exclusive: bool) -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.full((4, 3), NAN), exclusive, identity)
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


@pytest.mark.parametrize("sides", [(5, 6), (3, 4, 5)])
def test_dice_and_cross_entropy_of_one_structure(sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 1, *sides), torch.randint(-1, 2, (2, *sides))
    pixels = [(x, t) for x, t in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True) if t != IGNORE]
    overlap = sum(sigmoid(x) * t for x, t in pixels)
    extent = sum(sigmoid(x) + t for x, t in pixels)
    entropy = -sum(math.log(sigmoid(x) if t else 1 - sigmoid(x)) for x, t in pixels) / len(pixels)
    losses = dice_and_cross_entropy(logits, targets, ONE, identity)
    assert float(losses["dice"]) == pytest.approx(1 - (2 * overlap + SMOOTH) / (extent + SMOOTH), rel=1e-5)
    assert float(losses["ce"]) == pytest.approx(entropy, rel=1e-5)


def test_dice_and_cross_entropy_of_classes_leave_the_background_out_of_the_dice() -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(2, 3, 4, 5), torch.randint(-1, 3, (2, 4, 5))
    columns, numbers = logits.movedim(1, -1).reshape(-1, 3).tolist(), targets.flatten().tolist()
    pixels = [(softmax(x), t) for x, t in zip(columns, numbers, strict=True) if t != IGNORE]
    dice = []
    for number in (1, 2):
        overlap = sum(p[number] * (t == number) for p, t in pixels)
        extent = sum(p[number] + (t == number) for p, t in pixels)
        dice.append((2 * overlap + SMOOTH) / (extent + SMOOTH))
    losses = dice_and_cross_entropy(logits, targets, None, identity)
    assert float(losses["dice"]) == pytest.approx(1 - sum(dice) / 2, rel=1e-5)
    assert float(losses["ce"]) == pytest.approx(-sum(math.log(p[t]) for p, t in pixels) / len(pixels), rel=1e-5)


def test_regions_that_overlap_have_a_sigmoid_each_and_a_weighed_cross_entropy() -> None:
    torch.manual_seed(2)
    task = Segmentation({"tumour": [2, 1, 4], "core": [1, 4]}, ce_weight=0.2)
    stored, logits = torch.tensor([0, 1, 2, 4, 3, IGNORE])[torch.randint(0, 6, (2, 4, 5))], torch.randn(2, 2, 4, 5)
    columns, values = logits.movedim(1, -1).reshape(-1, 2).tolist(), stored.flatten().tolist()
    known = [(x, v) for x, v in zip(columns, values, strict=True) if v not in (3, IGNORE)]  # 3 is no region's
    dice, entropy = [], 0.0
    for n, region in enumerate([(1, 2, 4), (1, 4)]):
        pairs = [(sigmoid(x[n]), v in region) for x, v in known]
        extent = sum(p + t for p, t in pairs)
        dice.append((2 * sum(p * t for p, t in pairs) + SMOOTH) / (extent + SMOOTH))
        entropy -= sum(math.log(p if t else 1 - p) for p, t in pairs) / len(pairs)
    targets = task.numbers(stored)
    losses = task.terms(logits, targets, identity)
    assert float(losses["dice"]) == pytest.approx(1 - sum(dice) / 2, rel=1e-5)
    assert float(losses["ce"]) == pytest.approx(0.2 * entropy / 2, rel=1e-5)
    predicted, true = task.masks(task.predicted(logits), targets)
    for n, region in enumerate([(1, 2, 4), (1, 4)]):
        assert true[:, n].flatten().tolist() == [v in region for v in values]
        answers = [x[n] > 0 and v not in (3, IGNORE) for x, v in zip(columns, values, strict=True)]
        assert predicted[:, n].flatten().tolist() == answers
    written = [1 if core > 0 else 2 if tumour > 0 else 0 for tumour, core in columns]
    assert task.answers(task.predicted(logits), Chosen()).flatten().tolist() == written


@pytest.mark.parametrize(
    "classes", [{"a": 1, "b": [2]}, {"a": []}, {"a": [0, 1]}, {"a": [256]}, {"a": "1"}, {"a": [[1]]}]
)
def test_what_is_neither_a_class_nor_a_region_is_refused(classes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="give each class a value of its own from 1 to 255, 0 being background; or"):
        MaskTask(loss=["dice"], classes=classes, decoder="random")


def test_without_a_background_zero_is_unknown_and_the_figure_is_the_benchmarks() -> None:
    """Cityscapes' mean IoU is over the pixels of all images together; scikit-learn's Jaccard index is the reference."""
    torch.manual_seed(0)
    classes = {"road": 1, "sky": 2, "car": 3}
    task = Segmentation(classes, figure="pooled IoU", background=False)
    stored = torch.randint(0, 4, (4, 9, 8), dtype=torch.uint8)
    targets, logits = task.numbers(stored), torch.randn(4, 3, 9, 8)
    known = stored > 0
    assert task.outputs == task.names == (*classes,)
    assert torch.equal(targets, torch.where(known, stored.long() - 1, IGNORE))

    losses = dice_and_cross_entropy(logits, targets, None, identity, background=0)
    terms, rows, truth = task.terms(logits, targets, identity), logits.movedim(1, -1)[known], targets[known]
    torch.testing.assert_close(terms["ce"], torch.nn.functional.cross_entropy(rows, truth))
    chances, hits = rows.softmax(1), torch.nn.functional.one_hot(truth, 3)
    each = (2 * (chances * hits).sum(0) + SMOOTH) / ((chances + hits).sum(0) + SMOOTH)
    torch.testing.assert_close(terms["dice"], 1 - each.mean())
    torch.testing.assert_close(losses["dice"], terms["dice"])

    probabilities = task.predicted(logits)
    predicted, true = task.masks(probabilities, targets)
    cases = [case for n in range(4) for case in mask_cases(f"{n}", f"{n}", "test", predicted[n], true[n], task.names)]
    figures = {(figure.metric, figure.name): figure.value for figure in task.figures(cases, Chosen())}
    jaccard = jaccard_score(truth, rows.argmax(1), average=None)
    assert [figures["pooled IoU", name] for name in classes] == pytest.approx([*jaccard])
    assert figures["pooled IoU", "mean"] == pytest.approx(jaccard.mean())
    assert set(np.unique(task.answers(probabilities, Chosen()))) <= {1, 2, 3}
    np.testing.assert_array_equal(task.answers(probabilities, Chosen()), 1 + logits.argmax(1).numpy())


@pytest.mark.parametrize("classes", [None, {"road": 1}, {"tumour": [1, 2], "core": [2]}])
def test_without_a_background_there_are_several_classes(classes: dict[str, Any] | None) -> None:
    with pytest.raises(ArgumentError, match="background"):
        MaskTask(_target_="MaskTask", loss=["ce"], classes=classes, background=False, decoder="random")
