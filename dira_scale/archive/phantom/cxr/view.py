"""A patient's body as radiographs show it, and the projection geometry: from its points to image pixels.

Patient coordinates are millimetres: x to the patient's left (right in the image), y down from the lung apices,
z forward from the centre of the body.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dira_scale.archive.phantom.anatomy import Anatomy, Chest, StudyState, normal

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
        return Rotation.from_euler("yxz", (self.yaw, self.pitch, self.roll)).as_matrix()

    def pixels_per_mm(self, z: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Pixels per mm at depth z, including magnification."""
        distance = 130.0 - np.asarray(z) if self.front else 130.0 + np.asarray(z)  # from the detector
        return self.source / (self.source - distance) / self.spacing

    def project(self, points: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
        """Points [..., 3] in mm -> rows, columns (pixels) and pixels per mm there, each [...]."""
        x, y, z = np.moveaxis((np.asarray(points, float) - (*self.shift, 0.0)) @ self.rotation.T, -1, 0)
        scale = self.pixels_per_mm(z)
        middle = (self.size - 1) / 2
        return middle + y * scale, middle + x * scale, scale

    @cached_property
    def grid(self) -> tuple[Map, Map]:
        """The patient's (x, y) in mm in the plane z = 0 for every pixel; each [size, size]."""
        line = ((np.arange(self.size) - (self.size - 1) / 2) / self.pixels_per_mm(0.0)).astype(np.float32)
        c, s = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        x = c * line[None, :] + s * line[:, None] + np.float32(self.shift[0])
        y = c * line[:, None] - s * line[None, :] + np.float32(self.shift[1])
        return x, y


class Torso(Chest):
    """A chest with its patient's proportions, the same in all studies: mm, degrees, or relative to 1."""

    def __init__(self, anatomy: Anatomy, state: StudyState) -> None:
        super().__init__(anatomy, state)
        rng, male = np.random.default_rng((anatomy.seed, 2)), anatomy.sex == "M"
        old = float(np.clip((anatomy.age - 45) / 40, 0, 1))
        self.waist = normal(rng, 12, 12) + 0.3 * (anatomy.fat - 20)  # by which the flanks stand out
        self.shoulder = normal(rng, 17, 6)  # degrees by which the shoulders slope
        self.neck = normal(rng, 55 if male else 49, 5)  # half its width
        self.arms = normal(rng, 24, 10)  # distance of the arms from the chest
        self.sag = normal(rng, 0, 13) + 18 * old  # of the breasts
        self.bow = rng.uniform(-1.5, 1.5), rng.uniform(45, 85)  # of the spine: phase (rad), length of its curve
        self.kyphosis = normal(rng, 0, 0.06) + 0.1 * old  # radians by which the upper chest leans forward
        self.mineral = normal(rng, 1.05, 0.14) - 0.3 * old  # bone density
        self.rib = normal(rng, 1.0, 0.11) * (1.05 if male else 0.95)  # calibre
        self.spread = normal(rng, 1.0, 0.1)  # by which the arches of the ribs are rounder
        self.clavicle = normal(rng, 0, 9)  # rise of its outer end
        self.scapula = normal(rng, 0, 9), normal(rng, 0, 10)  # shift to the side and down
        self.apart = normal(rng, 0, 6), normal(rng, 0, 5)  # the heart's shift to the left and down
        self.ventricle = normal(rng, 1, 0.09), normal(rng, 1, 0.09)  # length and height of the left one
        self.atrium = normal(rng, 1, 0.12)  # width of the right one
        self.arch = normal(rng, 5.2, 0.35) - 0.3 * old  # level of the aortic arch (number of the vertebra)
        self.pedicle = normal(rng, 1, 0.14) + 0.004 * (anatomy.fat - 20)  # width of the upper mediastinum
        self.stomach = normal(rng, 0, 12), rng.uniform(0.7, 1.4)  # shift of its gas, and its shape

    def midline(self, y: NDArray | float) -> NDArray:
        """x of the middle of the spine at each height y (mm)."""
        phase, length = self.bow
        return self.anatomy.scoliosis * np.sin((np.asarray(y) - 90) / length + phase)
