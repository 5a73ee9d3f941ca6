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
from dira_scale.archive.phantom.ct.scanner import FIELD, SLICE_SHARE, SLICES, Noise, ScanGrid, Scanner, stored
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
    centre: tuple[float, float, float]
    diameter: float
    box: tuple[float, float, float, float, float, float]  # z, y, x, d, h, w in voxels


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
        plain, arterial = (0.6, 1.0) if self.kind == "thorax" else (0.2, 0.2)
        chance = rng.random()
        contrast = tissue.PLAIN if chance < plain else tissue.ARTERIAL if chance < arterial else tissue.VENOUS
        trunk = Trunk(self.anatomy, state, contrast)
        chest, belly = Thorax(trunk), Belly(trunk)
        organ = chest.lungs if self.kind == "thorax" else belly.liver
        grown = (replace(lesion, radius=lesion.radius * lesion.growth**study) for lesion in self.lesions)
        return Body(
            self.kind,
            trunk,
            chest,
            belly,
            Skeleton(trunk),
            [m for lesion in grown if (m := lesion.measured(trunk, organ))],
        )


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
        wide = 2 * float(middle.body_a)
        pixel = round(float(np.clip(wide * rng.uniform(0.94, 1.12), *FIELD)) / size, 4)
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
        cuts, noise = scanner.cuts(grid), Noise(scanner, grid, seed)
        voxels, mask = np.empty(grid.shape, np.int16), np.empty(grid.shape, np.uint8)
        z, y, x = (grid.line(axis) - placed[2 - axis] for axis in range(3))
        fine = ((np.arange(cuts) + 0.5) / cuts - 0.5) * grid.spacing[0]
        edge = scanner.blur(grid)
        couch = self.trunk.couch((z, y, x), edge)
        step = max(1, VOXELS // (len(y) * len(x) * cuts))
        for first in range(0, len(z), step):
            slices = z[first : first + step]
            lines = (slices[:, None] + fine).ravel(), y, x
            painted = np.zeros((3, len(lines[0]), len(y), len(x)), np.float32)  # HU, organ, finding
            painted[0] = couch
            if slab := self.trunk.slab(lines, edge, *painted):
                self.paint(slab)
            hu, organ, finding = painted.reshape(3, len(slices), cuts, len(y), len(x)).mean(2)
            for number, plane in enumerate(hu, first):
                voxels[number] = stored(noise.add(plane, number))
            part = mask[first : first + step]
            np.multiply(organ >= 0.5, ORGAN, out=part, casting="unsafe")
            part[finding >= 0.5] = FINDING
        annotations = []
        for lesion in self.lesions:
            cx, cy, cz = (float(v) for v in np.asarray(lesion.middle) + placed)
            index = np.rint(grid.index((cx, cy, cz)))
            if (index < 0).any() or (index >= grid.shape).any():  # its middle is outside the grid
                continue
            mask[tuple(index.astype(int))] = FINDING  # a finding smaller than a voxel still gets one
            low, high = (grid.index(np.array([edge[i] for edge in lesion.extent]) + placed) + 0.5 for i in (0, 1))
            low, high = np.floor(np.maximum(low, 0)), np.ceil(np.minimum(high, grid.shape))
            box = tuple(float(v) for v in (*low, *(high - low)))
            annotations.append(Annotation(lesion.kind, (cx, cy, cz), lesion.diameter, box))  # type: ignore[arg-type]
        return Study(voxels, mask, grid, tuple(annotations), scanner, self.trunk.contrast is not tissue.PLAIN)

    def paint(self, slab: Slab) -> None:
        """Paint everything, from the outside inwards."""
        trunk = self.trunk
        trunk.body(slab)
        if inner := trunk.inner(slab):
            at = Points(trunk, inner.x, inner.y, inner.z)
            inner.paint(at.cavity, tissue.FAT + 5)
            liver, lungs = self.belly.paint(inner, at), self.chest.paint(inner, at)
            organ = lungs if self.kind == "thorax" else liver
            inner.organ[...] = inner.cover(organ)
            for lesion in self.lesions:
                lesion.paint(inner, organ, trunk)
        self.skeleton.paint(slab)
