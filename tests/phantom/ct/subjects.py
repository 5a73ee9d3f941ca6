"""Bodies on the couch, scanned without noise."""

import numpy as np

from dira_scale.phantom.anatomy import Anatomy
from dira_scale.phantom.ct.grid import ScanGrid
from dira_scale.phantom.ct.scanner import Scanner
from dira_scale.phantom.ct.study import Body, Patient, Study

QUIET = Scanner("SOFT", edge=1.0, sigma=0.0, frequency=0.4)


def body(kind: str, seed: int) -> Body:
    rng = np.random.default_rng(seed)
    return Patient(Anatomy.draw(rng), kind, seed).body(0, rng)


def scan(subject: Body, centre: tuple[float, float, float], shape: tuple[int, int, int], spacing: float) -> Study:
    """Without noise, the trunk's origin at the world's."""
    return subject.scan(ScanGrid.around(centre, shape, (spacing,) * 3), np.zeros(3), QUIET, 0)
