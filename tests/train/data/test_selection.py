"""Which rows are used: those of earlier versions, row by row, and the rules' promises."""

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import Codes, Names
from dira_scale.shard.curate.subset import in_fold
from dira_scale.train.data import stratification
from dira_scale.train.data.alike import numbered
from dira_scale.train.data.order import Order
from dira_scale.train.data.selection import Selection, nested_draws, select

# 24 rows of 9 patients of 1 to 5 rows, out of order.
PATIENTS = [f"p{number}" for number in (4, 0, 7, 7, 2, 8, 1, 4, 3, 5, 0, 6, 3, 3, 8, 8, 5, 1, 2, 8, 3, 8, 3, 6)]


def drawn(patients: list[str], seed: int) -> list[str]:
    """The distinct patients in an order that depends on their names and the seed alone."""
    return sorted({*patients}, key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())


@pytest.mark.parametrize(("seed", "rows"), [(0, [6, 9, 16, 17]), (1, [1, 8, 10, 12, 13, 20, 22])])
def test_golden_folds(seed, rows):
    """What `shard subset` holds out of train."""
    names = sorted({*PATIENTS})
    codes = np.array([names.index(patient) for patient in PATIENTS])
    inside = np.flatnonzero(~np.isin(PATIENTS, ["p2", "p6"]))
    ends, text = np.arange(0, 2 * len(names) + 1, 2), np.frombuffer("".join(names).encode(), np.uint8)
    assert inside[in_fold(Codes(codes[inside], Names(ends, text)), 3, 1, seed)].tolist() == rows


def test_golden_draws():
    """What `probe` chooses."""
    found = nested_draws(np.array(PATIENTS), (1.0, 0.5, 0.1), 2, 7)
    assert [rows.tolist() for rows in found[0.5]] == [
        [1, 2, 3, 5, 6, 10, 14, 15, 17, 19, 21], [1, 6, 8, 10, 11, 12, 13, 17, 20, 22, 23]
    ]  # fmt: skip
    assert [rows.tolist() for rows in found[0.1]] == [[5, 14, 15, 19, 21], [11, 23]]


FRACTIONS = (0.1, 0.25, 0.4, 0.5, 0.75, 0.9, 1.0)


