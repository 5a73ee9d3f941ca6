"""A thorax: the parameters of one patient, and the surfaces that radiographs and CT share.

Shapes are drawn from typical adult proportions: a plausible chest, nobody's in particular.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

RIB_ENDS = (165, 158, 153, 150, 148, 146, 142, 134, 124, 112, 78, 58, 44)  # degrees, spine to each anterior end
PAIRS_OF_RIBS = (11, 12, 13), (0.06, 0.88, 0.06)  # and their shares
TAIL = 2.3  # normal values are cut off here, in standard deviations: rare bodies, no impossible ones


@dataclass(frozen=True)
class Anatomy:
    """The anatomy of one patient, constant over all studies (mm)."""

    sex: str
    age: int
    width: float  # half the rib cage, inside
    height: float  # lung apex to right dome, full inspiration
    depth: float  # front to back, inside
    fat: float
    breast: float
    heart: float  # relative size
    aorta: float  # radius of the arch
    scoliosis: float  # largest shift of the spine to a side
    apex: float  # half the distance of the lungs' tops
    opening: float  # how quickly the rib cage widens below the apex
    taper: float  # its change of width from top to base, relative: a pear or a wedge
    rise: float  # of the domes
    uneven: float  # by which the right dome is higher than the left
    lie: float  # degrees by which the heart is more horizontal
    slope: float  # how steeply the ribs fall
    ribs: int  # pairs
    seed: int  # of the vessel tree and other details

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        sex = "M" if rng.random() < 0.55 else "F"
        age = int(np.clip(rng.normal(52, 17), 18, 95))
        male, fat = sex == "M", float(np.clip(rng.gamma(2.2, 9.0), 4, 58))
        slender = normal(rng, 0, 1)  # long and narrow rather than short and broad
        width = normal(rng, 143 if male else 131, 6) - 5 * slender
        height = normal(rng, 206 if male else 190, 9) + 9 * slender
        depth = normal(rng, 168 if male else 154, 10) - 5 * slender + 0.12 * age
        breast = 0.0 if male else float(rng.uniform(4, 20) + 0.45 * fat)
        heart, aorta = normal(rng, 1.0, 0.075), 10.5 + 0.07 * age + normal(rng, 0, 1.6)
        scoliosis, apex = normal(rng, 0, 3 if rng.random() < 0.8 else 10), normal(rng, 46, 4)
        opening, taper = float(rng.uniform(1.9, 3.7)), normal(rng, 0, 0.09)
        rise, uneven = normal(rng, 52, 9), normal(rng, 13, 7)
        lie, slope = normal(rng, 0, 6) - 5 * slender + 0.25 * (fat - 20), normal(rng, 1.0, 0.2)
        ribs, seed = int(rng.choice(PAIRS_OF_RIBS[0], p=PAIRS_OF_RIBS[1])), int(rng.integers(2**31))
        shape = scoliosis, apex, opening, taper, rise, uneven, lie, slope
        return cls(sex, age, width, height, depth, fat, breast, heart, aorta, *shape, ribs, seed)


def normal(rng: np.random.Generator, mean: float, deviation: float) -> float:
    return mean + deviation * float(np.clip(rng.normal(), -TAIL, TAIL))


@dataclass(frozen=True)
class StudyState:
    """The changes to the anatomy due to a study's breath and findings."""

    domes: tuple[float, float] = (0.0, 0.0)  # mm by which the (right, left) dome is higher
    flat: float = 0.0  # 0 ordinary domes, 1 flat ones
    heart: float = 1.0
    vessels: float = 1.0  # calibre
    pruned: float = 0.0  # share of the peripheral vessels that are lost
    shrug: float = 0.0  # mm by which the shoulders are raised


class Chest:
    """The surfaces of one patient in one study, as functions of height y (mm below the apices)."""

    def __init__(self, anatomy: Anatomy, state: StudyState) -> None:
        self.anatomy, self.state = anatomy, state
        self.width, self.heart = anatomy.width, anatomy.heart * state.heart

    def lateral(self, y: NDArray) -> NDArray:
        """Inner face of the rib cage, |x|."""
        v = np.clip(np.asarray(y, float) / (self.anatomy.height * 1.08), 0, 1.2)
        opening = np.sqrt(np.clip(1 - (1 - np.minimum(v, 1)) ** self.anatomy.opening, 0, 1))
        widened = (self.width - self.anatomy.apex) * opening * (1 + self.anatomy.taper * (v - 0.6))
        return self.anatomy.apex + widened - 70 * np.clip(v - 0.98, 0, 1) ** 2 * 4

    def medial(self, y: NDArray) -> NDArray:
        """Medial border of the pleura beside the mediastinum, |x|."""
        v = np.clip(np.asarray(y, float) / (0.42 * self.anatomy.height), 0, 1)
        return self.anatomy.apex - (self.anatomy.apex - 6) * np.sqrt(1 - (1 - v) ** 2)

    def depth(self, y: NDArray) -> NDArray:
        """Front to back, inside."""
        v = np.clip(np.asarray(y, float) / self.anatomy.height, 0, 1.4)
        return self.anatomy.depth * (0.42 + 0.58 * np.sin(np.minimum(v * 1.9, np.pi / 2)))

    def vertebra(self, number: NDArray | float) -> NDArray:
        """Height y of the centre of thoracic vertebra 1 ... 12 (13 = L1, 0 = C7, fractions between)."""
        unit = self.anatomy.height / 206
        n = np.asarray(number, float) - 1
        return -10 + unit * (21.5 * n + 0.36 * np.maximum(n, 0) ** 2 - 2.5 * np.minimum(n, 0))

    def dome(self, side: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Centre and semi-axes of a hemidiaphragm's ellipsoid; side -1 right, +1 left."""
        right = side < 0
        top = self.anatomy.height + (0 if right else self.anatomy.uneven) - self.state.domes[0 if right else 1]
        rise = self.anatomy.rise * (1 - 0.6 * self.state.flat)
        half = self.width * 0.535
        return (side * (self.width + 1.5 - half), top + rise, -4.0), (half, rise, self.anatomy.depth)


def curve(points: NDArray, samples: int = 16) -> NDArray:
    """Smooth curves [T, samples, ...] through T rows of control points [T, M, ...] (a polyline would gape at bends)."""
    return CubicSpline(np.linspace(0, 1, points.shape[1]), points, axis=1)(np.linspace(0, 1, samples))
