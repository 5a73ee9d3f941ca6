"""The abdomen: liver, spleen, kidneys, bowel, their vessels and the muscles beside the spine."""

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.slab import FAR, Slab
from dira_scale.archive.phantom.ct.solids import Array, difference, ellipsoid, facing, intersection, ramp
from dira_scale.archive.phantom.ct.trunk import Points, Trunk
from dira_scale.archive.phantom.ct.tubes import Tubes, as_tubes, tree

LOOPS = 56  # bends of the small bowel


class Bowel:
    """Stomach to colon; ``inside``: distance to the abdominal cavity."""

    def __init__(self, trunk: Trunk, top: float, rng: np.random.Generator) -> None:
        """top: z of the right dome of the diaphragm."""
        self.trunk, placed = trunk, trunk.placed
        u, w = trunk.unit, trunk.chest.width
        self.fill = float(rng.uniform(0.2, 0.75))  # of the stomach
        front = -float(trunk.outline(top - 110 * u).cavity_b)

        def along(points: list[tuple[float, float, float]], radii: list[float], samples: int = 30) -> Tubes:
            path = np.array(points, float) * (1, 1, u) + (0, 0, top)
            wander = rng.normal(0, 4, path.shape)
            wander[0] = 0
            return Tubes.along(path + wander, radii, samples)

        self.stomach = placed(
            along([(56, 14, -34), (62, -8, -50), (60, -36, -72), (44, -52, -92), (14, -46, -104), (-14, -34, -104)],
                  [30, 36, 33, 27, 20, 13])
        )  # fmt: skip
        self.pancreas = placed(
            along([(-26, -8, -112), (-8, -24, -102), (18, -20, -94), (48, 2, -84), (82, 22, -70)], [14, 11, 9, 9.5, 9])
        )
        self.duodenum = placed(
            along([(-18, -32, -106), (-46, -12, -108), (-50, 2, -140), (-30, 4, -162), (8, -4, -160), (34, -16, -146)],
                  [12, 12, 12, 12, 11, 11], 40)
        )  # fmt: skip
        c = 0.70 * w
        self.colon = placed(
            along([(-c, 10, -250), (-c - 4, 6, -200), (-c + 2, -10, -150), (-0.5 * c, front + 34, -150),
                   (0, front + 30, -165), (0.55 * c, front + 36, -145), (c, 0, -100), (c + 8, 8, -130),
                   (c + 4, 8, -190), (c - 8, 4, -260)],
                  [29, 28, 26, 22, 22, 21, 20, 18, 18, 18], 110)
        )  # fmt: skip
        spots = np.stack(
            [rng.uniform(-66, 88, 400), rng.uniform(front + 26, 4, 400), top - u * rng.uniform(115, 265, 400)], -1
        )
        path = [spots[0]]
        for _ in range(LOOPS):  # always to a near point that is still free
            gap = np.linalg.norm(spots - path[-1], axis=1)
            taken = np.min([np.linalg.norm(spots - p, axis=1) for p in path], 0)
            path.append(spots[np.argmin(np.abs(gap - 34) + 1e3 * (taken < 23))])
        self.bowel = placed(Tubes.along(path, rng.uniform(9, 14, len(path)), 8 * LOOPS))

    def paint_loops(self, slab: Slab, inside: Array) -> None:
        """The small bowel: fluid with pockets of gas."""
        loops = np.maximum(slab.distance(self.bowel, 6) + slab.bump, inside)
        slab.paint(loops, self._wall(0.35))
        slab.paint(loops + 2.5, 16.0)
        slab.paint(np.maximum(loops + 2.5, 12 - 10 * slab.patchy), tissue.AIR + 30)

    def paint_stomach(self, slab: Slab, inside: Array, spleen: Array) -> None:
        """Pancreas and stomach; the stomach leaves room for the spleen."""
        lobed = slab.distance(self.pancreas, 8) + 1.6 * np.abs(slab.patchy)
        slab.paint(lobed, self.trunk.contrast.pancreas - 30 * ramp(slab.grain, 0.8, 2))
        stomach = difference(np.maximum(slab.distance(self.stomach, 12) + 1.5 * slab.bump, inside + 1), spleen - 3, 5)
        slab.paint(stomach, self._wall(0.4))
        slab.paint(stomach + 4.5, 14 + 10 * slab.patchy)
        self._gas(slab, stomach + 4.5, 62 * self.fill - 9.2)

    def paint_colon(self, slab: Slab, inside: Array) -> None:
        """Duodenum, then the colon: stool with bubbles, gas in the anterior parts."""
        slab.paint(np.maximum(slab.distance(self.duodenum, 6) + slab.bump, inside), tissue.WALL)
        colon = slab.distance(self.colon, 10) + 2.2 * slab.bump + 2 * np.abs(slab.patchy)
        colon = np.maximum(colon, inside)
        slab.paint(colon, tissue.WALL)
        bubbles = ramp(slab.grain + 0.5 * slab.patchy, 1.1, 1.9)
        slab.paint(colon + 2.2, np.float32(tissue.STOOL) + 22 * slab.patchy - 520 * bubbles)
        self._gas(slab, colon + 2.2, 6.3)

    def _wall(self, uptake: float) -> float:
        """HU: with contrast medium, the wall takes up a share of the pancreas's uptake."""
        return tissue.WALL + uptake * (self.trunk.contrast.pancreas - tissue.PLAIN.pancreas)

    def _gas(self, slab: Slab, lumen: Array, deep: float) -> None:
        """Gas in front of y = -deep: patients lie supine, and fluid is level however the anatomy bends."""
        y = slab.lines[1].astype(np.float32)[None, :, None]
        slab.paint(np.maximum(lumen, y + np.float32(deep)), tissue.AIR + 30)