def table(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to nine patients with one to three samples each, and one to three labels of their samples."""
    rng = np.random.default_rng(seed)
    count, labels = rng.integers(3, 10), rng.integers(1, 4)
    patients = np.repeat([f"p{number}" for number in range(count)], rng.integers(1, 4, count)).astype(object)
    rng.shuffle(patients)
    return patients, rng.random((len(patients), labels)) < rng.uniform(0.05, 0.5, labels)


def by_patient(patients: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    names = np.unique(patients)
    return names, np.array([positive[patients == name].any(0) for name in names])


def farthest(positive: np.ndarray, rows: np.ndarray) -> float:
    """Patients by which a label is off its share, of the label that is off most."""
    return np.abs(positive[rows].sum(0) - len(rows) * positive.mean(0)).max()


def stratified(patients, positive, labels, fraction, seed, from_end=False) -> np.ndarray:
    """Which samples are of the patients that are chosen."""
    names, of_patient = by_patient(patients, positive)
    order = stratification.in_drawn_order(pa.array(names, pa.large_string()), np.ones(len(names), bool), seed)
    bits = np.packbits(np.pad(of_patient, ((0, 0), (0, 1))), 1)[order]
    return np.isin(patients, names[order[stratification.stratified(bits, labels, fraction, from_end)]])


def leaving_out(*keys: str) -> pa.Array:
    return pa.array(keys, pa.large_string())


@pytest.mark.parametrize("seed", range(40))
def test_a_from_the_start_and_b_from_the_end_share_no_patient(seed):
    """PCRL's a : b. All patients where a + b = 1; nested; a label is off its share by as much as at the start."""
    patients, positive = table(seed)
    names, of_patient = by_patient(patients, positive)
    labels, later = [f"label {number}" for number in range(positive.shape[1])], np.ones(len(patients), bool)
    for fraction in reversed(FRACTIONS[:-1]):
        kept = stratified(patients, positive, labels, fraction, seed, from_end=True)
        chosen = np.flatnonzero(np.isin(names, patients[kept]))
        assert len(chosen) >= 1 and (kept == np.isin(patients, names[chosen])).all()  # whole patients
        assert (kept <= later).all()  # nested
        later = kept
        try:
            before = stratified(patients, positive, labels, round(1 - fraction, 2), seed)
        except ArgumentError:  # too small for all labels
            continue
        if round(round(1 - fraction, 2) * len(names)) in range(1, len(names)):
            assert (before ^ kept).all()  # each sample is in one of the two
            rest = np.flatnonzero(np.isin(names, patients[before]))
            assert farthest(of_patient, chosen) == pytest.approx(farthest(of_patient, rest))


@pytest.mark.parametrize("count", [33, 100])
def test_all_whole_percentages_a_and_b_up_to_a_hundred_share_no_patient(count):
    """Wherever b is half a patient or more; also of one patient at the start, which is less than rounding gives."""
    patients, nobody = np.array([f"p{number}" for number in range(count)], object), np.zeros((count, 0), bool)
    shares = range(1, 100)
    start = np.array([stratified(patients, nobody, [], a / 100, 0) for a in shares])
    end = np.array([stratified(patients, nobody, [], b / 100, 0, from_end=True) for b in shares])
    for b in shares:
        if b * count > 50:
            assert not (start[: 100 - b] & end[b - 1]).any(), b


@pytest.mark.parametrize("seed", range(40))
def test_every_label_keeps_its_share_or_one_positive(seed):
    """Against all sets of as many patients: none of those that keep every label is nearer by a patient."""
    patients, positive = table(seed)
    names, of_patient = by_patient(patients, positive)
    labels = [f"label {number}" for number in range(positive.shape[1])]
    present, before = of_patient.any(0), np.zeros(len(patients), bool)
    for fraction in FRACTIONS:
        count = max(1, round(fraction * len(names)))
        possible = [list(rows) for rows in combinations(range(len(names)), count)
                    if (of_patient[list(rows)].any(0) == present).all()]  # fmt: skip
        if not possible:
            with pytest.raises(ArgumentError, match=r"fraction: .* have a positive of every label: 'label \d' would"):
                stratified(patients, positive, labels, fraction, seed)
            continue
        kept = stratified(patients, positive, labels, fraction, seed)
        chosen = np.flatnonzero(np.isin(names, patients[kept]))
        assert len(chosen) == count and (kept == np.isin(patients, names[chosen])).all()  # whole patients
        assert (kept >= before).all()  # nested
        assert (of_patient[chosen].any(0) == present).all()
        assert farthest(of_patient, chosen) < 1 + min(farthest(of_patient, rows) for rows in possible)
        before = kept
    assert before.all()


def balanced(positive: np.ndarray, count: int) -> list[int]:
    """The order of rows, each found among all that are left; sums are exact."""
    columns = np.concatenate([positive, ~positive.any(1, keepdims=True)], 1).astype(int)
    total, held, missing, chosen = columns.sum(0), 0 * columns[0], positive.any(0), list[int]()
    kinds = [row.tobytes() for row in columns]
    size = Counter(kinds)
    while len(chosen) < count:
        taken = Counter(kinds[row] for row in chosen)
        left = [row for row in range(len(columns)) if row not in chosen]
        cost = ((held + columns) * len(columns) - (len(chosen) + 1) * total) ** 2
        behind = [(len(chosen) + 1) * size[kind] - len(columns) * taken[kind] for kind in kinds]
        adds, first = positive[:, missing].sum(1), [kinds.index(kind) for kind in kinds]
        best = min(left, key=lambda row: (-adds[row], cost[row].sum(), -behind[row], first[row], row))
        chosen.append(best)
        held, missing = held + columns[best], missing & ~positive[best]
    return chosen


@pytest.mark.parametrize("seed", range(30))
def test_the_patients_are_those_of_plain_loops(seed):
    """Also in the beginning, where labels are missing, and where no patient of some kind is left."""
    rng = np.random.default_rng(seed)
    patients, labels = int(rng.integers(2, 120)), int(rng.integers(0, 12))
    positive = rng.random((patients, labels)) < rng.uniform(0.02, 0.6, labels)
    bits, member = numbered(np.packbits(np.pad(positive, ((0, 0), (0, 1))), 1))
    of_group = np.unpackbits(bits, 1)[:, :labels].astype(bool)
    queues = [np.flatnonzero(member == group).tolist()[::-1] for group in range(len(bits))]
    count = int(rng.integers(1, patients + 1))
    groups = stratification._balanced(of_group, np.bincount(member), count)
    assert [queues[group].pop() for group in groups] == balanced(positive, count)
    names = [f"p{number}" for number in range(patients)]
    present = rng.random(patients) < 0.7
    order = stratification.in_drawn_order(pa.array(names, pa.large_string()), present, seed)
    assert [names[number] for number in order] == drawn([names[n] for n in np.flatnonzero(present)], seed)


def test_the_choice_depends_on_names_alone():
    """Not on the order of rows; without labels it is the beginning of the order drawn."""
    patients, positive = table(3)
    kept = set(patients[stratified(patients, positive, ["a", "b", "c"], 0.5, 0)])
    turned = patients[::-1], positive[::-1]
    assert set(turned[0][stratified(*turned, ["a", "b", "c"], 0.5, 0)]) == kept
    unlabelled = stratified(np.array(PATIENTS, object), np.zeros((24, 0), bool), [], 0.5, 0)
    assert set(np.array(PATIENTS)[unlabelled]) == set(drawn(PATIENTS, 0)[:4])


def test_too_small_a_fraction_names_the_label_and_one_that_works():
    patients = np.array([f"p{number}" for number in range(300)], object)
    positive = np.zeros((300, 3), bool)
    positive[[7, 8, 9], [0, 1, 2]] = True
    labels = ["Nodule", "Mass", "Hernia"]
    with pytest.raises(ArgumentError) as caught:
        stratified(patients, positive, labels, 0.005, 0)
    assert str(caught.value) == (
        "fraction: expected 0.01 or more: 2 of 300 patients cannot have a positive of every label: 'Hernia' would have "
        "none, got 0.005"
    )
    assert positive[stratified(patients, positive, labels, 0.01, 0)].any(0).all()


@pytest.fixture
def labelled(make_dataset):
    """30 patients have two images each; every tenth image has label a, one also b; the others have 0, -1 or NaN."""

    def make(name: str = "toy", labels: int = 2, value: float | None = None) -> ShardedDataset:
        values = [[[0.0, -1.0, np.nan][i % 3], 0.0] if i % 10 else [1.0, float(i == 20)] for i in range(60)]
        values = [(row if value is None else [value, value])[:labels] for row in values]
        images, patients = [np.zeros((8, 8), np.uint8)] * 60, [f"p{i // 2}" for i in range(60)]
        return make_dataset(images, name=name, label_names=["a", "b"][:labels], labels=values, patients=patients)

    return make


def order_of(selection: Selection, **options) -> Order:
    return Order(selection.sizes, weights=selection.weights, selection=selection, **{"seed": 0, "batch": 4} | options)


def epoch_of(order: Order, epoch: int) -> list[int]:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([order.batch_at(step).index for step in steps]).tolist()


POSITIVE = set(range(0, 60, 10))


@pytest.mark.parametrize("options", [{}, {"lanes": 4, "block": 2, "window": 3}])
def test_an_epoch_has_all_positives_and_other_negatives(labelled, options):
    """6 positives, 54 negatives, 3 for each: 24 samples an epoch, and each negative once in three epochs."""
    order = order_of(select([labelled()], "train", [1.0], 1.0, 0, 3), **options)
    assert order.steps_per_epoch == 6
    for first in (0, 3):
        epochs = [epoch_of(order, first + i) for i in range(3)]
        assert all(set(epoch) >= POSITIVE and len(epoch) == len(set(epoch)) == 24 for epoch in epochs)
        negatives = [sample for epoch in epochs for sample in epoch if sample not in POSITIVE]
        assert sorted(negatives) == sorted(set(range(60)) - POSITIVE)
    for step in range(12):
        ranks = np.concatenate([order.batch_at(step, rank, 2).index for rank in range(2)])
        assert (ranks == order.batch_at(step).index).all()
    drawn_first = sorted(set(epoch_of(order, 0)) - POSITIVE)
    assert drawn_first != sorted(set(range(60)) - POSITIVE)[:18]  # a random part
    assert drawn_first != sorted(set(epoch_of(replace(order, seed=1), 0)) - POSITIVE)


@pytest.mark.parametrize("negatives", [1, 2, 4, 20])
def test_none_comes_again_before_all_others_whatever_an_epoch_drops(labelled, negatives):
    order = order_of(select([labelled()], "train", [1.0], 1.0, 0, negatives), batch=8)
    positive, counts = np.isin(np.arange(60), list(POSITIVE)), np.zeros(60, int)
    for epoch in range(20):
        counts += np.bincount(epoch_of(order, epoch), minlength=60)
        assert np.ptp(counts[positive]) <= 1 and np.ptp(counts[~positive]) <= 1
        slots = (epoch + 1) * order.steps_per_epoch * 8  # of the endless sequence, so far
        assert counts[positive].sum() == 6 * (slots // order.epoch_size) + min(6, slots % order.epoch_size)


def test_repetitions_within_an_epoch_get_views_of_their_own(labelled):
    """120 slots of 54 negatives."""
    order = order_of(select([labelled()], "train", [1.0], 1.0, 0, 20), batch=6)
    parts = [order.batch_at(step) for step in range(order.steps_per_epoch)]
    pairs = [pair for part in parts for pair in zip(part.index.tolist(), part.occurrence.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs) == 126 and max(occurrence for _, occurrence in pairs) == 2


def test_of_each_dataset_its_own_share(labelled):
    """With the weights that they have, of whole patients, and under every sample's own number."""
    datasets = [labelled("one"), labelled("two")]
    selection = select(datasets, "train", [1.0, 0.5], 0.5, 0, None)
    order = order_of(selection, batch=3)
    assert (selection.sizes, selection.split_size, order.epoch_size) == ((30, 30), 120, 45)
    samples = sorted({sample for epoch in range(2) for sample in epoch_of(order, epoch)})
    assert samples == sorted(selection.samples)
    assert {sample ^ 1 for sample in samples} == set(samples)  # a patient's images have the numbers 2 n and 2 n + 1
    assert len(POSITIVE & set(samples)) == 3 and 20 in samples and 80 in samples
    both = order_of(select(datasets, "train", [1.0, 1.0], 1.0, 0, 1))
    every_tenth = {sample for sample in epoch_of(both, 0) if sample % 10 == 0}
    assert every_tenth == set(range(0, 120, 10)) and len(set(epoch_of(both, 0))) == 24


def test_what_is_selected_is_identity(labelled):
    one, two = labelled("one"), labelled("two")
    first = select([one], "train", [1.0], 0.5, 0, None)
    assert first.identity == select([two], "train", [1.0], 0.5, 0, None).identity
    for others in ((0.5, 1, None), (0.4, 0, None), (0.5, 0, 1), (0.5, 0, 2)):
        assert select([one], "train", [1.0], *others).identity != first.identity
    assert select([one], "train", [1.0], 1.0, 5, None) is None  # all: nothing is added to a run's identity


def patients_of(selection, dataset, split="train"):
    return set(dataset.column("patient")[dataset.rows(split)[selection.samples]])


def test_the_end_is_chosen_in_each_dataset(labelled):
    dataset = labelled()
    start, end = (select([dataset], "train", [1.0], share, 0, None, from_end=share < 0.5) for share in (0.8, 0.2))
    assert patients_of(start, dataset).isdisjoint(patients_of(end, dataset))
    assert sorted([*start.samples, *end.samples]) == list(range(60))
    assert select([dataset], "train", [1.0], 1.0, 0, None, from_end=True) is None


def test_excluded_patients_are_left_out_before_a_fraction_is_taken(labelled, make_dataset):
    one, two = labelled("one"), labelled("two")
    gone = set(one.column("patient")[:20])
    selection = select([one, two], "train", [1.0, 1.0], 1.0, 0, None, excluded=leaving_out(*gone))
    assert selection.split_size == 120
    everyone = np.concatenate([dataset.column("patient")[dataset.rows("train")] for dataset in (one, two)])
    assert not gone & set(everyone[selection.samples])
    assert set(selection.samples) == {i for i, patient in enumerate(everyone) if patient not in gone}
    left = len(set(one.column("patient")) - gone)
    half = select([one], "train", [1.0], 0.5, 0, None, excluded=leaving_out(*gone))
    assert len(patients_of(half, one)) == round(0.5 * left) and not gone & patients_of(half, one)
    images, people = [np.zeros((8, 8), np.uint8)] * len(PATIENTS), np.array(PATIENTS)
    uneven = make_dataset(images, name="uneven", patients=PATIENTS, label_names=())
    kept = uneven.rows("train")[select([uneven], "train", [1.0], 0.5, 0, None, excluded=leaving_out("p3")).samples]
    assert len(set(people[kept])) == 4  # of eight, with all images
    assert sorted(kept) == np.flatnonzero(np.isin(people, people[kept])).tolist()
    assert select([one], "train", [1.0], 1.0, 0, None, excluded=leaving_out("somebody else")) is None
    with pytest.raises(ArgumentError, match=r"excluded: .*one has no other patient in split 'train'"):
        select([one], "train", [1.0], 1.0, 0, None, excluded=leaving_out(*one.column("patient")))


@pytest.mark.parametrize(
    ("change", "printed"),
    [
        ({"labels": 0}, "toy has no labels"),
        ({"value": 0.0}, "negatives: expected null, or another dataset: .*toy has no positive in split 'train', got 2"),
        ({"value": 1.0}, r"has no negative \(a sample without a positive label\) in split 'train', got 2"),
    ],
)
def test_negatives_need_labels_positives_and_negatives(labelled, change, printed):
    with pytest.raises((ArgumentError, DatasetError), match=printed):
        select([labelled(**change)], "train", [1.0], 1.0, 0, 2)


def test_too_few_samples_for_a_batch_say_that_they_were_chosen(labelled):
    selection = select([labelled()], "train", [1.0], 0.1, 0, 2)
    with pytest.raises(ArgumentError, match=r"samples of 60, which were chosen, do not fill one global batch of 32"):
        order_of(selection, batch=32)


def test_classes_are_chosen_by_class_and_know_no_negatives(make_dataset):
    """Numbers of classes are no flags: the second class is not a positive of which the first is the negative."""
    grades, classes = [0.0] * 24 + [1.0] * 24 + [2.0] * 12, {"grade": ["none", "mild", "severe"]}
    images, labels = [np.zeros((8, 8), np.uint8)] * 60, [[grade] for grade in grades]
    dataset = make_dataset(images, label_names=["grade"], labels=labels, classes=classes)
    chosen = select([dataset], "train", [1.0], 0.5, 0, None)
    assert np.bincount(np.array(grades, int)[chosen.samples]).tolist() == [12, 12, 6]
    with pytest.raises(DatasetError, match="has no labels"):
        select([dataset], "train", [1.0], 1.0, 0, 2)
