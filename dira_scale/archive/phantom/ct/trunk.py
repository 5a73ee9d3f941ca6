"""A patient's trunk: outlines of body and cavity by height, the reference for placing everything else.

Frame: x to the patient's left, y to the back, z to the head, mm; z = 0 at the lung apices, x = y = 0 amid the chest.
Proportions as in the phantom radiographs (`phantom.anatomy`), continued to the pelvis.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from dira_scale.archive.phantom.anatomy import Anatomy, Chest, StudyState
from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.slab import GridLines, Slab
from dira_scale.archive.phantom.ct.solids import (
    Array,
    RandomField,
    difference,
    ellipsoid,
    intersection,
    oval,
    ramp,
    union,
)
from dira_scale.archive.phantom.ct.tissue import Contrast
from dira_scale.archive.phantom.ct.tubes import Tubes

SQUARE = 0.3  # how much squarer than an ellipse the cavity's outline is
BEND = 4.5  # standard deviation of the anatomy's bend in mm
TOP, BOTTOM = 60.0, -480.0  # z range of the outlines


@dataclass(frozen=True)
class Outline:
    """For given heights, in mm: semi-axes of cavity and body, and y of landmarks."""

    cavity_a: Array
    cavity_b: Array
    body_a: Array
    front: Array  # y of the skin in front
    back: Array
    spine: Array  # y of the vertebral bodies' centre
    size: Array  # of the vertebrae, 1 = T12


class Points:
    """Points in the drawn anatomy, on a slab or scattered, and the two surfaces that every organ needs."""

    def __init__(self, trunk: "Trunk", x: Array, y: Array, z: Array) -> None:
        self.trunk, self.x, self.y, self.z = trunk, x, y, z

    @cached_property
    def cavity(self) -> Array:
        return self.trunk.cavity(self.x, self.y, self.z)

    @cached_property
    def diaphragm(self) -> Array:
        return self.trunk.diaphragm(self.x, self.y, self.z)


class Trunk:
    """One patient in one study (one breath, one contrast phase)."""

    def __init__(self, anatomy: Anatomy, state: StudyState, contrast: Contrast) -> None:
        self.anatomy, self.state, self.contrast = anatomy, state, contrast
        self.chest = Chest(anatomy, state)
        rng = np.random.default_rng(anatomy.seed)
        self.bends = RandomField.draw(rng, 85.0, 16), RandomField.draw(rng, 85.0, 16)
        self.bump = RandomField.draw(rng, 26.0, 32)  # makes surfaces uneven
        self.patchy = RandomField.draw(rng, 11.0)
        self.grain = RandomField.draw(rng, 3.6)
        # The outlines by height: control points h downwards from the apices, then smooth curves through them.
        u, w, d, f = self.unit, self.chest.width, 0.56 * anatomy.depth, anatomy.fat
        chest = np.array([25, 45, 70, 100, 130, 160, 190, 215]) * u
        belly = np.array([260, 300, 360, 430, 480]) * u
        above = np.array([-60.0, -25.0, 0.0])
        h = np.concatenate([above, chest, belly])
        lateral, depth = self.chest.lateral(chest), 0.56 * self.chest.depth(chest)
        cavity_a = np.concatenate(
            [[60, 62, 72], np.maximum(lateral, 82), w * np.array([0.985, 0.955, 0.91, 0.93, 0.95])]
        )
        cavity_b = np.concatenate(
            [[30, 32, 40], depth, d + np.array([0, 0.12 * f, 0.28 * f, 0.2 * f, 0.1 * f]) - [0, 0, 2, 6, 10]]
        )
        spine = np.interp(
            h / u, [-60, -25, 0, 60, 110, 170, 230, 300, 360, 430, 480], [-26, -22, -12, 15, 29, 36, 37, 32, 25, 32, 40]
        )
        size = np.interp(h / u, [-60, 0, 100, 270, 400, 480], [0.7, 0.74, 0.85, 1.0, 1.25, 1.3])
        wall = np.interp(h / u, [-60, -25, 0, 40, 90, 150, 230, 360, 480], [50, 100, 112, 66, 44, 31, 24, 24, 40])
        pectoral = np.interp(h / u, [-60, -25, 0, 50, 110, 170, 230, 480], [22, 26, 26, 25, 19, 13, 11, 11])
        tables = {
            "cavity_a": cavity_a,
            "cavity_b": cavity_b,
            "body_a": cavity_a + wall + 0.55 * f,
            "front": -cavity_b - pectoral - 0.5 * f,
            "back": np.where(h < 20, spine + 60 * size**0.5, np.max((spine + 60 * size**0.5)[(h > 20) & (h < 320)]))
            + 14
            + 0.4 * f,
            "spine": spine,
            "size": size,
        }
        self._heights = np.arange(BOTTOM, TOP, 0.5)
        self._tables = {
            k: PchipInterpolator(-h[::-1], v[::-1], extrapolate=True)(self._heights) for k, v in tables.items()
        }

    @cached_property
    def unit(self) -> float:
        """Size relative to a chest 206 mm high."""
        return self.anatomy.height / 206

    def level(self, vertebra: float) -> float:
        """z of the centre of a thoracic vertebra (13 = L1)."""
        return -float(self.chest.vertebra(vertebra))

    def outline(self, z: Array | float) -> Outline:
        """The outline at each z, in the shape of z."""
        return Outline(**{k: np.asarray(np.interp(z, self._heights, v), np.float32) for k, v in self._tables.items()})

    def spine(self, z: float) -> float:
        """y of the vertebral bodies' centre."""
        return float(self.outline(z).spine)

    def straight(self, points: NDArray) -> NDArray[np.float64]:
        """Map points [..., 3] of the drawn, bent anatomy to the straight frame."""
        points = np.asarray(points, float)
        real = points.copy()
        for _ in range(4):  # the bend is gentle, so this converges
            for axis, field in enumerate(self.bends):
                real[..., axis] = points[..., axis] - BEND * field.at(real)
        return real

    def bent(self, points: NDArray) -> NDArray[np.float64]:
        """The inverse of `straight`."""
        moved = np.array(points, float)
        for axis, field in enumerate(self.bends):
            moved[..., axis] += BEND * field.at(np.asarray(points, float))
        return moved

    def points(self, where: NDArray) -> Points:
        """Scattered points [N, 3] of the drawn anatomy."""
        return Points(self, *np.asarray(where, np.float32).T)

    def slab(self, lines: GridLines, edge: float, hu: Array, organ: Array, finding: Array) -> Slab | None:
        """The part of the given arrays [Z, Y, X] that contains the body; None if it is outside."""
        o = self.outline(lines[0])
        wide, front, back = float(o.body_a.max()) + 12, float(o.front.min()) - 55, float(o.back.max()) + 14
        (y0, y1), (x0, x1) = np.searchsorted(lines[1], (front, back)), np.searchsorted(lines[2], (-wide, wide))
        if y0 >= y1 or x0 >= x1:
            return None
        lines = z, y, x = lines[0], lines[1][y0:y1], lines[2][x0:x1]
        sideways, backwards = (np.float32(BEND) * field.on(*lines) for field in self.bends)
        moved = sideways + x.astype(np.float32), backwards + y.astype(np.float32)[:, None]
        views = (array[:, y0:y1, x0:x1] for array in (hu, organ, finding))
        fields = (field.on(*lines) for field in (self.bump, self.patchy, self.grain))
        return Slab(lines, *moved, z.astype(np.float32)[:, None, None], edge, *views, *fields)

    def inner(self, slab: Slab) -> Slab | None:
        """The part of a slab that contains the cavity."""
        o = self.outline(slab.z)
        wide, deep = float(o.cavity_a.max()) + 2, float(o.cavity_b.max()) + 4
        return slab.part((-wide, -deep, -np.inf), (wide, deep, np.inf))

    def placed(self, tubes: Tubes) -> Tubes:
        """Tubes of the drawn anatomy, mapped to the straight frame."""
        return Tubes(self.straight(tubes.ends), tubes.radii)

    def cavity(self, x: Array, y: Array, z: Array) -> Array:
        """Distance to the inner face of ribs and abdominal wall, excluding the spine and the tissue beside it."""
        o = self.outline(z)
        inside = oval(x, y + np.float32(2), o.cavity_a, o.cavity_b, SQUARE)
        behind = y - o.spine
        wide = np.float32(18) * o.size + np.float32(0.22) * np.maximum(behind, 0)
        spine = np.hypot(x, np.minimum(behind, 0)) - wide
        return intersection(difference(inside, spine, 8), z - np.float32(14), 10)

    def diaphragm(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the diaphragm, negative below: two domes, lower at the back than in front."""
        both = None
        for side in (-1, 1):
            (cx, top, _), (ax, rise, _) = self.chest.dome(side)
            up = z + np.float32(top) + np.float32(0.32) * (y + np.float32(10))
            ay = 0.56 * self.anatomy.depth + 3
            k = np.square((x - np.float32(cx)) / np.float32(ax)) + np.square((y - 2) / np.float32(ay))
            dome = np.hypot(np.sqrt(k), np.maximum(up, 0) / np.float32(rise)) - np.maximum(-up, 0) * np.float32(0.03)
            here = (dome - 1) * np.float32(0.8 * rise)
            both = here if both is None else union(both, here, 26)
        assert both is not None
        return both

    def body(self, slab: Slab) -> None:
        """Paint skin, fat and muscle everywhere; organs are painted over them."""
        a, (x, y, z) = self.anatomy, (slab.x, slab.y, slab.z)
        o = self.outline(z)
        bump = slab.bump
        middle, half = (o.front + o.back) / 2, (o.back - o.front) / 2
        skin = oval(x, y - middle, o.body_a, half, 0.42)
        skin = intersection(skin, y - o.back + np.float32(5), 14)  # flattened: the patient is supine
        if a.breast:
            b = a.breast
            for side in (-1, 1):
                at = (side * (self.chest.width - 66), -0.42 * a.depth - 14, -150 * self.unit)
                skin = union(skin, ellipsoid(x, y, z, at, (50 + 0.5 * b, 26 + 0.7 * b, 52 + 0.4 * b)), 22)
        slab.paint(skin, tissue.SKIN)
        patchy = slab.patchy
        slab.paint(skin + 2, tissue.FAT + 9 * patchy)
        thick = np.float32(3 + 0.42 * a.fat)
        inner = oval(x, y - middle, o.body_a - thick, half - thick, 0.42) + np.float32(1.4) * bump
        inner = intersection(inner, y - o.back + np.float32(5) + thick * np.float32(0.8), 14)
        slab.paint(inner, tissue.MUSCLE + 5 * patchy)
        furrow = np.minimum(np.abs(inner + np.float32(12) + 2 * bump), np.abs(inner + np.float32(25) + 3 * bump))
        furrow = ramp(-furrow, -1.5, -0.4) * ramp(bump, -0.9, 0)  # between the layers of muscle
        slab.blend(slab.cover(inner + 3) * furrow, tissue.FAT)
        for side in (-1, 1):  # the armpit
            at = (side * (self.chest.width - 2), 2.0, -52 * self.unit)
            slab.paint(ellipsoid(x, y, z, at, (24, 30, 52)) + 3 * bump, tissue.FAT + 8 * patchy)

    def couch(self, lines: GridLines, edge: float) -> Array:
        """HU [Y, X] of the table below the patient, a shell around foam, in air."""
        y, x = (line.astype(np.float32) for line in lines[1:])
        top = np.float32(self._tables["back"].max() - 1)
        y, x = y[:, None], x[None, :]
        bow = np.hypot(x, y - top + np.float32(520)) - np.float32(520)
        board = np.maximum(np.maximum(-bow, bow - np.float32(38)), np.abs(x) - np.float32(215))
        shell, foam = (np.clip(np.float32(0.5) - (board + inside) / np.float32(edge), 0, 1) for inside in (0, 2))
        return np.float32(tissue.AIR) + shell * (tissue.COUCH - tissue.AIR) + foam * (tissue.FOAM - tissue.COUCH)
