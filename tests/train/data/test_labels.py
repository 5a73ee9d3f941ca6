"""Which labels a task learns: by name, with a policy for what is not known, refused where they cannot be learned."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.labels import UNKNOWN_CLASS, LabelChoice, LabelError, certain, class_numbers
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.numbers import NumberChoice
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.selection import select
from dira_scale.train.data.views import ViewSpec

NAN = float("nan")
NAMES = ("Edema", "Mass", "Fracture")
ROWS = [[1, 0, NAN], [-1, 1, 0], [NAN, -1, 1], [0, 0, -1]]
Labelled = Callable[..., ShardedDataset]


@pytest.fixture
def labelled(make_dataset: Any) -> Labelled:
    def make(rows: list[list[float]], names: tuple[str, ...] = NAMES, name: str = "toy", **info: Any) -> ShardedDataset:
        images = [np.full((8, 8), i, np.uint8) for i in range(len(rows))]
        dataset: ShardedDataset = make_dataset(images, name=name, label_names=names, labels=rows, **info)
        return dataset

    return make


def same(given: torch.Tensor, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(given.numpy(), np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, [[1, 0, NAN], [NAN, 1, 0], [NAN, NAN, 1], [0, 0, NAN]]),
        ({"uncertain": "ones"}, [[1, 0, NAN], [1, 1, 0], [NAN, 1, 1], [0, 0, 1]]),
        ({"unknown": "zeros"}, [[1, 0, 0], [NAN, 1, 0], [0, NAN, 1], [0, 0, NAN]]),
        # CheXpert's: each label by the policy that was best for it, and blank cells are negative.
        (
            {"uncertain": {"Edema": "ones", "Mass": "zeros"}, "unknown": "zeros"},
            [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, NAN]],
        ),
    ],
)
def test_uncertain_and_unknown_labels_count_as_asked(
    labelled: Labelled, policy: dict[str, Any], expected: list[list[float]]
) -> None:
    labels = LabelChoice(**policy).of([labelled(ROWS)])
    same(labels.targets(torch.tensor(ROWS)), expected)


def test_smoothed_labels_are_drawn_for_seed_epoch_and_sample(labelled: Labelled) -> None:
    """However batches, processes and a resumed run cut the epoch; others stay as stored."""
    dataset = labelled([[-1, -1, 1], [-1, 0, -1], [1, -1, NAN]] * 40)
    choice = LabelChoice(uncertain={"Edema": "lsr_ones", "Fracture": "lsr_ones"})
    labels = choice.of([dataset])
    spec = LoaderSpec([dataset], "train", Order((120,), seed=1, batch=40), ViewSpec(size=8), seed=3, labels=labels)

    def drawn(spec: LoaderSpec, start: int, stop: int) -> dict[tuple[int, int], torch.Tensor]:
        """By epoch and sample."""
        return {
            (batch.epoch, int(sample)): row
            for batch in CpuLoader(spec).iterate(start, stop)
            for sample, row in zip(batch.index, batch.labels, strict=True)
        }

    whole = drawn(spec, 0, 6)
    parts = {
        key: row for rank in (0, 1) for start in (0, 3) for key, row in
        drawn(replace(spec, order=replace(spec.order, batch=20), rank=rank, world=2), 2 * start, 2 * start + 6).items()
    }  # fmt: skip
    assert whole.keys() == parts.keys() and len(whole) == 240
    assert all(torch.equal(row.nan_to_num(9), parts[key].nan_to_num(9)) for key, row in whole.items())
    smooth = torch.stack([row[0] for (_, sample), row in whole.items() if sample % 3 < 2])
    assert 0.55 <= smooth.min() < 0.56 and 0.84 < smooth.max() < 0.85 and len(smooth.unique()) == len(smooth)
    same(labels.targets(whole[0, 2][None]), [[1, NAN, NAN]])  # of Mass, which is not smoothed, -1 is unknown
    same(certain(labels.targets(whole[0, 0][None])), [[NAN, NAN, 1]])
    held_out = replace(spec, order=EvalOrder(120, 40), fixed_epoch=0)
    once, twice = drawn(held_out, 0, 3), drawn(held_out, 0, 3)
    assert all(torch.equal(row.nan_to_num(9), twice[key].nan_to_num(9)) for key, row in once.items())


def test_columns_are_chosen_by_name_in_each_dataset_of_a_mixture(labelled: Labelled) -> None:
    """Their labels are otherwise different, or in another order."""
    first, second = labelled(ROWS), labelled([[5, 1, 0], [5, 0, 1]], ("other", "Mass", "Edema"), "second")
    spec = LoaderSpec([first, second], "train", EvalOrder(6, 6), ViewSpec(size=8), seed=0)
    assert next(CpuLoader(spec).iterate(0, 1)).labels is None
    labels = LabelChoice(("Mass", "Edema")).of([first, second])
    (batch,) = CpuLoader(replace(spec, labels=labels)).iterate(0, 1)
    assert labels.names == ("Mass", "Edema") and batch.labels is not None
    same(batch.labels, [[0, 1], [1, -1], [-1, NAN], [0, 0], [1, 0], [0, 1]])
    labels.check([first, second], "train", [np.arange(2), np.arange(2, 6)])


@pytest.mark.parametrize("stored", ["class numbers", "a column for each class"])
def test_one_of_several_classes(labelled: Labelled, stored: str) -> None:
    grades = [2.0, 0.0, NAN, 1.0, 0.0]
    if stored == "class numbers":
        classes = {"grade": ["none", "mild", "severe"]}
        dataset = labelled([[7.0, grade] for grade in grades], ("age", "grade"), classes=classes)
        choice = LabelChoice(("grade",), exclusive=True)
    else:
        one_hot = [[NAN] * 3 if np.isnan(grade) else np.eye(3)[int(grade)].tolist() for grade in grades]
        dataset, choice = labelled(one_hot), LabelChoice(exclusive=True)
    labels = choice.of([dataset])
    spec = LoaderSpec([dataset], "train", EvalOrder(5, 5), ViewSpec(size=8), seed=0, labels=labels)
    (batch,) = CpuLoader(spec).iterate(0, 1)
    assert batch.labels is not None and len(labels.names) == 3
    numbers = class_numbers(labels.targets(batch.labels))
    assert numbers.dtype == torch.int64 and numbers.tolist() == [2, 0, UNKNOWN_CLASS, 1, 0]
    labels.check([dataset], "train", [np.arange(5)])
    with pytest.raises(LabelError, match=r"toy, split 'train': label '.*' has no positive among 3 samples$"):
        labels.check([dataset], "train", [np.array([1, 3, 4])])
    if stored == "class numbers":  # each class as yes or no: none can be left out alone
        with pytest.raises(LabelError) as caught:
            LabelChoice(("grade",)).of([dataset]).check([dataset], "train", [np.array([1, 3, 4])])
        assert (caught.value.rest, caught.value.lacks) == ([], "fewer classes")


def test_names_that_a_dataset_lacks_are_one_error(labelled: Labelled) -> None:
    first, second = labelled(ROWS), labelled(ROWS, ("Edema", "Masses", "Fracture"), "second")
    none = labelled([[], []], (), "none")
    severe, grave = (
        labelled([[0], [1]], ("grade",), name, classes={"grade": ["none", name]}) for name in ("severe", "grave")
    )
    for datasets, choice, printed in (
        ([first, second], {"names": ("Mass",)},
         r"names: .*second, which has no label 'Mass', but Edema, Masses, Fracture; did you mean 'Masses'"),
        ([first, second], {}, "second, which has no label 'Mass'"),
        ([none], {}, r"none has no labels"),
        ([severe, grave], {}, r"severe has the labels grade: none, grade: severe, .*grave has grade: none, grade: gr"),
        ([first], {"names": ("Mass",), "exclusive": True}, "names: expected two labels or more, .*: Mass alone is not"),
        ([first], {"uncertain": "lsr_ones", "exclusive": True}, "uncertain: expected ignore: one of several classes"),
        ([first], {"uncertain": "one"}, "uncertain: expected ones, zeros, ignore, lsr_ones; did you mean 'ones'"),
        ([first], {"uncertain": {"Edma": "ones"}}, "uncertain.Edma: expected one of .*; did you mean 'Edema'"),
        ([first], {"unknown": "none"}, "unknown: expected ones, zeros, ignore; did you mean 'ones'"),
    ):  # fmt: skip
        with pytest.raises((ArgumentError, DatasetError), match=printed):
            LabelChoice(**choice).of(datasets)


@pytest.mark.parametrize(
    ("rows", "choice", "learned", "printed"),
    [
        ([[1, 3], [0, 0]], {}, True, r"toy, split 'train': label 'b' has the value 3: need 0, 1, -1"),
        ([[1, -1], [0, NAN]], {}, True, r"label 'b' is unknown or uncertain, which is ignored in all 2 samples"),
        ([[1, 0], [0, -1]], {"uncertain": "zeros"}, True, r"label 'b' has no positive among 2 samples$"),
        ([[1, 0, 0], [0, 0, 0]], {}, True, "label 'b' has no positive .*, label 'c' has no positive among 2 samples$"),
        ([[1, 0], [1, 0]], {"exclusive": True}, False, r"label 'b' has no positive among 2 samples"),
        ([[1, 0], [1, 1]], {"exclusive": True}, True, r"1 of 2 samples have none or several of the labels a, b:"),
        (
            [[1, 0], [0, 0], [0, 1]],
            {"exclusive": True},
            True,
            r"1 of 3 samples have none or several of the labels a, b",
        ),
    ],
)
def test_labels_that_cannot_be_learned_are_one_error(
    labelled: Labelled, rows: list[list[float]], choice: dict[str, Any], learned: bool, printed: str
) -> None:
    dataset = labelled(rows, ("a", "b", "c")[: len(rows[0])])
    with pytest.raises(DatasetError, match=printed):
        LabelChoice(**choice).of([dataset]).check([dataset], "train", [np.arange(len(rows))] if learned else None)


NUMBERED = ("sick", "age", "stage", "change")
CLASSES = {"stage": ["none", "early", "late"]}
PEOPLE = [[1, 63, 0, -1], [0, 41.5, 2, 0], [-1, NAN, 1, 0.25], [NAN, 70, NAN, NAN]]


def test_by_default_those_are_learned_that_are_neither_yes_and_no_nor_classes(labelled: Labelled) -> None:
    dataset = labelled(PEOPLE, NUMBERED, classes=CLASSES)
    assert dataset.number_labels == ("age", "change")
    numbers = NumberChoice().of([dataset])
    assert numbers.names == ("age", "change")
    stored = torch.from_numpy(dataset.flags(np.arange(4))[:, numbers.columns[0]])
    np.testing.assert_array_equal(numbers.targets(stored), [[63, -1], [41.5, 0], [NAN, 0.25], [70, NAN]])


def test_a_named_one_may_be_of_yes_and_no_and_lies_elsewhere_in_each_dataset(labelled: Labelled) -> None:
    first = labelled(PEOPLE, NUMBERED, "a", classes=CLASSES)
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
        (("stage",), r"'stage' of .* is a label of classes, which have no order"),
        (("agee",), "names: .* has no label 'agee', but sick, age, stage, change; did you mean 'age'"),
    ],
)
def test_what_is_no_number_is_one_error(labelled: Labelled, names: tuple[str, ...], printed: str) -> None:
    with pytest.raises((ArgumentError, DatasetError), match=printed):
        NumberChoice(names).of([labelled(PEOPLE, NUMBERED, classes=CLASSES)])


def test_a_dataset_without_numbers_is_one_error(labelled: Labelled) -> None:
    with pytest.raises(DatasetError, match=r"has no label of numbers, but sick$"):
        NumberChoice().of([labelled([[1], [0]], ("sick",))])


@pytest.mark.parametrize(
    ("rows", "learned", "printed"),
    [
        ([[5, 7], [6, 7]], True, "'b' is 7 wherever it is known, so there is nothing to learn"),
        ([[5, NAN], [6, NAN]], False, "split 'train': label 'b' is unknown in all 2 samples"),
        ([[5, 1], [5, 2]], False, ""),
    ],
)
def test_what_cannot_be_learned_is_one_error(
    labelled: Labelled, rows: list[list[float]], learned: bool, printed: str
) -> None:
    dataset: Any = labelled(rows, ("a", "b"))
    numbers, chosen = NumberChoice(("a", "b")).of([dataset]), [np.arange(2)] if learned else None
    if not printed:
        numbers.check([dataset], "train", chosen)
        return
    with pytest.raises(LabelError, match=printed):
        numbers.check([dataset], "train", chosen)


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
