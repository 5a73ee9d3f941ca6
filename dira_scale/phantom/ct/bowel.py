"""The hollow organs and the pancreas: tubes that vary a little between patients."""

import numpy as np

from dira_scale.phantom.ct import tissue
from dira_scale.phantom.ct.slab import Slab
from dira_scale.phantom.ct.solids import Array, difference, ramp
from dira_scale.phantom.ct.trunk import Trunk
from dira_scale.phantom.ct.tubes import Tubes

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
