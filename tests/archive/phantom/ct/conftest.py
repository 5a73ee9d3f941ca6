"""One chest and one abdomen on the couch, scanned without noise on grids that each test chooses."""

import numpy as np
import pytest

from dira_scale.archive.phantom.anatomy import Anatomy
from dira_scale.archive.phantom.ct.scanner import ScanGrid, Scanner
from dira_scale.archive.phantom.ct.study import Body, Patient, Study

QUIET = Scanner("SOFT", edge=1.0, sigma=0.0, grain=0.6)


def body(kind: str, seed: int) -> Body:
    rng = np.random.default_rng(seed)
    return Patient(Anatomy.draw(rng), kind, seed).body(0, rng)


def scan(subject: Body, centre: tuple[float, float, float], shape: tuple[int, int, int], spacing: float) -> Study:
    """A scan without noise; the trunk's origin is at the world's."""
    return subject.scan(ScanGrid.around(centre, shape, (spacing,) * 3), np.zeros(3), QUIET, 0)


def fewer(kind: str, seed: int) -> Body:
    """With few vessels in the lungs, which are most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dira_scale.archive.phantom.ct.chest.FED", 60)
        return body(kind, seed)


@pytest.fixture(scope="session")
def chest() -> Body:
    return fewer("thorax", 31)


@pytest.fixture(scope="session")
def abdomen() -> Body:
    return fewer("abdomen", 4)
