"""The 14 findings of ChestX-ray14, drawn into the anatomy before projection.

A finding first changes the chest (a larger heart, a higher dome: `prepare`), then replaces air by tissue or tissue by
air (painters.py). Its location is fixed per patient; its severity changes between studies.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dira_scale.archive.phantom.anatomy import StudyState
from dira_scale.archive.phantom.cxr.view import Map, Torso, View

PREVALENCE = {  # relative; roughly in the order of ChestX-ray14's counts, rare ones raised
    "Atelectasis": 10, "Cardiomegaly": 7, "Effusion": 12, "Infiltration": 12, "Mass": 6, "Nodule": 8, "Pneumonia": 5,
    "Pneumothorax": 6, "Consolidation": 6, "Edema": 4, "Emphysema": 4, "Fibrosis": 4, "Pleural_Thickening": 5,
    "Hernia": 2,
}  # fmt: skip
LABELS = tuple(PREVALENCE)
DIFFUSE = {"Edema", "Emphysema"}  # affect the whole lung: no box
# The small mixture: range of severity, and relative size. Patches of two to five centimetres anywhere in the lungs,
# visible at 96 pixels, but hardly to 16 x 16 pixels and random features (docs/evidence/learning.md).
SMALL: dict[str, tuple[tuple[float, float], float]] = {
    "Mass": ((0.0, 0.5), 1.0), "Pneumonia": ((0.5, 1.0), 0.5), "Consolidation": ((0.5, 1.0), 0.5)
}  # fmt: skip
SMALL_SHARE = 0.25  # share of patients with each: a few hundred labelled images contain enough of both classes


@dataclass(frozen=True)
class Finding:
    """One finding of one patient in one study."""

    label: str
    side: int  # -1 right, +1 left
    across: float  # 0 at the mediastinum, 1 at the chest wall
    down: float  # 0 at the apex, 1 at the dome
    severity: float  # 0 ... 1
    seed: int
    scale: float = 1.0  # of its extent, for localised findings


@dataclass
class Lungs:
    """The maps that findings paint on, [size, size] each."""

    view: View
    chest: Torso
    air: Map  # mm of aerated lung
    vessels: Map  # mm of blood
    heart: Map  # mm
    filled: Map  # share of the air that is replaced by tissue
    solid: Map  # mm of tissue replacing air
    emptied: Map  # share of lung tissue lost (1 = free air)

    def position(self, finding: Finding) -> tuple[float, float]:
        """(x, y) in mm of a finding's centre."""
        y = finding.down * (self.chest.dome(finding.side)[0][1] - self.chest.dome(finding.side)[1][1])
        inner, outer = float(self.chest.medial(np.array(y))) + 12, float(self.chest.lateral(np.array(y)))
        return finding.side * (inner + finding.across * (outer - inner)), y

    def half(self, side: int) -> Map:
        """1 in the lung on one side."""
        return (self.view.grid[0] * side > 0).astype(np.float32)


def draw(rng: np.random.Generator, studies: int) -> list[list[Finding]]:
    """A patient's findings per study: usually none or one, each with an onset and a course."""
    courses: list[list[Finding]] = [[] for _ in range(studies)]
    count = int(rng.choice(5, p=(0.38, 0.32, 0.18, 0.09, 0.03)))
    weights = np.array(list(PREVALENCE.values()), float)
    for label in rng.choice(LABELS, count, replace=False, p=weights / weights.sum()):
        side, across, down = int(rng.choice((-1, 1))), float(rng.uniform(0.25, 0.8)), float(rng.uniform(0.2, 0.88))
        severity, trend, onset = rng.uniform(0.25, 1.0), rng.normal(0, 0.25), int(rng.integers(studies))
        seed = int(rng.integers(2**31))
        for study in range(onset if rng.random() < 0.5 else 0, studies):
            now = float(np.clip(severity + trend * (study - onset), 0, 1))
            if now > 0.15:
                courses[study].append(Finding(str(label), side, across, down, now, seed))
    return courses


def draw_small(rng: np.random.Generator, studies: int) -> list[list[Finding]]:
    """Draw findings of the small mixture as ``draw`` does, but independent, and equal in all studies."""
    present = []
    for label, (severities, scale) in SMALL.items():
        has, side = rng.random() < SMALL_SHARE, int(rng.choice((-1, 1)))
        across, down, severity = (float(rng.uniform(*span)) for span in ((0.2, 0.85), (0.15, 0.9), severities))
        finding = Finding(label, side, across, down, severity, int(rng.integers(2**31)), scale)
        present += [finding] if has else []
    return [present] * studies


# By name of the mixture: its findings, and the function that draws a patient's.
MIXTURES: dict[str, tuple[tuple[str, ...], Callable[[np.random.Generator, int], list[list[Finding]]]]] = {
    "all": (LABELS, draw),
    "small": (tuple(SMALL), draw_small),
}


def prepare(finding: Finding, state: StudyState) -> StudyState:
    """The chest's state changed by the finding."""
    s, right, left = finding.severity, *state.domes
    lift, low = 8 + 18 * s, 8 + 12 * s
    changes: dict[str, dict[str, Any]] = {
        "Cardiomegaly": {"heart": state.heart * (1.16 + 0.2 * s)},
        "Atelectasis": {"domes": (right + lift * (finding.side < 0), left + lift * (finding.side > 0))},
        "Edema": {"vessels": state.vessels * (1.15 + 0.25 * s), "heart": state.heart * 1.07},
        "Emphysema": {"domes": (right - low, left - low), "flat": 0.4 + 0.5 * s, "pruned": 0.2 + 0.3 * s},
        "Fibrosis": {"domes": (right + 10 * s, left + 10 * s)},
    }
    return replace(state, **changes.get(finding.label, {}))
