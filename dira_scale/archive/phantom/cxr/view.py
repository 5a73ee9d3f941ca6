"""A patient's body as radiographs show it, and the projection geometry: from its points to image pixels.

Patient coordinates are millimetres: x to the patient's left (right in the image), y down from the lung apices,
z forward from the centre of the body.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.anatomy import TAIL, Anatomy, Chest, StudyState

Map = NDArray[np.float32]  # [size, size]


@dataclass(frozen=True)
class View:
    """The patient's pose before the detector: a point source, a rigid rotation (radians) and a shift (mm)."""

    size: int
    field: float = 400.0  # mm per side of the square detector
    yaw: float = 0.0  # about the long axis: shoulders turned
    pitch: float = 0.0  # about the transverse axis: leaning
    roll: float = 0.0  # in the image plane
    shift: tuple[float, float] = (0.0, 140.0)  # the patient's (x, y) at the detector's centre
    front: bool = True  # the detector is at the chest (PA) rather than at the back (AP)
    source: float = 1800.0  # mm from focus to detector

    @property
    def spacing(self) -> float:
        """Millimetres per pixel on the detector."""
        return self.field / self.size

    @cached_property
    def rotation(self) -> NDArray[np.float64]:
        (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (self.yaw, self.pitch, self.roll))
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return roll @ pitch @ yaw

    def pixels_per_mm(self, z: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Pixels per mm at depth z, including magnification."""
        distance = 130.0 - np.asarray(z) if self.front else 130.0 + np.asarray(z)  # from the detector
        return self.source / (self.source - distance) / self.spacing

    def project(self, points: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
        """Points [..., 3] in mm -> rows, columns (pixels) and pixels per mm there, each [...]."""
        centred = np.asarray(points, float) - (*self.shift, 0.0)
        x, y, z = np.einsum("ij,...j->i...", self.rotation, centred)
        scale = self.pixels_per_mm(z)
        middle = (self.size - 1) / 2
        return middle + y * scale, middle + x * scale, scale

    @cached_property
    def grid(self) -> tuple[Map, Map]:
        """The patient's (x, y) in mm in the plane z = 0 for every pixel; each [size, size]."""
        line = (np.arange(self.size, dtype=np.float32) - np.float32((self.size - 1) / 2)) / np.float32(
            self.pixels_per_mm(0.0)
        )
        c, s = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        x = c * line[None, :] + s * line[:, None] + np.float32(self.shift[0])
        y = c * line[:, None] - s * line[None, :] + np.float32(self.shift[1])
        return x, y

    def coarse(self, factor: int) -> "View":
        """Return the view with `factor` times larger pixels."""
        return replace(self, size=-(-self.size // factor))


@dataclass(frozen=True)
class Build:
    """Proportions in mm, degrees, or relative to 1."""

    # trunk
    waist: float  # by which the flanks stand out
    shoulder: float  # degrees by which the shoulders slope
    neck: float  # half its width
    arms: float  # distance of the arms from the chest
    muscle: float  # thickness of the pectoral muscles
    breast: tuple[float, float]  # shift of the breasts to the sides and down
    uneven: float  # size of the left breast, relative to the right one's
    # bones
    bow: tuple[float, float]  # of the spine: phase (rad) and length (mm) of its curve
    kyphosis: float  # radians by which the upper chest leans forward
    mineral: float  # bone density
    rib: float  # calibre of the ribs
    spread: float  # by which the arches of the ribs are rounder
    cartilage: float  # 0 ... 1, calcified costal cartilage
    clavicle: tuple[float, float, float]  # rise of its outer end, its bend, its calibre
    scapula: tuple[float, float]  # shift to the side and down
    # heart and vessels
    heart: tuple[float, float]  # shift to the left and down
    ventricle: tuple[float, float]  # length and height of the left ventricle
    atrium: float  # width of the right one
    arch: float  # level of the aortic arch (number of the vertebra)
    unfolded: float  # 0 ... 1, elongated aorta
    calcified: float  # 0 ... 1, of the arch
    trunk: float  # pulmonary
    pedicle: float  # width of the upper mediastinum
    hila: tuple[tuple[float, float], tuple[float, float]]  # shift of the right and left one outwards and down
    # below the diaphragm
    hump: tuple[float, float, float]  # of the right dome: place (0 middle, 1 wall), height, half width
    stomach: tuple[float, float]  # shift of its gas, and its shape
    colon: float  # 0 ... 1, gas in the left flexure

    @classmethod
    def draw(cls, anatomy: Anatomy) -> "Build":
        rng = np.random.default_rng((anatomy.seed, 2))
        old = float(np.clip((anatomy.age - 45) / 40, 0, 1))

        def normal(mean: float, deviation: float) -> float:
            return mean + deviation * float(np.clip(rng.normal(), -TAIL, TAIL))

        def uniform(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        male = anatomy.sex == "M"
        return cls(
            waist=normal(12, 12) + 0.3 * (anatomy.fat - 20),
            shoulder=normal(17, 6),
            neck=normal(55 if male else 49, 5),
            arms=normal(24, 10),
            muscle=uniform(3, 12) if male else uniform(1, 5),
            breast=(normal(0, 9), normal(0, 13) + 18 * old),
            uneven=normal(1, 0.08),
            bow=(uniform(-1.5, 1.5), uniform(45, 85)),
            kyphosis=normal(0, 0.06) + 0.1 * old,
            mineral=normal(1.05, 0.14) - 0.3 * old,
            rib=normal(1.0, 0.11) * (1.05 if male else 0.95),
            spread=normal(1.0, 0.1),
            cartilage=uniform(0, 1) * old,
            clavicle=(normal(0, 9), normal(1, 0.5), normal(1.0 if male else 0.88, 0.1)),
            scapula=(normal(0, 9), normal(0, 10)),
            heart=(normal(0, 6), normal(0, 5)),
            ventricle=(normal(1, 0.09), normal(1, 0.09)),
            atrium=normal(1, 0.12),
            arch=normal(5.2, 0.35) - 0.3 * old,
            unfolded=uniform(0.2, 1.2) * old,
            calcified=max(0.0, uniform(-0.5, 1.2)) * old,
            trunk=normal(1, 0.16),
            pedicle=normal(1, 0.14) + 0.004 * (anatomy.fat - 20),
            hila=((normal(0, 5), normal(0, 6)), (normal(0, 5), normal(0, 6))),
            hump=(uniform(0.2, 0.7), max(0.0, normal(-4, 10)), uniform(30, 55)),
            stomach=(normal(0, 12), uniform(0.7, 1.4)),
            colon=max(0.0, uniform(-1, 1)),
        )


class Torso(Chest):
    """A chest with the build of its patient."""

    def __init__(self, anatomy: Anatomy, state: StudyState) -> None:
        super().__init__(anatomy, state)
        self.build = Build.draw(anatomy)

    def midline(self, y: NDArray | float) -> NDArray:
        """x of the middle of the spine at each height y (mm)."""
        phase, length = self.build.bow
        return self.anatomy.scoliosis * np.sin((np.asarray(y) - 90) / length + phase)
