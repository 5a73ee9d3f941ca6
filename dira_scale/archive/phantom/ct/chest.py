"""The chest: airways, lungs with their vessel trees, and mediastinum."""

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.slab import Slab
from dira_scale.archive.phantom.ct.solids import Array, difference, ellipsoid, facing, intersection, ramp, union
from dira_scale.archive.phantom.ct.trunk import Points, Trunk
from dira_scale.archive.phantom.ct.tubes import Tubes

HEART = [  # centre from the heart's base, half axes (mm), long axis
    ((35, -30, 38), (64, 43, 43), (0.74, -0.46, -0.46)),  # ventricles, apex to the left, front and down
    ((-26, -18, 52), (25, 29, 36), (0.1, 0.1, 1)),  # right atrium
    ((10, -16, 72), (36, 28, 25), (1, 0, 0)),  # left atrium and outflow
]
PLEURA = 2.2  # mm from the cavity's wall to the lung
FED = 1500  # points of a lung that its arteries, or its veins, supply


class Thorax:
    """Lungs, airways, heart and great vessels of one study."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk
        rng = np.random.default_rng(trunk.anatomy.seed + 21)
        self.density = float(rng.normal(0, 18))  # of the lungs, beside the usual one
        self.base = base = -(trunk.anatomy.height - 0.3 * sum(trunk.state.domes))  # of the heart
        self.scale = trunk.chest.heart * trunk.unit**0.5
        a, c, h = (trunk.level(n) for n in (5.2, 5.6, 6.2))  # the aortic arch, the carina, the hila
        self.hilum, r = h, trunk.anatomy.aorta
        rise = (-3, -26, base + 72), (-16, -34, a - 30), (-14, -30, a - 2), (0, -16, a + 9), (14, 0, a + 6)
        arch = np.array([*rise, (22, float(trunk.outline(a - 22).spine) - 6, a - 22)])
        bow = Tubes.along(arch, np.array([1.08, 1.12, 1.08, 1.0, 0.96, 0.9]) * r)
        down, share = np.linspace(a - 22, trunk.level(16.5), 9), np.linspace(0, 1, 9)
        y = trunk.outline(down).spine - 6 - 22 * np.minimum(1, 1.6 * share)
        descending = Tubes.along(np.stack([22 - 20 * share, y, down], -1), r * (0.88 - 0.25 * share), 40)
        self.aorta = Tubes.joined([bow, descending])
        # The venae cavae, and the pulmonary arteries, whose blood is venous.
        z = np.array([a + 60, a, h, base + 60, base + 10, trunk.level(14), trunk.level(16.6)])
        y = np.array([-32, -26, -22, -18, *(trunk.outline(z[4:]).spine - 26)])
        cava = np.stack([[-34, -24, -25, -22, -19, -17, -17], y, z], -1)
        left = [(12, -42, base + 84), (18, -34, h + 2), (26, -18, h + 4), (44, 4, h + 6)]
        right = [(20, -28, h), (2, -16, h - 4), (-20, -12, h - 5), (-44, -2, h - 6)]
        arteries = Tubes.along(left, [14, 14, 12, 8.5]), Tubes.along(right, [11, 10.5, 10, 8.5])
        self.veins = Tubes.joined([*arteries, Tubes.along(cava, [8, 9, 10, 12, 13, 11, 10], 40)])
        y, neck = trunk.outline(np.array([c, 30.0])).spine - [31, 34]  # of the carina, and above
        ways = [Tubes.along([(0, neck, 45), (0, y - 2, c + 40), (-2, y, c)], [8.6, 8.8, 9])]
        pipes = []
        for side in (-1, 1):
            root = (side * 37, y + 6, h - 3 * side)
            ways.append(Tubes.along([(-2, y, c), (side * 17, y + 2, (c + h) / 2 + 2), root], [7.2, 6.6, 5.8]))
            for start in ((side * 44, 1, h + 6 * side), (side * 32, -4, h - 18)):  # arteries, veins
                pipes.append(Tubes.tree(np.array(start), self.points(side, rng), 7 * trunk.state.vessels, rng))
        self.ways, self.pipes = Tubes.joined(ways), Tubes.joined(pipes)

    def heart(self, x: Array, y: Array, z: Array) -> Array:
        """Distance to its surface."""
        s, up = self.scale, np.array([0, 0, self.base])
        left, right, top = (
            ellipsoid(x, y, z, np.array(at) * s + up, np.array(axes) * s, facing(long, (0, 1, 0.01)))
            for at, axes, long in HEART
        )
        return union(union(left, right, 14), top, 14)

    def mediastinum(self, at: Points, vessels: Array | None = None) -> Array:
        """Distance to the mediastinum; ``vessels``: distance to the great vessels, None far from them."""
        front, top = ramp(at.y, 4, 34), ramp(at.z, -95.0 * self.trunk.unit, -22.0 * self.trunk.unit)
        sheet = np.abs(at.x - np.float32(6)) - (np.float32(5) + 16 * front + 20 * top)
        middle = union(self.heart(at.x, at.y, at.z) - np.float32(4 + 0.12 * self.trunk.anatomy.fat), sheet, 16)
        return middle if vessels is None else union(middle, vessels - 3, 16)

    def lungs(self, at: Points, mediastinum: Array | None = None) -> Array:
        """Signed distance to the surface of both lungs, negative inside."""
        apex = np.square((np.abs(at.x) - 50) * np.float32(1 / 11)) + np.square((at.y - 4) * np.float32(1 / 11)) + at.z
        open_ = intersection(at.cavity + np.float32(PLEURA), -at.diaphragm, 5)
        open_ = intersection(open_, apex * np.float32(0.7), 12)
        return difference(open_, self.mediastinum(at) if mediastinum is None else mediastinum, 7)

    def points(self, side: int, rng: np.random.Generator, depth: float = 3.0) -> NDArray[np.float64]:
        """FED points of a lung (-1 right, 1 left), at least ``depth`` mm below its surface."""
        w, d, height = self.trunk.chest.width, self.trunk.anatomy.depth / 2, self.trunk.anatomy.height
        inside: list[NDArray] = []
        while sum(map(len, inside)) < FED:
            points = rng.uniform((10, -d, -1.4 * height), (w, d, 0), (4 * FED, 3)) * (side, 1, 1)
            inside.append(points[self.lungs(Points(self.trunk, *points.astype(np.float32).T)) < -depth])
        return np.concatenate(inside)[:FED]

    def paint(self, slab: Slab, at: Points) -> Array:
        """Paint everything (over the fat) and return the distance to the lungs."""
        contrast, patchy = self.trunk.contrast, slab.patchy
        aorta, veins, ways = around = [slab.distance(tubes, 16) for tubes in (self.aorta, self.veins, self.ways)]
        surface = self.mediastinum(at, np.minimum.reduce(around))
        lungs = self.lungs(at, surface)
        slab.paint(np.maximum(surface, np.maximum(at.cavity, -at.diaphragm)), tissue.FAT + 12 + 14 * patchy)
        heart = self.heart(at.x, at.y, at.z)
        slab.paint(heart, contrast.heart)
        slab.paint(heart + 12, contrast.blood)
        slab.paint(veins, contrast.veins)
        slab.paint(aorta, contrast.blood)
        air = np.float32(tissue.LUNG + self.density) + np.float32(0.32) * at.y + 14 * patchy + 10 * slab.bump
        slab.paint(lungs, np.clip(air, -985, -500))
        pipes = slab.cover(slab.distance(self.pipes, 2.0)) * slab.cover(lungs - 5)
        slab.blend(pipes, (contrast.blood + contrast.veins) / 2)
        slab.paint(ways - 1.2, tissue.WALL)
        slab.paint(ways, tissue.AIR)
        return lungs
