"""One study of one patient: build the trunk, place it in a scanner, scan it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.anatomy import Anatomy, StudyState
from dira_scale.archive.phantom.ct import lesions as lesions_
from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.belly import Belly
from dira_scale.archive.phantom.ct.chest import Thorax
from dira_scale.archive.phantom.ct.lesions import Lesion
from dira_scale.archive.phantom.ct.scanner import BITS, FIELD, SLICE_SHARE, SLICES, ScanGrid, Scanner
from dira_scale.archive.phantom.ct.skeleton import Skeleton
from dira_scale.archive.phantom.ct.slab import Slab
from dira_scale.archive.phantom.ct.trunk import Points, Trunk

KINDS = {"thorax": lesions_.NODULES, "abdomen": lesions_.LESIONS}  # and their findings
VOXELS = 400_000  # painted at a time, to fit a cache
ORGAN, FINDING = 1, 2  # values of the mask: lungs and nodules, or liver and lesions


@dataclass(frozen=True)
class Annotation:
    """The annotation of a finding: position (x, y, z) and diameter in mm, LPS."""

    kind: str
    centre: tuple[float, ...]
    diameter: float
    box: tuple[float, ...]  # z, y, x, d, h, w in voxels


@dataclass(frozen=True)
class Study:
    """A finished volume."""

    voxels: NDArray[np.int16]  # HU [Z, Y, X]
    mask: NDArray[np.uint8]  # 0, ORGAN, FINDING
    grid: ScanGrid
    annotations: tuple[Annotation, ...]
    scanner: Scanner
    enhanced: bool  # with contrast medium


class Patient:
    """A patient's constants over all studies."""

    def __init__(self, anatomy: Anatomy, kind: str, seed: int) -> None:
        self.anatomy, self.kind = anatomy, kind
        rng, trunk = np.random.default_rng(seed), Trunk(anatomy, StudyState(), tissue.PLAIN)
        thorax = kind == "thorax"
        self.lesions = lesions_.nodules(Thorax(trunk), rng) if thorax else lesions_.lesions(Belly(trunk), rng)

    def body(self, study: int, rng: np.random.Generator) -> "Body":
        """The body in one study: depth of breath, contrast phase, growth of lesions."""
        breath = float(rng.gamma(2.0, 4.0))
        state = StudyState(domes=(breath, breath + float(rng.normal(0, 2))), heart=1 + 0.002 * breath)
        plain, enhanced = (0.6, tissue.ARTERIAL) if self.kind == "thorax" else (0.2, tissue.VENOUS)
        trunk = Trunk(self.anatomy, state, tissue.PLAIN if rng.random() < plain else enhanced)
        chest, belly = Thorax(trunk), Belly(trunk)
        organ = chest.lungs if self.kind == "thorax" else belly.liver
        grown = (replace(lesion, radius=lesion.radius * lesion.growth**study) for lesion in self.lesions)
        lesions = [m for lesion in grown if (m := lesion.measured(trunk, organ))]
        return Body(self.kind, trunk, chest, belly, Skeleton(trunk), lesions)


@dataclass(frozen=True)
class Body:
    """A patient on the scanner's couch."""

    kind: str
    trunk: Trunk
    chest: Thorax
    belly: Belly
    skeleton: Skeleton
    lesions: list[Lesion]

    def field(self, size: int, rng: np.random.Generator) -> tuple[ScanGrid, NDArray[np.float64]]:
        """The grid [slices, size, size] of a typical scan, and the position (x, y, z) of the trunk's origin.

        Slices are not thinner than a pixel, so that a small size gives a small volume.
        """
        trunk, anatomy = self.trunk, self.trunk.anatomy
        middle = trunk.outline(-150.0)
        pixel = round(float(np.clip(2 * middle.body_a * rng.uniform(0.94, 1.12), *FIELD)) / size, 4)
        if self.kind == "thorax":
            top = float(rng.uniform(5, 20))
            bottom = -anatomy.height - anatomy.rise - float(rng.uniform(25, 45))
        else:
            top, bottom = self.belly.top + float(rng.uniform(8, 35)), trunk.level(16.0) - float(rng.uniform(0, 25))
        apart = max(float(rng.choice(SLICES, p=SLICE_SHARE)), pixel)
        placed = np.array([rng.normal(0, 5), rng.uniform(-180, -130), rng.uniform(-900, 900)])
        centre = placed + np.array([0, float(middle.front + middle.back) / 2 + rng.normal(8, 5), (top + bottom) / 2])
        shape = (max(int((top - bottom) / apart), 4), size, size)
        return ScanGrid.around(centre, shape, (apart, pixel, pixel)), placed

    def scan(self, grid: ScanGrid, placed: NDArray, scanner: Scanner, seed: int) -> Study:
        """Scan ``grid`` of the trunk with its origin at ``placed``."""
        voxels, mask = np.empty(grid.shape, np.int16), np.zeros(grid.shape, np.uint8)
        z, y, x = (grid.line(axis) - placed[2 - axis] for axis in range(3))
        edge, step = max(scanner.edge, grid.spacing[1]), max(1, VOXELS // (len(y) * len(x)))
        for first in range(0, len(z), step):
            lines = z[first : first + step], y, x
            painted = np.zeros((3, *map(len, lines)), np.float32)
            hu, organ, finding = painted
            hu += tissue.AIR
            if slab := self.trunk.slab(lines, edge, hu, organ, finding):
                self.paint(slab)
            for number, plane in enumerate(hu, first):
                voxels[number] = np.clip(np.rint(plane + scanner.noise(grid, seed, number)), *BITS)
            mask[first : first + step][organ >= 0.5] = ORGAN
            mask[first : first + step][finding >= 0.5] = FINDING
        annotations = []
        for lesion in self.lesions:
            centre = lesion.middle + placed
            index = np.rint(grid.index(centre)).astype(int)
            if (index < 0).any() or (index >= grid.shape).any():  # its middle is outside the grid
                continue
            mask[tuple(index)] = FINDING  # a finding smaller than a voxel still gets one
            low, high = (grid.index(corner + placed) + 0.5 for corner in lesion.extent)
            low, high = np.floor(np.maximum(low, 0)), np.ceil(np.minimum(high, grid.shape))
            annotations.append(Annotation(lesion.kind, tuple(centre), lesion.diameter, (*low, *(high - low))))
        return Study(voxels, mask, grid, tuple(annotations), scanner, self.trunk.contrast is not tissue.PLAIN)

    def paint(self, slab: Slab) -> None:
        """Paint everything, from the outside inwards."""
        self.trunk.body(slab)
        o = self.trunk.outline(slab.lines[0])
        wide, deep = float(o.cavity_a.max()) + 4, float(o.cavity_b.max()) + 6
        if inner := slab.part((-wide, -deep, -np.inf), (wide, deep, np.inf)):
            at = Points(self.trunk, *inner.places)
            inner.paint(at.cavity, tissue.FAT + 5)
            liver, lungs = self.belly.paint(inner, at), self.chest.paint(inner, at)
            inner.organ[...] = inner.cover(lungs if self.kind == "thorax" else liver)
            for lesion in self.lesions:
                lesion.paint(inner, self.trunk)
        self.skeleton.paint(slab)
