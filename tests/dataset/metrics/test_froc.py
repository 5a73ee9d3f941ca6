"""The FROC curve against LUNA16's script, written plainly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from dira_scale.dataset.metrics.cases import IRRELEVANT, CandidateCase
from dira_scale.dataset.metrics.froc import RATES, candidates
from dira_scale.judge.tasks.candidates import Candidates
from dira_scale.judge.tasks.task import Chosen
from dira_scale.train.data.labels import Labels

Point = tuple[float, float, float]


@dataclass
class Scan:
    """Nodules and excluded findings (place, diameter), and candidates (place, probability)."""

    nodules: list[tuple[Point, float]]
    others: list[tuple[Point, float]]
    candidates: list[tuple[Point, float]]


def of_luna16(scans: Sequence[Scan]) -> list[float]:
    """The sensitivities as noduleCADEvaluationLUNA16.py has them, written plainly: its matching and its curve."""
    truth, scores, missed = list[int](), list[float](), 0
    for scan in scans:
        least = sorted((score for _, score in scan.candidates), reverse=True)[100:101]
        left = [mark for mark in scan.candidates if not least or mark[1] > least[0]]
        marks = list(left)
        for place, diameter in scan.nodules:
            inside = [mark for mark in marks if math.dist(mark[0], place) < diameter / 2]
            left = [mark for mark in left if mark not in inside]
            missed += not inside
            if inside:
                truth, scores = [*truth, 1], [*scores, max(score for _, score in inside)]
        for place, diameter in scan.others:
            radius = 5 if diameter < 0 else diameter / 2
            left = [mark for mark in left if math.dist(mark[0], place) >= radius]
        truth, scores = truth + [0] * len(left), scores + [score for _, score in left]
    false, true, _ = roc_curve(truth, scores)
    positives, negatives = sum(truth), len(truth) - sum(truth)
    at, found = false * negatives / len(scans), true * positives / (positives + missed)
    return [float(np.interp(rate, at, found)) for rate in RATES]


def toy(seed: int) -> list[Scan]:
    """Scans of four nodules, of which some have several candidates and some none; one of 150 false positives that are
    higher than its nodules' candidates, one of a single candidate."""
    generator, made = np.random.default_rng(seed), []

    def places(count: int) -> list[Point]:
        return [(float(x), float(y), float(z)) for x, y, z in generator.uniform(0, 100, (count, 3))]

    for number in range(20):
        nodules = [(place, 12.0) for place in places(4 * (number % 3 > 0))]
        others = [(place, -1.0 if n % 2 else 16.0) for n, place in enumerate(places(8))]
        near = [place for place, _ in nodules[:3] + others[:4] for _ in range(2)]
        moved = [(x, y, z) for x, y, z in (np.add(near, generator.uniform(-4, 4, (len(near), 3)))).tolist()]
        if number == 1:
            marks = [(place, generator.uniform(0.5, 1)) for place in places(150)]
            marks += [(place, generator.uniform(0.1, 0.5)) for place in moved]
        else:
            marks = [(place, generator.beta(1, 4)) for place in places(6)]
            marks += [(place, generator.beta(2, 2)) for place in moved]
        scored = [(place, round(score, 2 if number != 1 else 1)) for place, score in marks]  # ties, at 100 too
        made.append(Scan(nodules, others, scored[:1] if number == 5 else scored))
    return made


def rows_of(scans: Sequence[Scan]) -> list[CandidateCase]:
    """The rows that the recipe's attributes make of the same."""
    rows = []
    for number, scan in enumerate(scans):
        for n, (place, score) in enumerate(scan.candidates):
            hit = [str(i) for i, (at, size) in enumerate(scan.nodules) if math.dist(place, at) < size / 2]
            other = any(math.dist(place, at) < (5 if size < 0 else size / 2) for at, size in scan.others)
            about = f"s{number}", " ".join(hit) or IRRELEVANT * other, len(scan.nodules)
            row = f"k{number}-{n:03d}", f"p{number // 2}", "test", "nodule", float(bool(hit)), score
            rows.append(CandidateCase(*row, *about))
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_candidates_have_the_sensitivities_of_luna16s_script(seed: int) -> None:
    """Several candidates of a nodule hit it once, by the highest; irrelevant ones do not count; nodules without any
    are missed; of a scan 100 count."""
    scans = toy(seed)
    rows, expected = rows_of(scans), of_luna16(scans)
    assert max(len(scan.candidates) for scan in scans) > 100 and any(row.lesion == IRRELEVANT for row in rows)
    found = {figure.key: figure for figure in candidates(rows)}
    for rate, value in zip(RATES, expected, strict=True):
        assert found[f"sensitivity at {rate:g} FP/scan", "nodule"].value == pytest.approx(value, abs=1e-12)
    cpm = found["CPM", "nodule"]
    assert cpm.value == found["CPM", "mean"].value == pytest.approx(np.mean(expected))
    assert (cpm.n, cpm.positives, cpm.patients) == (20, 52, 10)


def test_a_patient_drawn_twice_counts_twice() -> None:
    """The bootstrap's weights against a list in which the patient's scans stand twice under other names."""
    rows = rows_of(toy(2))
    weights = np.array([[{"p0": 2.0, "p2": 0.0}.get(row.patient, 1.0) for row in rows]])
    again = [replace(row, scan=f"again {row.scan}") for row in rows if row.patient == "p0"]
    drawn = candidates([row for row in [*rows, *again] if row.patient != "p2"])
    labels = Labels(("nodule",), (), (np.nan,), np.nan, False)
    statistics = Candidates(labels).statistics(rows, Chosen()).of
    for figure in drawn:
        assert statistics[figure.key](weights)[0] == pytest.approx(figure.value)


def test_without_lesions_there_is_no_curve() -> None:
    rows = [replace(row, lesion="", lesions=0) for row in rows_of(toy(0))]
    assert candidates(rows) == [] and candidates([]) == []


def test_a_probability_of_0_is_no_missed_lesion() -> None:
    row = CandidateCase("k", "p", "test", "nodule", 1.0, 0.0, "s", "1", 1)
    assert candidates([row])[0].value == 1.0
