"""The mediastinum: heart, great vessels down to the pelvis, oesophagus."""

import numpy as np

from dira_scale.phantom.ct.slab import Slab
from dira_scale.phantom.ct.solids import Array, ellipsoid, facing, ramp, union
from dira_scale.phantom.ct.trunk import Points, Trunk
from dira_scale.phantom.ct.tubes import Tubes

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
        great, veins = self._great_vessels()
        self.great, self.veins = trunk.placed(great), trunk.placed(veins)
        self.gullet = trunk.placed(self._gullet())

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
        whole = None
        for (cx, cy, up), axes, long in HEART[parts]:
            at = (cx * self.scale, cy * self.scale, self.base + up * self.scale)
            half = tuple(a * self.scale - shrink for a in axes)
            part = ellipsoid(x, y, z, at, half, facing(long, (0, 1, 0.01)))
            whole = part if whole is None else union(whole, part, 14)
        assert whole is not None
        return whole

    def _great_vessels(self) -> tuple[Tubes, Tubes]:
        """(arteries, veins)."""
        a, base, hil = self.arch, self.base, self.hilum
        r, spine = self.trunk.anatomy.aorta, self.trunk.spine
        rise = (-3, -26, base + 72), (-16, -34, a - 30), (-14, -30, a - 2), (0, -16, a + 9), (14, 0, a + 6)
        aorta = Tubes.along(
            [*rise, (22, spine(a - 22) - 6, a - 22)], np.array([1.08, 1.12, 1.08, 1.0, 0.96, 0.9]) * r, 24
        )
        down = np.linspace(a - 22, self.trunk.level(16.5), 9)
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
        z = np.linspace(base + 40, self.trunk.level(16.6), 7)
        path = [(-21 + 4 * min(1, i / 3), spine(v) - 34 + 4 * min(i, 3), v) for i, v in enumerate(z)]
        cava += Tubes.along(path, [13, 13.5, 13, 12, 11, 10.5, 9.5], 30)
        return aorta, lungs + cava

    def _gullet(self) -> Tubes:
        z = np.array([40, -30, self.carina, self.base + 70, self.base + 10, self.base - 25])
        before = np.array([22, 23, 24, 26, 34, 40])  # mm in front of the spine
        y = np.array([self.trunk.spine(v) for v in z]) - before
        points = np.stack([np.array([2, 4, 6, 6, 8, 22]), y, z], -1)
        return Tubes.along(points, [6, 6.5, 7, 7, 7, 8.0], 30)
