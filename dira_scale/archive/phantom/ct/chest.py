"""The chest: airways, lungs with their vessel trees, and mediastinum."""

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.slab import FAR, Slab
from dira_scale.archive.phantom.ct.solids import Array, difference, ellipsoid, facing, intersection, ramp, union
from dira_scale.archive.phantom.ct.trunk import Points, Trunk
from dira_scale.archive.phantom.ct.tubes import Tubes, as_tubes, tree

HEART = [  # centre from the heart's base, half axes (mm), long axis
    ((35, -30, 38), (64, 43, 43), (0.74, -0.46, -0.46)),  # ventricles, apex to the left, front and down
    ((-26, -18, 52), (25, 29, 36), (0.1, 0.1, 1)),  # right atrium
    ((8, -6, 70), (36, 19, 25), (1, 0, 0)),  # left atrium
    ((13, -38, 74), (25, 20, 25), (0.3, -0.2, 1)),  # outflow of the right ventricle
]


class Mediastinum:
    """Heart, great vessels and oesophagus of one study."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk
        self.arch, self.carina, self.hilum = (trunk.level(n) for n in (5.2, 5.6, 6.2))
        self.base = -(trunk.anatomy.height - 0.3 * sum(trunk.state.domes))
        self.scale = trunk.chest.heart * trunk.unit**0.5
        a, base, hil = self.arch, self.base, self.hilum
        r, spine = trunk.anatomy.aorta, trunk.spine
        rise = (-3, -26, base + 72), (-16, -34, a - 30), (-14, -30, a - 2), (0, -16, a + 9), (14, 0, a + 6)
        aorta = Tubes.along(
            [*rise, (22, spine(a - 22) - 6, a - 22)], np.array([1.08, 1.12, 1.08, 1.0, 0.96, 0.9]) * r, 24
        )
        down = np.linspace(a - 22, trunk.level(16.5), 9)
        share = (down[0] - down) / (down[0] - down[-1])
        path = [(22 - 20 * s, spine(z) - 6 - 22 * min(1, 1.6 * s), z) for s, z in zip(share, down, strict=True)]
        aorta += Tubes.along(path, r * (0.88 - 0.25 * share), 40)
        for x, y, lean in ((-10, -26, -14), (3, -16, 6), (14, -8, 14)):  # to neck and arms
            aorta += Tubes.along(
                [(x, y, a + 6), (x + lean / 2, y - 2, a + 35), (x + lean, y, a + 70), (x + 2 * lean, y, a + 110)],
                [6.0, 4.8, 4.4, 4.0],
            )
        lungs = Tubes.along(
            [(12, -42, base + 84), (18, -34, hil + 2), (26, -18, hil + 4), (44, 4, hil + 6)], [14, 14, 12, 8.5], 16
        )
        lungs += Tubes.along(
            [(20, -28, hil), (2, -16, hil - 4), (-20, -12, hil - 5), (-44, -2, hil - 6)], [11, 10.5, 10, 8.5], 16
        )
        cava = Tubes.along(
            [(-22, -18, base + 60), (-25, -22, hil), (-24, -26, a), (-21, -30, a + 30)], [11, 10, 9, 8.0]
        )
        cava += Tubes.along([(-21, -30, a + 28), (-30, -32, a + 60), (-40, -24, a + 95)], [8, 6.5, 6])
        cava += Tubes.along(
            [(-21, -30, a + 22), (0, -38, a + 34), (28, -34, a + 56), (42, -24, a + 95)], [7.5, 6.5, 6.5, 6]
        )
        z = np.linspace(base + 40, trunk.level(16.6), 7)
        path = [(-21 + 4 * min(1, i / 3), spine(v) - 34 + 4 * min(i, 3), v) for i, v in enumerate(z)]
        cava += Tubes.along(path, [13, 13.5, 13, 12, 11, 10.5, 9.5], 30)
        self.great, self.veins = trunk.placed(aorta), trunk.placed(lungs + cava)
        z = np.array([40, -30, self.carina, base + 70, base + 10, base - 25])
        before = np.array([22, 23, 24, 26, 34, 40])  # mm in front of the spine
        points = np.stack([np.array([2, 4, 6, 6, 8, 22]), np.array([spine(v) for v in z]) - before, z], -1)
        self.gullet = trunk.placed(Tubes.along(points, [6, 6.5, 7, 7, 7, 8.0], 30))

    def surface(self, at: Points, vessels: Array | None = None) -> Array:
        """Distance to the mediastinum; ``vessels``: distance to the great vessels, None far from them."""
        x, y, z = at.x, at.y, at.z
        front, top = ramp(y, 4, 34), ramp(z, -95.0 * self.trunk.unit, -22.0 * self.trunk.unit)
        sheet = np.abs(x - np.float32(6)) - (np.float32(5) + 16 * front + 20 * top)
        heart = self._heart(x, y, z) - np.float32(4 + 0.12 * self.trunk.anatomy.fat)
        middle = union(heart, sheet, 16)
        return middle if vessels is None else union(middle, vessels - 3, 16)

    def paint_heart(self, slab: Slab) -> None:
        """Myocardium, atria and outflow, then the blood of the left and right ventricles."""
        s, top = self.scale, self.base + 115 * self.scale
        if not (near := slab.part((-70 * s, -110 * s, self.base - 45 * s), (100 * s, 50, top))):
            return
        contrast, x, y, z = self.trunk.contrast, near.x, near.y, near.z
        near.paint(self._heart(x, y, z), contrast.heart)
        near.paint(self._heart(x, y, z, 2.5, slice(1, None)), contrast.veins)
        (cx, cy, up), _, long = HEART[0]
        turn = facing(long, (0, 1, 0.01))
        for shift, half, value in (
            ((5, 12, 2), (42, 20, 22), contrast.blood),
            ((-8, -19, -4), (44, 13, 26), contrast.veins),
        ):
            at = np.array([cx + shift[0], cy + shift[1], up + shift[2]]) * s + (0, 0, self.base)
            near.paint(ellipsoid(x, y, z, tuple(at), tuple(h * s for h in half), turn), value)

    def _heart(self, x: Array, y: Array, z: Array, shrink: float = 0.0, parts: slice = slice(None)) -> Array:
        heart = None
        for (cx, cy, up), axes, long in HEART[parts]:
            at = (cx * self.scale, cy * self.scale, self.base + up * self.scale)
            half = tuple(a * self.scale - shrink for a in axes)
            part = ellipsoid(x, y, z, at, half, facing(long, (0, 1, 0.01)))
            heart = part if heart is None else union(heart, part, 14)
        assert heart is not None
        return heart


PLEURA = 2.2  # mm from the cavity's wall to the lung
FED = 1500  # points of a lung that its arteries, or its veins, supply
THINNEST = 1.8  # mm: smallest radius of an artery with a visible bronchus
BRONCHUS = 0.72  # radius of a bronchus's lumen relative to its artery's


class Thorax:
    """Lungs, airways and mediastinum of one study."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk
        rng = np.random.default_rng(trunk.anatomy.seed + 21)
        self.middle = Mediastinum(trunk)
        self.end = -trunk.anatomy.height - trunk.anatomy.rise - 50  # below all lung
        self._density = float(rng.normal(0, 18)), float(rng.gamma(1.2, 0.25))  # of the lungs: level, emphysema
        # Arteries with their bronchi, and veins, lobe by lobe.
        c, h = self.middle.carina, self.middle.hilum
        trachea_y, neck = trunk.spine(c) - 31, trunk.spine(30.0) - 34
        ways = Tubes.along(
            [(0, neck, 45), (0, neck + 4, -10), (-1, trachea_y - 4, c + 40), (-2, trachea_y, c)], [8.6, 8.6, 8.8, 9]
        )
        roots = {-1: np.array([-37.0, trachea_y + 5, h + 2]), 1: np.array([38.0, trachea_y + 8, h - 4])}
        for root in roots.values():
            middle = root[0] * 0.45, trachea_y + 2, (c + root[2]) / 2 + 2
            ways += Tubes.along([(-2, trachea_y, c), middle, tuple(root)], [7.2, 6.6, 5.8])
        pipes: list[Tubes] = []
        bronchi: list[Tubes] = []
        for side in (-1, 1):
            hila = np.array([side * 44.0, 1.0, h + (6 if side > 0 else -5)])
            vein = np.array([side * 32.0, -4.0, h - 18])
            for which, start in (("arteries", hila), ("veins", vein)):
                points = self.points(side, rng)
                oblique, level = self.fissures(*points.T)
                lobe = np.where(oblique > 0, 2, np.where((level > 0) & (side < 0), 1, 0))
                for number in range(3):
                    fed = points[lobe == number]
                    if len(fed) < 20:
                        continue
                    radius = 7.6 * (len(fed) / FED) ** (1 / 3) * trunk.state.vessels
                    paths, radii = tree(start, fed, radius, rng)
                    pipes.append(as_tubes(paths, radii))
                    if which == "arteries":
                        bronchi.append(self._bronchi(paths, radii, start, roots[side]))
        self.pipes = trunk.placed(Tubes.joined(pipes))
        self.ways, self.bronchi = trunk.placed(ways), trunk.placed(Tubes.joined(bronchi))

    def lungs(self, at: Points, mediastinum: Array | None = None) -> Array:
        """Signed distance to the surface of both lungs, negative inside."""
        apex = np.square((np.abs(at.x) - 50) * np.float32(1 / 11)) + np.square((at.y - 4) * np.float32(1 / 11)) + at.z
        open_ = intersection(at.cavity + np.float32(PLEURA), -at.diaphragm, 5)
        open_ = intersection(open_, apex * np.float32(0.7), 12)
        return difference(open_, self.middle.surface(at) if mediastinum is None else mediastinum, 7)

    def fissures(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Signed distances to the oblique fissures (positive: lower lobe) and to the right horizontal one."""
        u = self.trunk.unit
        aside = np.float32(0.25) * (np.abs(x) - 80) + np.float32(0.06) * x
        oblique = (-z - np.float32(122 * u) + np.float32(0.85) * (y + aside)) * np.float32(1 / 1.31)
        return oblique, -z - np.float32(118 * u) - np.float32(0.12) * y

    def _bronchi(self, paths: NDArray, radii: NDArray, start: NDArray, root: NDArray) -> Tubes:
        """A lumen beside each artery thick enough, its nodes offset by both radii; starts at root."""
        wide = radii > THINNEST
        paths, radii = paths[wide], radii[wide]
        away = np.array([-0.55 * np.sign(start[0]), 0.35, 0.76])
        moved = paths + (1.35 + BRONCHUS) * radii[:, None, None] * away
        near = np.exp(-np.linalg.norm(paths - start, axis=-1, keepdims=True) / 14)
        moved = moved * (1 - near) + root * near
        return as_tubes(moved, BRONCHUS * radii)

    def points(self, side: int, rng: np.random.Generator, depth: float = 3.0) -> NDArray[np.float64]:
        """FED points of a lung (-1 right, 1 left) of the drawn anatomy, at least ``depth`` mm below its surface."""
        w, d, height = self.trunk.chest.width, self.trunk.anatomy.depth / 2, self.trunk.anatomy.height
        low, high = np.array([10, -d, -1.4 * height]), np.array([w, d, 0])
        inside: list[NDArray] = []
        while sum(map(len, inside)) < FED:
            points = rng.uniform(low, high, (4 * FED, 3)) * (side, 1, 1)
            inside.append(points[self.lungs(self.trunk.points(points)) < -depth])
        return np.concatenate(inside)[:FED]

    def paint(self, slab: Slab, at: Points) -> Array:
        """Paint everything (over the fat) and return the distance to the lungs."""
        contrast, middle = self.trunk.contrast, self.middle
        arteries, veins = slab.distance(middle.great, 16), slab.distance(middle.veins, 16)
        ways, gullet = slab.distance(self.ways.wider(1.2), 10), slab.distance(middle.gullet, 8)
        lungs, reached = np.full_like(slab.hu, FAR), float(slab.z.max()) > self.end
        if reached:
            around = np.minimum(np.minimum(arteries, veins), np.minimum(ways, gullet))
            surface = middle.surface(at, around)
            lungs = self.lungs(at, surface)
            fat = np.float32(tissue.FAT + 12) + 14 * slab.patchy
            slab.paint(np.maximum(surface, np.maximum(at.cavity, -at.diaphragm)), fat)
        slab.paint(gullet, tissue.WALL)
        middle.paint_heart(slab)
        slab.paint(veins, contrast.veins)
        slab.paint(arteries, contrast.blood)
        if reached:
            level, emphysema = self._density
            patchy, grain, bump = slab.patchy, slab.grain, slab.bump
            air = np.float32(tissue.LUNG + level) + np.float32(0.32) * slab.y + 14 * patchy + 16 * grain
            air -= np.float32(60 * min(emphysema, 1.5)) * ramp(patchy + bump, 0.9, 2.4)
            oblique, horizontal = self.fissures(slab.x, slab.y + 4 * bump, slab.z + 4 * bump)
            sheet = np.maximum(np.abs(horizontal), np.maximum(oblique, np.where(slab.x < 0, -99, 99)))
            sheet = np.minimum(np.abs(oblique), sheet * 1.4)
            air += np.float32(min(1.0, 1.2 / slab.edge) * 110) * ramp(-sheet, -1.3, 0)
            slab.blend(slab.cover(lungs), np.clip(air, -985, -500))
            pipes = slab.cover(slab.distance(self.pipes, 2.0)) * slab.cover(lungs - 5)
            slab.blend(pipes, contrast.blood * 0.55 + contrast.veins * 0.45)
            slab.paint(ways, tissue.WALL)
            slab.paint(slab.distance(self.bronchi.wider(0.3, 1.1), 4), tissue.WALL)
            slab.paint(slab.distance(self.bronchi + self.ways, 4), tissue.AIR)
        return lungs