class Belly:
    """The abdominal organs of one study."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk
        rng = np.random.default_rng(trunk.anatomy.seed + 31)
        u = trunk.unit
        self.top = -(trunk.anatomy.height - 0.5 * sum(trunk.state.domes))  # of the right dome
        self.cut = np.array([rng.normal(6, 6), 18.0, self.top - rng.uniform(44, 66) * u])  # a point below the liver
        self.left_end = float(rng.uniform(48, 84))
        self.swell = float(rng.normal(1, 0.07))
        self.spleen_size = float(rng.uniform(0.82, 1.15))
        self.kidneys = [  # centre, half axes, long axis
            (
                (side * (64 + rng.normal(0, 3)), 30 + rng.normal(0, 3), trunk.level(level)),
                (27, 29, 54 + rng.normal(0, 3)),
                side,
            )
            for side, level in ((-1, 14.1), (1, 13.6))
        ]
        self.gallbladder = np.array([-42.0, -48, self.top - 88 * u]), np.array([16, 16, 30]) * rng.uniform(0.75, 1.15)
        self.bowel = Bowel(trunk, self.top, rng)
        muscles: list[Tubes] = []
        for side in (-1, 1):  # psoas, quadratus lumborum, diaphragmatic crus
            z = np.array([trunk.level(n) for n in (12.3, 13.5, 15, 16.5, 18)])
            y = np.array([trunk.spine(v) for v in z])
            psoas = np.stack([side * np.array([22, 29, 38, 46, 54]), y + np.array([4, 2, -2, -6, -12]), z], -1)
            quadratus = np.stack([side * np.array([44, 48, 54, 60]), y[:4] + 20, z[:4]], -1)
            z = self.top - np.array([20, 50, 90, 130])
            y = np.array([trunk.spine(v) - 20 for v in z])
            crus = np.stack([side * np.array([14, 15, 17, 14]), y, z], -1)
            muscles.append(Tubes.along(psoas, [5, 11, 18, 22, 22], 16))
            muscles.append(Tubes.along(quadratus, [5, 8, 10, 11]))
            muscles.append(Tubes.along(crus, [4, 5, 5, 3]))
        self.muscles = trunk.placed(Tubes.joined(muscles))
        self._liver_vessels(rng)

    def _liver_vessels(self, rng: np.random.Generator) -> None:
        points = rng.uniform((-150, -120, self.top - 170), (90, 90, self.top), (6000, 3))
        depth = -self.liver(self.trunk.points(points))
        self.spots = points[depth > 3]  # in the liver
        points = points[depth > 7][:700]
        porta = np.array([-16.0, -8, self.top - 70 * self.trunk.unit])
        outflow = np.array([-19.0, self.trunk.spine(self.top - 22) - 30, self.top - 20])
        portal, veins = (
            as_tubes(*tree(start, fed, 6.8, rng, 1.1)) for start, fed in ((porta, points[::2]), (outflow, points[1::2]))
        )
        trunk = np.array([(2, -14, porta[2] - 42), (-4, -14, porta[2] - 18), porta])
        portal += Tubes.along(trunk, [7, 7, 6.8])
        portal += Tubes.along([trunk[0], (38, 2, porta[2] - 22), (80, 20, porta[2] - 8)], [5.5, 5, 4.5])
        portal += Tubes.along([trunk[0], (6, -22, porta[2] - 90), (4, -28, porta[2] - 150)], [6, 5.5, 3.5])
        arteries = []
        for (cx, cy, cz), _, side in self.kidneys:
            y = self.trunk.spine(cz) - 26
            path = [(side * 4, y, cz + 12), (side * 30, y + 16, cz + 6), (cx - side * 14, cy - 4, cz)]
            arteries.append(Tubes.along(path, [3, 2.8, 2.4]))
        y, top = self.trunk.spine(self.top - 90) - 30, self.top
        mesenteric = [(4, y, top - 84), (6, y - 16, top - 100), (8, y - 20, top - 150)]
        coeliac = [(4, y, top - 70), (6, y - 18, top - 70), (-10, y - 22, top - 74), tuple(porta)]
        arteries += [Tubes.along(mesenteric, [3.8, 3.6, 2.5]), Tubes.along(coeliac, [3.6, 3.4, 2.6, 2.2])]
        points = np.stack(
            [rng.uniform(-75, 80, 300), rng.uniform(-85, -8, 300), self.top - rng.uniform(120, 250, 300)], -1
        )
        arteries.append(as_tubes(*tree(np.array([8, y - 20, self.top - 120]), points, 3.6, rng, 0.7)))
        self.portal, self.hepatic = self.trunk.placed(portal), self.trunk.placed(veins)
        self.arteries = self.trunk.placed(Tubes.joined(arteries))

    def inside(self, at: Points) -> Array:
        """Distance to the abdominal cavity."""
        return intersection(at.cavity + 2, at.diaphragm + 2, 4)

    def liver(self, at: Points) -> Array:
        """Signed distance to the liver's surface, negative inside."""
        x, y, z, inside = at.x, at.y, at.z, self.inside(at)
        px, py, pz = (c - np.float32(o) for c, o in zip((x, y, z), self.cut, strict=True))
        below = np.float32(0.60) * px + np.float32(0.36) * py - np.float32(0.71) * pz
        left = x - np.float32(self.left_end) - np.float32(0.25) * y + np.float32(0.45) * np.maximum(pz, -20)
        body = intersection(intersection(inside + np.float32(0.3), below - np.float32(16 * self.swell), 24), left, 22)
        cleft = np.hypot(np.maximum(np.abs(x - np.float32(14)) - 1, 0), np.maximum(y + 48, 0)) - np.float32(1.8)
        cleft = np.maximum(cleft, pz - 26)
        cava = np.hypot(x + 18, y - np.float32(self.trunk.spine(self.top - 40) - 29)) - np.float32(9)
        kidney = self._kidney(0, x, y, z)[0] - 3
        bladder = ellipsoid(x, y, z, tuple(self.gallbladder[0]), tuple(self.gallbladder[1] + 1), _LEANING)
        return difference(difference(body, np.minimum(cleft, cava), 8), np.minimum(kidney, bladder), 3)

    def _kidney(self, number: int, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Distances to a kidney (0 right, 1 left) and to its hilar fat."""
        (cx, cy, cz), axes, side = self.kidneys[number]
        turn = facing((1, side * -0.35, 0.16 * side), (0.3 * side, 1, -0.2))
        kidney = ellipsoid(x, y, z, (cx, cy, cz), axes, turn)
        return kidney, ellipsoid(x, y, z, (cx - side * 17, cy - 6, cz), (13, 7, 22), turn)

    def paint(self, slab: Slab, at: Points) -> Array:
        """Paint everything and return the distance to the liver."""
        c, z = self.trunk.contrast, slab.z
        if float(z.min()) > self.top + 25:
            return np.full_like(slab.hu, FAR)
        patchy, bump, grain = slab.patchy, slab.bump, slab.grain
        slab.paint(np.maximum(at.diaphragm, at.cavity), tissue.MUSCLE)
        inside = self.inside(at)
        slab.paint(inside, np.float32(tissue.FAT - 4) + 10 * patchy)
        slab.paint(slab.distance(self.muscles, 4) + 1.5 * bump, tissue.MUSCLE + 4 * patchy)
        self.bowel.paint_loops(slab, inside)
        width, size, (x, y) = self.trunk.chest.width, self.spleen_size, (slab.x, slab.y)
        spot = (0.70 * width, 36.0, self.top - 46 * self.trunk.unit)
        spleen = ellipsoid(x, y, z, spot, (31 * size, 58 * size, 56 * size), facing((1, 0.35, 0)))
        hollow = ellipsoid(x, y, z, (0.70 * width - 30, 8, spot[2]), (26, 34, 44))  # towards the stomach
        spleen = intersection(difference(spleen, hollow, 10), inside + 2, 8) + bump
        slab.paint(spleen, c.spleen + 2 * grain)
        self.bowel.paint_stomach(slab, inside, spleen)
        self.bowel.paint_colon(slab, inside)
        for number, ((cx, cy, cz), _, _) in enumerate(self.kidneys):
            if near := slab.part((cx - 45, cy - 45, cz - 70), (cx + 45, cy + 45, cz + 70)):
                kidney, sinus = self._kidney(number, near.x, near.y, near.z)
                near.paint(kidney + 0.6 * near.bump, c.kidney)
                near.paint(np.maximum(kidney + 9 + 3.5 * near.bump, -(sinus - 1)), c.pyramid)
                near.paint(sinus + 1.5 * near.bump, tissue.FAT + 25)
        liver = self.liver(at) + 1.2 * bump
        slab.paint(liver, c.liver + 2.5 * grain + 1.5 * patchy)
        within = slab.cover(liver + 1)
        slab.blend(slab.cover(slab.distance(self.hepatic, 3)) * within, c.veins)
        slab.blend(slab.cover(slab.distance(self.portal, 3)), c.portal)
        slab.paint(slab.distance(self.arteries, 3), c.blood)
        if near := slab.part((-75, -85, -np.inf), (0, 0, np.inf)):
            bladder = ellipsoid(
                near.x, near.y, near.z, tuple(self.gallbladder[0]), tuple(self.gallbladder[1]), _LEANING
            )
            near.paint(bladder, tissue.WALL)
            near.paint(bladder + 1, tissue.BILE)
        return liver


_LEANING: NDArray[np.float64] = facing((1, 0.2, 0.2), (0, 1, 0.45))
