"""Bones: cortical shells around marrow."""

import numpy as np

from dira_scale.archive.phantom.anatomy import RIB_ENDS
from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.slab import Slab
from dira_scale.archive.phantom.ct.solids import Array, ellipsoid, intersection, oval, ramp, union
from dira_scale.archive.phantom.ct.trunk import SQUARE, Trunk
from dira_scale.archive.phantom.ct.tubes import Tubes


class Skeleton:
    """Ribs, spine, sternum, clavicles, scapulae, hips."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk
        rng = np.random.default_rng(trunk.anatomy.seed + 11)
        young = 1 - (trunk.anatomy.age - 18) / 80
        self.marrow = float(125 + 130 * young + rng.normal(0, 15))  # trabecular bone loses mineral with age
        self.shell = float(rng.uniform(1.0, 1.35))  # mm
        bone, soft = [], []  # ribs follow the cavity and descend forwards; the first ten end in cartilage
        for number, end in enumerate(np.radians(RIB_ENDS[: trunk.anatomy.ribs]), 1):
            top, wobble = trunk.level(number - 0.15), rng.normal(0, 1, 2)
            fall = trunk.anatomy.slope * (24 + 11 * min(number, 7)) * trunk.unit + 2 * wobble[0]
            stop = np.pi - 0.13 if number < 8 else np.pi - 0.16 - 0.12 * (number - 7)  # where cartilage ends
            angle = np.linspace(0.16, max(stop, end), 40)  # from the spine (0) over the flank towards the sternum (pi)
            radii = np.full(len(angle), (3.4 if number < 3 else 3.9) + 0.15 * wobble[1])
            rise = 1.0 if number > 1 else 0.6
            z = top - fall * rise * (1 - np.cos(np.minimum(angle, 2.5))) / 2 - 0.12 * fall * np.sin(angle)
            z = np.where(angle > 2.5, z + (angle - 2.5) * (28 if number > 5 else 8), z)  # cartilage climbs again
            o = trunk.outline(z)
            u, v = np.sin(angle), np.cos(angle)
            k = np.sqrt(np.sqrt(np.square(u * u + v * v) - 2 * SQUARE * np.square(u * v)))  # the cavity's squared oval
            head = np.clip(1 - angle / 0.42, 0, 1)  # towards the joint with the vertebra
            y = (o.cavity_b + 5.2) * v / k - 2
            y = y * (1 - head) + (o.spine + 14) * head + 30 * head * (1 - head)
            for side in (-1, 1):
                x = side * (o.cavity_a + 5.2) * u / k
                points = np.stack([x * (1 - head) + side * (15 * o.size + 4) * head, y, z], -1)
                last = int(np.searchsorted(angle, end))
                bone.append(Tubes.chain(points[: last + 1], radii[: last + 1]))
                if number <= 10 and last < len(angle) - 1:
                    soft.append(Tubes.chain(points[last:], radii[last:] * 1.15))
        self.ribs, self.cartilage = trunk.placed(Tubes.joined(bone)), trunk.placed(Tubes.joined(soft))
        reach, unit = trunk.chest.width + 2, trunk.unit
        front = float(trunk.outline(-22 * unit).front)
        left = np.array(
            [(16, front + 17, -30 * unit), (55, front + 14, -18 * unit), (105, front + 38, -2), (reach, -12, 14)]
        )
        clavicles = [Tubes.along(left * (side, 1, 1), [7.5, 5.5, 5.2, 6.0], 20) for side in (-1, 1)]
        self.clavicles = trunk.placed(Tubes.joined(clavicles))

    def paint(self, slab: Slab) -> None:
        for tubes, marrow in ((self.ribs, 0.8 * self.marrow), (self.clavicles, self.marrow)):
            self._bone(slab, slab.distance(tubes, 3.0), marrow)
        slab.paint(slab.distance(self.cartilage, 3.0), tissue.CARTILAGE)
        self._sternum(slab)
        self._scapulae(slab)
        self._hips(slab)
        if near := slab.part((-62, -60, -np.inf), (62, 130, np.inf)):
            self._spine(near)

    def _bone(self, slab: Slab, distance: Array, marrow: float, shell: float | None = None) -> None:
        slab.paint(distance, tissue.CORTEX)
        grain = slab.grain
        slab.paint(distance + np.float32(shell or self.shell), np.float32(marrow) + 45 * grain)

    def _sternum(self, slab: Slab) -> None:
        u = self.trunk.unit
        if not (near := slab.part((-40, -140, -205 * u), (40, -30, -20 * u))):
            return
        o = self.trunk.outline(near.z)
        wide = np.interp(near.z, [-185 * u, -150 * u, -70 * u, -55 * u, -28 * u], [11, 18, 14, 20, 27]).astype(
            np.float32
        )
        plate = oval(near.x, near.y + o.cavity_b + np.float32(11), wide, 6.5, 0.5)
        joint = np.float32(5) - np.abs(near.z + np.float32(62 * u))  # between manubrium and body: cartilage
        plate = intersection(plate, np.abs(near.z + np.float32(104 * u)) - np.float32(76 * u), 6)
        near.paint(plate, tissue.CARTILAGE)
        self._bone(near, intersection(plate, joint - 3, 2), self.marrow * 0.7, self.shell * 0.8)

    def _scapulae(self, slab: Slab) -> None:
        w, u, thin = self.trunk.chest.width, self.trunk.unit, np.float32(2.2)
        c, s = np.cos(-0.55), np.sin(-0.55)
        tilt = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        for side in (-1, 1):
            low, high = sorted((side * 30.0, side * (w + 62)))
            if not (near := slab.part((low, -45, -150 * u), (high, 130, 30))):
                continue
            x, y, z = near.x * side, near.y, near.z
            o = self.trunk.outline(z)
            plate = np.abs(oval(x, y + 2, o.cavity_a, o.cavity_b, SQUARE) - np.float32(17)) - thin
            inner = np.float32(56 + 0.18 * w) - x + np.float32(0.25) * (z + np.float32(75 * u))
            outer = x - (np.float32(w - 8) + np.float32(0.35) * (z + np.float32(75 * u)))
            tall = np.abs(z + np.float32(75 * u)) - np.float32(68 * u)
            plate = intersection(intersection(plate, np.maximum(inner, outer), 4), np.maximum(tall, -y), 4)
            border = np.hypot(outer + 3, plate * 0.35) - np.float32(4.5)
            blade = union(plate, intersection(border, np.maximum(tall, np.abs(plate) - 4), 4), 5)
            socket = ellipsoid(x, y, z, (w - 2, 6, -4), (13, 12, 20))
            spur = ellipsoid(x, y, z, (w - 26, 62, -24 * u), (48, 5, 6), tilt)
            ball = ellipsoid(x, y, z, (w + 26, -2, 6), (22, 22, 24))
            for solid, marrow in ((union(union(blade, socket, 6), spur, 8), 0.9), (ball, 1.0)):
                self._bone(near, solid, self.marrow * marrow)

    def _hips(self, slab: Slab) -> None:
        crest = self.trunk.level(16.1)
        for side in (-1, 1):
            low, high = sorted((side * 35.0, side * 170.0))
            if not (near := slab.part((low, -70, crest - 150), (high, 110, crest + 5))):
                continue
            x, y, z = near.x * side, near.y, near.z
            down = np.float32(crest) - z
            o = self.trunk.outline(z)
            wing = oval(x, y + 2, o.cavity_a - np.float32(0.12) * down, o.cavity_b + 12, SQUARE) - 6
            wing = np.abs(wing) - np.float32(3.5) - np.float32(0.03) * down
            top = np.square((y - 10) * np.float32(1 / 16)) + z - np.float32(crest)
            self._bone(near, intersection(intersection(wing, top, 4), np.float32(42) - x, 4), self.marrow)

    def _spine(self, slab: Slab) -> None:
        """Vertebral bodies, discs, arches and processes, by the phase within each vertebra."""
        trunk = self.trunk
        numbers = np.arange(-2, 19, 0.02)
        number = np.interp(-slab.z, trunk.chest.vertebra(numbers), numbers)
        phase = (number - np.round(number)).astype(np.float32)  # -0.5 top, 0 middle, 0.5 bottom
        o = trunk.outline(slab.z)
        size, x, y = o.size, slab.x, slab.y - o.spine
        waist = 1 + np.float32(0.32) * np.square(phase)
        body = oval(x, y, 17.5 * size * waist, 14 * size * waist, 0.3)
        body = np.maximum(body, -(np.hypot(x, y - 23 * size) - 11 * size))  # hollow towards the canal
        disc = np.float32(1) * (np.abs(phase) - np.float32(0.37)) * np.float32(24) * size  # mm beyond the endplate
        ahead = np.hypot(x, y - 22 * size)
        arch = np.abs(ahead - 12.5 * size) - 3.2 * size
        arch = np.maximum(arch, (np.abs(phase + 0.12) - np.float32(0.27)) * 24)
        arch = np.maximum(arch, 8 * size - y)
        side = np.abs(x)
        reach = np.where(number > 12.5, 40, 33 - 0.5 * np.clip(number - 1, 0, 11)).astype(np.float32)
        t = np.clip((side - 12 * size) / (reach - 12 * size), 0, 1)
        across = np.hypot(np.hypot(y - (24 + 8 * t) * size, (phase + 0.15) * 24 * size), np.maximum(side - reach, 0))
        across = np.where(side < 12 * size, np.float32(9), across) - (4.6 - t)
        drop = np.float32(24) * (phase - 0.12) - np.where(number > 12, 0.0, 0.5).astype(np.float32) * (y - 40 * size)
        along = np.maximum(np.maximum(34 * size - y, y - 61 * size), 0)
        behind = np.sqrt(np.square(x / 0.75) + np.square(np.maximum(np.abs(drop) - 6, 0)) + along * along) - 3.4
        slab.paint(ahead - 11 * size, tissue.FAT)
        slab.paint(ahead - 8.2 * size, tissue.WATER + 12)
        slab.paint(oval(x, y - 22 * size, 5.5, 4.2), tissue.CORD)
        arches = union(arch, np.minimum(across, behind), 4)
        self._bone(slab, np.maximum(arches, 9.2 * size - ahead), self.marrow * 1.1, 1.6)
        slab.paint(body, tissue.DISC)
        bone = np.maximum(body, disc)
        rim = ramp(-np.abs(disc + 1), -1.6, 0) * 120
        self._bone(slab, bone, self.marrow, 0.7)
        slab.blend(slab.cover(bone + 1) * (rim / 400), 600.0)
