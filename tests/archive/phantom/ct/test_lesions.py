"""What is annotated is what the mask shows, and lies where it should."""

from dataclasses import replace

import numpy as np
import pytest
from archive.phantom.ct.conftest import scan

from dira_scale.archive.phantom.ct.study import FINDING, ORGAN, Body


@pytest.mark.parametrize("kind", ["chest", pytest.param("abdomen", marks=pytest.mark.system)])
def test_annotation_agrees_with_the_mask(kind: str, request: pytest.FixtureRequest) -> None:
    subject: Body = request.getfixturevalue(kind)
    assert len(subject.lesions) >= 3
    for lesion in subject.lesions:
        alone = replace(subject, lesions=[lesion])
        spacing = lesion.diameter / 20
        study = scan(alone, lesion.middle, (44, 44, 44), spacing)
        marked = np.argwhere(study.mask == FINDING)
        (found,) = study.annotations
        diameter = (6 * len(marked) * spacing**3 / np.pi) ** (1 / 3)
        edge = 1.0 / lesion.diameter  # a fading edge of 1 mm moves the outline of small ones
        assert diameter == pytest.approx(found.diameter, rel=0.02 + 0.2 * edge)
        centre = study.grid.origin + marked.mean(0)[::-1] * spacing
        assert np.linalg.norm(centre - found.centre) < 0.03 * lesion.diameter
        z, y, x, d, h, w = found.box
        low, high = marked.min(0), marked.max(0) + 1
        np.testing.assert_allclose((z, y, x), low, atol=2)
        np.testing.assert_allclose((z + d, y + h, x + w), high, atol=2)


@pytest.mark.parametrize("kind", ["chest", "abdomen"])
def test_without_its_finding_the_place_is_organ(kind: str, request: pytest.FixtureRequest) -> None:
    subject: Body = request.getfixturevalue(kind)
    healthy = replace(subject, lesions=[])
    for lesion in subject.lesions:
        spacing = lesion.diameter / 12
        ill, well = (scan(b, lesion.middle, (28, 28, 28), spacing) for b in (subject, healthy))
        location = ill.mask == FINDING
        assert location.any() and (well.mask[location] == ORGAN).mean() > 0.97
        change = ill.voxels.astype(int) - well.voxels
        inside = np.median(change[location])
        assert inside > 80 if kind == "chest" else inside < -8
        assert np.abs(change[~(ill.mask == FINDING)]).mean() < 0.2 * np.abs(change[location]).mean() + 3


def test_one_smaller_than_a_voxel_still_has_one(chest: Body) -> None:
    small = min(chest.lesions, key=lambda lesion: lesion.diameter)
    study = scan(replace(chest, lesions=[small]), (0, 0, -130), (24, 30, 30), 13.0)
    (found,) = study.annotations
    at = tuple(np.rint(study.grid.index(found.centre)).astype(int))
    assert study.mask[at] == FINDING
    z, y, x, d, h, w = found.box
    assert z <= at[0] < z + d and y <= at[1] < y + h and x <= at[2] < x + w
