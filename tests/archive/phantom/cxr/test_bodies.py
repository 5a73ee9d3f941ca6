"""Patients' bodies differ, a patient's own studies share theirs: anatomy and implants."""

from itertools import pairwise

import numpy as np
import pytest

from dira_scale.archive.phantom.anatomy import Anatomy, StudyState
from dira_scale.archive.phantom.cxr import devices, radiograph
from dira_scale.archive.phantom.cxr.view import Torso, View
from dira_scale.shard.curate.audit.twins import compare, near_twins

SIDE = 64  # pixels: the audit compares these


def patient(number: int) -> Anatomy:
    """That of the default recipe's patient."""
    return Anatomy.draw(np.random.default_rng(np.random.SeedSequence(0, spawn_key=(number,)).spawn(1)[0]))


def thumbnail(anatomy: Anatomy, study: int = 0) -> np.ndarray:
    """A study of a healthy patient without implants, [1, SIDE, SIDE] in [0, 1]."""
    rng = np.random.default_rng((anatomy.seed, study))
    return radiograph.take(anatomy, [], SIDE, rng).pixels.astype(np.float32)[None] / 4095


@pytest.mark.system
def test_no_two_patients_are_near_duplicates_for_the_audit() -> None:
    pictures = np.stack([thumbnail(patient(number)) for number in range(200)])
    assert near_twins(pictures, np.arange(len(pictures)), len(pictures)) == []


def test_own_studies_are_more_alike_than_those_of_others() -> None:
    first, second = ([thumbnail(patient(number), study) for number in range(30)] for study in range(2))
    own = [compare(a, b)[1] for a, b in zip(first, second, strict=True)]
    others = [compare(a, b)[1] for shift in (1, 2) for a, b in zip(first, np.roll(second, shift, 0), strict=True)]
    assert np.median(own) > np.percentile(others, 90)


def test_implants_stay_from_their_first_study_on() -> None:
    new = 0
    for seed in range(300):
        courses = devices.draw(np.random.default_rng(seed), 70, 4)
        for before, after in pairwise(courses):
            assert set(before) <= set(after)
        new += courses[0] != courses[-1]
    assert 10 < new < 150


@pytest.mark.parametrize("kind", devices.IMPLANTS)
def test_an_implant_is_seen_at_the_same_place_in_every_study(kind: str) -> None:
    anatomy = patient(2)
    view = View(192, shift=(0.0, 0.6 * anatomy.height))
    implant = devices.Implant(kind, seed=5)
    chest, breath = Torso(anatomy, StudyState()), Torso(anatomy, StudyState(domes=(12.0, 12.0), shrug=6.0))
    first, second = (devices.IMPLANTS[kind][1](c, view, np.random.default_rng(implant.seed)) for c in (chest, breath))
    assert first.max() > 0.2
    np.testing.assert_array_equal(first, second)
    plain, with_it = (
        radiograph.take(anatomy, [], 192, np.random.default_rng(1), implants) for implants in ((), (implant,))
    )
    change = with_it.pixels.astype(int) - plain.pixels
    drawn = devices.IMPLANTS[kind][1](chest, with_it.view, np.random.default_rng(implant.seed)) > 0.3
    assert change[drawn].mean() > 100 and abs(change[~drawn].mean()) < 40
