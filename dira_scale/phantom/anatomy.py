"""A thorax: the parameters of one patient, and the surfaces that radiographs and CT share.

Shapes are drawn from typical adult proportions: a plausible chest, nobody's in particular.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

RIB_ENDS = (165, 158, 153, 150, 148, 146, 142, 134, 124, 112, 78)  # degrees from the spine to each anterior end


@dataclass(frozen=True)
class Anatomy:
    """What is constant over all studies of one patient (mm)."""

    sex: str
    age: int
    width: float  # half the rib cage, inside
    height: float  # lung apex to right dome, full inspiration
    depth: float  # front to back, inside
    fat: float
    breast: float
    heart: float  # relative size
    aorta: float  # radius of the arch
    scoliosis: float
    opening: float  # how quickly the rib cage widens below the apex
    rise: float  # of the domes
    lie: float  # degrees by which the heart is more horizontal
    slope: float  # how steeply the ribs fall
    seed: int  # of the vessel tree and other details

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        sex = "M" if rng.random() < 0.55 else "F"
        age = int(np.clip(rng.normal(52, 17), 18, 95))
        male, fat = sex == "M", float(np.clip(rng.gamma(3.0, 6.0), 5, 50))
        return cls(
            sex=sex,
            age=age,
            width=float(rng.normal(143 if male else 131, 5)),
            height=float(rng.normal(206 if male else 190, 9)),
            depth=float(rng.normal(172 if male else 158, 9)),
            fat=fat,
            breast=0.0 if male else float(rng.uniform(10, 20) + 0.4 * fat),
            heart=float(rng.normal(1.0, 0.05)),
            aorta=float(10.5 + 0.07 * age + rng.normal(0, 1.2)),
            scoliosis=float(rng.normal(0, 3)),
            opening=float(rng.uniform(2.2, 3.3)),
            rise=float(rng.normal(52, 6)),
            lie=float(rng.normal(0, 5)),
            slope=float(rng.normal(1.0, 0.08)),
            seed=int(rng.integers(2**31)),
        )


@dataclass(frozen=True)
class State:
    """How a study's breath and findings change the anatomy."""

    domes: tuple[float, float] = (0.0, 0.0)  # mm by which the (right, left) dome is higher
    flat: float = 0.0  # 0 ordinary domes, 1 flat ones
    widened: float = 1.0  # rib cage
    heart: float = 1.0
    vessels: float = 1.0  # calibre
    pruned: float = 0.0  # share of the peripheral vessels that are lost

    def change(self, **values: Any) -> "State":
        """A copy with some values replaced."""
        return replace(self, **values)


class Chest:
    """The surfaces of one patient in one study, as functions of height y (mm below the apices)."""

    def __init__(self, anatomy: Anatomy, state: State) -> None:
        self.anatomy, self.state = anatomy, state
        self.width = anatomy.width * state.widened
        self.heart = anatomy.heart * state.heart

    def lateral(self, y: NDArray) -> NDArray:
        """Inner face of the rib cage, |x|."""
        v = np.clip(np.asarray(y, float) / (self.anatomy.height * 1.08), 0, 1.2)
        opening = np.sqrt(np.clip(1 - (1 - np.minimum(v, 1)) ** self.anatomy.opening, 0, 1))
        return 46 + (self.width - 46) * opening - 70 * np.clip(v - 0.98, 0, 1) ** 2 * 4

    def medial(self, y: NDArray) -> NDArray:
        """Medial border of the pleura beside the mediastinum, |x|."""
        v = np.clip(np.asarray(y, float) / (0.42 * self.anatomy.height), 0, 1)
        return 46 - 40 * np.sqrt(1 - (1 - v) ** 2)

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
        top = self.anatomy.height + (0 if right else 13) - self.state.domes[0 if right else 1]
        rise = self.anatomy.rise * (1 - 0.6 * self.state.flat)
        half = self.width * 0.535
        return (side * (self.width + 1.5 - half), top + rise, -4.0), (half, rise, self.anatomy.depth)
