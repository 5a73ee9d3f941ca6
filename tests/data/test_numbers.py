"""Labels that are numbers: which they are, and what of them can be learned."""

from typing import Any

import numpy as np
import pytest
import torch
from data.test_labels import Labelled, labelled

from dira_scale.data.loaders import LoaderSpec
from dira_scale.data.loaders.cpu import CpuLoader
from dira_scale.data.numbers import NumberChoice
from dira_scale.data.order import Order
from dira_scale.data.selection import select
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError

__all__ = ["labelled"]
NAN = float("nan")
NAMES = ("sick", "age", "stage", "change")
CLASSES = {"stage": ["none", "early", "late"]}
ROWS = [[1, 63, 0, -1], [0, 41.5, 2, 0], [-1, NAN, 1, 0.25], [NAN, 70, NAN, NAN]]


def test_by_default_those_are_learned_that_are_neither_yes_and_no_nor_classes(labelled: Labelled) -> None:
    dataset = labelled(ROWS, NAMES, classes=CLASSES)
    assert dataset.number_labels == ("age", "change")
    numbers = NumberChoice().of([dataset])
    assert numbers.names == ("age", "change")
    stored = torch.from_numpy(dataset.flags(np.arange(4))[:, numbers.columns[0]])
    np.testing.assert_array_equal(numbers.targets(stored), [[63, -1], [41.5, 0], [NAN, 0.25], [70, NAN]])


def test_a_named_one_may_be_of_yes_and_no_and_lies_elsewhere_in_each_dataset(labelled: Labelled) -> None:
    first = labelled(ROWS, NAMES, "a", classes=CLASSES)
    second = labelled([[5, 1], [6, 0]], ("age", "sick"), "b")
    numbers = NumberChoice(("age", "sick")).of([first, second])
    spec = LoaderSpec([first, second], "train", Order((4, 2), 0, 6), ViewSpec(8), 0, labels=numbers)
    batch = next(CpuLoader(spec).iterate(0, 1))
    assert batch.labels is not None
    of = {int(index): row for index, row in zip(batch.index, batch.labels.tolist(), strict=True)}
    assert of[0] == [63, 1] and of[2][1] == -1 and of[4] == [5, 1] and of[5] == [6, 0]


@pytest.mark.parametrize(
    ("names", "printed"),
    [
        (("stage",), r"task.labels: 'stage' of .* is a label of classes, which have no order: use task=labels"),
        (("agee",), "task.labels: .* has no label 'agee', but sick, age, stage, change; did you mean 'age'"),
    ],
)
def test_what_is_no_number_is_one_error(labelled: Labelled, names: tuple[str, ...], printed: str) -> None:
    with pytest.raises(UserError, match=printed):
        NumberChoice(names, "task.labels").of([labelled(ROWS, NAMES, classes=CLASSES)])


def test_a_dataset_without_numbers_is_one_error(labelled: Labelled) -> None:
    with pytest.raises(UserError, match=r"task.labels=null: .* has no label of numbers, but sick: name one, or shard"):
        NumberChoice(None, "task.labels").of([labelled([[1], [0]], ("sick",))])


@pytest.mark.parametrize(
    ("rows", "learned", "keys", "printed"),
    [
        ([[5, 7], [6, 7]], True, "", "'b' is 7 wherever it is known, so there is nothing to learn: leave it"),
        ([[5, NAN], [6, NAN]], False, "", "split 'train': label 'b' is unknown in all 2 samples"),
        ([[5, 1], [5, 2]], True, "data.fraction=0.1", "at data.fraction=0.1: label 'a' is 5 .* a larger data.fraction"),
        ([[5, 1], [5, 2]], False, "", ""),
    ],
)
def test_what_cannot_be_learned_is_one_error(
    labelled: Labelled, rows: list[list[float]], learned: bool, keys: str, printed: str
) -> None:
    dataset: Any = labelled(rows, ("a", "b"))
    numbers, chosen = NumberChoice(("a", "b")).of([dataset]), np.arange(2) if learned else None
    if not printed:
        numbers.check([dataset], "train", chosen, keys)
        return
    with pytest.raises(UserError, match=printed):
        numbers.check([dataset], "train", chosen, keys)


def test_a_fraction_and_negatives_go_by_yes_and_no_alone(labelled: Labelled) -> None:
    """Equal rows are chosen with an age as without."""
    sick = (np.random.default_rng(0).random(40) < 0.3).astype(float)[:, None]
    patients = [f"p{n // 2}" for n in range(40)]
    plain = labelled(sick.tolist(), ("sick",), patients=patients)
    aged = labelled(
        np.concatenate([sick, np.arange(40)[:, None]], 1).tolist(), ("sick", "age"), "aged", patients=patients
    )
    for fraction, negatives in ((0.25, None), (1.0, 2)):
        one, other = (select([d], "train", (1.0,), fraction, 0, negatives) for d in (plain, aged))
        assert one is not None and other is not None
        np.testing.assert_array_equal(one.samples, other.samples)
