"""The abdomen: liver with its vessels, spleen, kidneys, stomach and bowel."""

import numpy as np

from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.slab import FAR, Slab
from dira_scale.archive.phantom.ct.solids import Array, difference, ellipsoid, facing, intersection
from dira_scale.archive.phantom.ct.trunk import Points, Trunk
from dira_scale.archive.phantom.ct.tubes import Tubes


class Belly:
    """The abdominal organs of one study."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk, u = trunk, trunk.unit
        rng = np.random.default_rng(trunk.anatomy.seed + 31)
        self.top = -(trunk.anatomy.height - 0.5 * sum(trunk.state.domes))  # z of the right dome
        self.cut = np.array([rng.normal(6, 6), 18.0, self.top - rng.uniform(44, 66) * u])  # a point below the liver
        self.left_end, self.swell = float(rng.uniform(48, 84)), float(rng.normal(16, 1.1))
        self.spleen_size, self.fill = float(rng.uniform(0.82, 1.15)), float(rng.uniform(-32, 0))  # y of stomach's fluid
        self.kidneys = [  # centre, half axes, rotation
            ((side * 64, 30, trunk.level(level)), (27, 29, 54), facing((side, -0.35, 0.16), (0.3 * side, 1, -0.2)))
            for side, level in ((-1, 14.1), (1, 13.6))
        ]
        points = rng.uniform((-150, -120, self.top - 170), (90, 90, self.top), (6000, 3))
        depth = -self.liver(Points(trunk, *points.astype(np.float32).T))
        self.spots, fed = points[depth > 3], points[depth > 7][:700]  # in the liver; of its vessels
        porta = np.array([-16.0, -8, self.top - 70 * u])
        outflow = np.array([-19.0, float(trunk.outline(self.top - 22).spine) - 30, self.top - 20])
        stem = Tubes.along(porta + np.array([[54, 10, -22], [18, -6, -42], [12, -6, -18], [0, 0, 0]]), [5, 7, 7, 7])
        trees = Tubes.tree(porta, fed[::2], 6.8, rng), Tubes.tree(outflow, fed[1::2], 6.8, rng)
        self.vessels = Tubes.joined([stem, *trees])

    def inside(self, at: Points) -> Array:
        """Distance to the abdominal cavity."""
        return intersection(at.cavity + 2, at.diaphragm + 2, 4)

    def liver(self, at: Points) -> Array:
        """Signed distance to the liver's surface, negative inside."""
        px, py, pz = (c - np.float32(o) for c, o in zip((at.x, at.y, at.z), self.cut, strict=True))
        below = np.float32(0.60) * px + np.float32(0.36) * py - np.float32(0.71) * pz
        left = at.x - np.float32(self.left_end) - np.float32(0.25) * at.y + np.float32(0.45) * np.maximum(pz, -20)
        body = intersection(self.inside(at) + np.float32(0.3), below - np.float32(self.swell), 24)
        cava = np.hypot(at.x + 18, at.y - np.float32(self.trunk.outline(self.top - 40).spine - 29)) - np.float32(9)
        kidney = ellipsoid(at.x, at.y, at.z, *self.kidneys[0]) - 3
        return difference(difference(intersection(body, left, 22), cava, 8), kidney, 3)

    def paint(self, slab: Slab, at: Points) -> Array:
        """Paint everything and return the distance to the liver."""
        c, u, width, (x, y, z) = self.trunk.contrast, self.trunk.unit, self.trunk.chest.width, slab.places
        if float(slab.lines[0].min()) > self.top + 25:
            return np.full_like(slab.hu, FAR)
        patchy, bump, inside = slab.patchy, slab.bump, self.inside(at)
        slab.paint(np.maximum(at.diaphragm, at.cavity), tissue.MUSCLE)
        slab.paint(inside, tissue.FAT - 4 + 10 * patchy)
        # Bowel: the coils of a random field in front of the kidneys, with pockets of gas.
        coils = np.maximum(np.maximum(inside + 6, y), z - np.float32(self.top - 110 * u))
        coils = np.maximum(coils, 9 * np.abs(bump) - 5)
        slab.paint(coils, tissue.WALL)
        slab.paint(coils + 2, tissue.FLUID - (tissue.FLUID - tissue.AIR) * np.clip(3 * patchy - 3, 0, 1))
        size, turn = np.array([31, 58, 56]) * self.spleen_size, facing((1, 0.35, 0))
        spleen = ellipsoid(x, y, z, (0.70 * width, 36, self.top - 46 * u), size, turn)
        stomach = ellipsoid(x, y, z, (54, -30, self.top - 62 * u), (33, 42, 46), facing((1, 0, 0.6)))
        stomach = np.maximum(stomach + 1.5 * bump, inside + 1)
        slab.paint(stomach, tissue.WALL)
        slab.paint(stomach + 4.5, np.where(y < self.fill, tissue.AIR + 30, tissue.FLUID + 10 * patchy))
        slab.paint(intersection(spleen, inside + 2, 8) + bump, c.spleen)
        for kidney in self.kidneys:
            gap = ellipsoid(x, y, z, *kidney) + 0.6 * bump
            slab.paint(gap, c.kidney)
            slab.paint(gap + 17, tissue.FAT + 25)  # of the hilum
        liver = self.liver(at)
        slab.paint(liver, c.liver + 3 * patchy)
        slab.paint(slab.distance(self.vessels, 3), c.veins)
        return liver
