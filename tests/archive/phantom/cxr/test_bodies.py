"""Patients' bodies differ, a patient's own studies share theirs."""

import numpy as np
import pytest

from dira_scale.archive.phantom.anatomy import Anatomy
from dira_scale.archive.phantom.cxr import radiograph
from dira_scale.shard.curate.audit.twins import compare, near_twins

SIDE = 64  # pixels: the audit compares these


def patient(number: int) -> Anatomy:
    """That of the default recipe's patient."""
    return Anatomy.draw(np.random.default_rng(np.random.SeedSequence(0, spawn_key=(number,)).spawn(1)[0]))


def thumbnail(anatomy: Anatomy, study: int = 0) -> np.ndarray:
    """A study of a healthy patient, [1, SIDE, SIDE] in [0, 1]."""
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
