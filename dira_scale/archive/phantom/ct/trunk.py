"""A patient's trunk: outlines of body and cavity by height, the reference for placing everything else.

Frame: x to the patient's left, y to the back, z to the head, mm; z = 0 at the lung apices, x = y = 0 amid the chest.
Proportions as in the phantom radiographs (`phantom.anatomy`), continued to the pelvis.
"""

from functools import cached_property
from types import SimpleNamespace

import numpy as np
from scipy.interpolate import PchipInterpolator

from dira_scale.archive.phantom.anatomy import Anatomy, Chest, StudyState
from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.slab import GridLines, Slab
from dira_scale.archive.phantom.ct.solids import Array, RandomField, difference, intersection, oval, union
from dira_scale.archive.phantom.ct.tissue import Contrast

SQUARE = 0.3  # how much squarer than an ellipse the cavity's outline is
TOP, BOTTOM = 60.0, -480.0  # z range of the outlines


class Points:
    """Points in the trunk, as arrays that broadcast, and the two surfaces that every organ needs."""

    def __init__(self, trunk: "Trunk", x: Array, y: Array, z: Array) -> None:
        self.trunk, self.x, self.y, self.z = trunk, x, y, z

    @cached_property
    def cavity(self) -> Array:
        """Distance to the inner face of ribs and abdominal wall, excluding the spine and the tissue beside it."""
        o = self.trunk.outline(self.z)
        inside = oval(self.x, self.y + np.float32(2), o.cavity_a, o.cavity_b, SQUARE)
        behind = self.y - o.spine
        wide = np.float32(18) * o.size + np.float32(0.22) * np.maximum(behind, 0)
        spine = np.hypot(self.x, np.minimum(behind, 0)) - wide
        return intersection(difference(inside, spine, 8), self.z - np.float32(14), 10)

    @cached_property
    def diaphragm(self) -> Array:
        """Signed distance to the diaphragm, negative below: two domes, lower at the back than in front."""

        def dome(side: int) -> Array:
            (cx, top, _), (ax, rise, _) = self.trunk.chest.dome(side)
            up = self.z + np.float32(top) + np.float32(0.32) * (self.y + np.float32(10))
            ay = np.float32(0.56 * self.trunk.anatomy.depth + 3)
            across = np.hypot((self.x - np.float32(cx)) / np.float32(ax), (self.y - 2) / ay)
            k = np.hypot(across, np.maximum(up, 0) / np.float32(rise)) - np.maximum(-up, 0) * np.float32(0.03)
            return (k - 1) * np.float32(0.8 * rise)

        return union(dome(-1), dome(1), 26)


class Trunk:
    """One patient in one study (one breath, one contrast phase)."""

    def __init__(self, anatomy: Anatomy, state: StudyState, contrast: Contrast) -> None:
        self.anatomy, self.state, self.contrast = anatomy, state, contrast
        self.chest, self.unit = Chest(anatomy, state), anatomy.height / 206  # size relative to a chest 206 mm high
        rng = np.random.default_rng(anatomy.seed)
        self.bump, self.patchy = RandomField.draw(rng, 26.0, 32), RandomField.draw(rng, 11.0)
        # The outlines by height: control points h downwards from the apices, then smooth curves through them.
        w, d, f = self.chest.width, 0.56 * anatomy.depth, anatomy.fat
        above, chest, belly = [-60, -25, 0], [25, 45, 70, 100, 130, 160, 190, 215], [260, 300, 360, 430, 480]
        heights = np.array(above + chest + belly, float)
        h, down = heights * np.where(heights < 0, 1, self.unit), np.array(chest) * self.unit
        lateral, depth = np.maximum(self.chest.lateral(down), 82), 0.56 * self.chest.depth(down)
        cavity_a = np.concatenate([[60, 62, 72], lateral, w * np.array([0.985, 0.955, 0.91, 0.93, 0.95])])
        swell = np.array([0, 0.12, 0.28, 0.2, 0.1]) * f - [0, 0, 2, 6, 10]
        cavity_b = np.concatenate([[30, 32, 40], depth, d + swell])
        at, y = [-60, -25, 0, 60, 110, 170, 230, 300, 360, 430, 480], [-26, -22, -12, 15, 29, 36, 37, 32, 25, 32, 40]
        spine = np.interp(heights, at, y)
        size = np.interp(heights, [-60, 0, 100, 270, 400, 480], [0.7, 0.74, 0.85, 1.0, 1.25, 1.3])
        wall = np.interp(heights, [-60, -25, 0, 40, 90, 150, 230, 360, 480], [50, 100, 112, 66, 44, 31, 24, 24, 40])
        pectoral = np.interp(heights, [-60, -25, 0, 50, 110, 170, 230, 480], [22, 26, 26, 25, 19, 13, 11, 11])
        behind = spine + 60 * size**0.5
        behind = np.where(heights < 20, behind, behind[(heights > 20) & (heights < 320)].max())
        # Semi-axes of cavity and body; y of the skin in front and behind, and of the vertebral bodies' centre; the size
        # of the vertebrae, 1 = T12.
        tables = {"cavity_a": cavity_a, "cavity_b": cavity_b, "spine": spine, "size": size}
        tables |= {"body_a": cavity_a + wall + 0.55 * f, "front": -cavity_b - pectoral - 0.5 * f}
        tables |= {"back": behind + 14 + 0.4 * f}
        self._heights = np.arange(BOTTOM, TOP, 0.5)
        self._tables = {k: PchipInterpolator(-h[::-1], v[::-1])(self._heights) for k, v in tables.items()}

    def level(self, vertebra: float) -> float:
        """z of the centre of a thoracic vertebra (13 = L1)."""
        return -float(self.chest.vertebra(vertebra))

    def outline(self, z: Array | float) -> SimpleNamespace:
        """The values of the tables at each z, in the shape of z."""
        at = {k: np.asarray(np.interp(z, self._heights, v), np.float32) for k, v in self._tables.items()}
        return SimpleNamespace(**at)

    def slab(self, lines: GridLines, edge: float, hu: Array, organ: Array, finding: Array) -> Slab | None:
        """The part of the given arrays [Z, Y, X] that contains the body; None if it is outside."""
        o = self.outline(lines[0])
        wide, front, back = float(o.body_a.max()) + 4, float(o.front.min()) - 55, float(o.back.max()) + 4
        slab = Slab(lines, edge, hu, organ, finding, self.bump.on(*lines), self.patchy.on(*lines))
        return slab.part((-wide, front, -np.inf), (wide, back, np.inf))

    def body(self, slab: Slab) -> None:
        """Paint skin, fat and muscle everywhere; organs are painted over them."""
        a, (x, y, z), patchy = self.anatomy, slab.places, slab.patchy
        o = self.outline(z)
        middle, half = (o.front + o.back) / 2, (o.back - o.front) / 2
        skin = oval(x, y - middle, o.body_a, half, 0.42)
        skin = intersection(skin, y - o.back + np.float32(5), 14)  # flattened: the patient is supine
        slab.paint(skin, tissue.FAT + 9 * patchy)
        thick = np.float32(3 + 0.42 * a.fat)
        inner = oval(x, y - middle, o.body_a - thick, half - thick, 0.42) + np.float32(1.4) * slab.bump
        inner = intersection(inner, y - o.back + np.float32(5) + thick * np.float32(0.8), 14)
        slab.paint(inner, tissue.MUSCLE + 5 * patchy)
