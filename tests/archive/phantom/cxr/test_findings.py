"""Each finding changes the picture where its box says, in the direction that it should."""

from dataclasses import replace

import numpy as np
import pytest

from dira_scale.archive.phantom.anatomy import Anatomy, StudyState
from dira_scale.archive.phantom.cxr import radiograph
from dira_scale.archive.phantom.cxr.findings import DIFFUSE, LABELS, Finding, draw
from dira_scale.archive.phantom.cxr.projection import Exposure
from dira_scale.archive.phantom.cxr.view import View

OPAQUE = ("Consolidation", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pleural_Thickening", "Hernia")


@pytest.fixture
def anatomy() -> Anatomy:
    return replace(Anatomy.draw(np.random.default_rng(3)), scoliosis=0.0)


@pytest.fixture
def take(anatomy: Anatomy, monkeypatch: pytest.MonkeyPatch):
    """Pictures that differ by their findings alone: one pose, hardly any noise, no local equalisation."""
    view = View(256, shift=(0.0, 0.6 * anatomy.height))
    plain = Exposure(photons=1e10, scatter=0.0, equalise=0.0, detail=0.0)
    monkeypatch.setattr(radiograph, "_pose", lambda *_: (view, StudyState(), plain))
    return lambda *findings: radiograph.take(anatomy, list(findings), 256, np.random.default_rng(0))


@pytest.mark.parametrize("label", LABELS)
def test_finding_shows_inside_its_box(label: str, take) -> None:
    finding = Finding(label, side=-1, across=0.5, down=0.55, severity=0.8, seed=1)
    healthy, ill = take(), take(finding)
    change = ill.pixels.astype(int) - healthy.pixels.astype(int)
    assert np.abs(change).max() > 100
    if label in DIFFUSE:
        assert not ill.boxes
        return
    [(name, (y, x, h, w))] = ill.boxes
    assert name == label and 0 <= y < y + h <= 256 and 0 <= x < x + w <= 256
    inside = change[int(y) : int(y + h), int(x) : int(x + w)]
    outside = np.abs(change).sum() - np.abs(inside).sum()
    assert np.abs(inside).mean() > 2 * outside / (change.size - inside.size)
    if label in OPAQUE:
        assert inside.mean() > 0
    if label in ("Mass", "Nodule", "Effusion", "Consolidation", "Pneumothorax"):
        assert x + w / 2 < 128  # the patient's right is on the picture's left


def test_worse_is_larger(take) -> None:
    sizes = []
    for severity in (0.3, 0.6, 0.9):
        [(_, (_, _, h, w))] = take(Finding("Mass", 1, 0.5, 0.5, severity, 2)).boxes
        sizes.append(h * w)
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_pneumothorax_has_no_vessels_beyond_its_line(anatomy: Anatomy, take, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    keep = radiograph._line
    monkeypatch.setattr(radiograph, "_line", lambda lungs, rng: (seen.append(lungs), keep(lungs, rng))[1])
    take(Finding("Pneumothorax", -1, 0.5, 0.5, 0.9, 1))
    free = (seen[0].emptied == 1) & (seen[0].air > 8)
    assert free.sum() > 300
    assert seen[0].vessels[free].max() == 0
    assert seen[0].vessels[:, 128:].max() > 1  # the other lung keeps its own


def test_course_keeps_a_finding_in_its_place() -> None:
    for seed in range(40):
        studies = draw(np.random.default_rng(seed), 4)
        for label in LABELS:
            course = [f for study in studies for f in study if f.label == label]
            assert len({(f.side, f.across, f.down, f.seed) for f in course}) <= 1
            assert all(0.15 < f.severity <= 1 for f in course)
