"""Bones: cortical shells around marrow."""

import numpy as np

from dira_scale.archive.phantom.anatomy import RIB_ENDS
from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.slab import Slab
from dira_scale.archive.phantom.ct.solids import Array, intersection, oval
from dira_scale.archive.phantom.ct.trunk import SQUARE, Trunk
from dira_scale.archive.phantom.ct.tubes import Tubes


class Skeleton:
    """Ribs, scapulae, spine."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk
        rng = np.random.default_rng(trunk.anatomy.seed + 11)
        young = 1 - (trunk.anatomy.age - 18) / 80
        self.marrow = float(125 + 130 * young + rng.normal(0, 15))  # trabecular bone loses mineral with age
        self.shell = float(rng.uniform(1.0, 1.35))  # mm
        bone = []  # ribs follow the cavity and descend forwards
        for number, end in enumerate(np.radians(RIB_ENDS[: trunk.anatomy.ribs]), 1):
            top, wobble = trunk.level(number - 0.15), rng.normal(0, 1, 2)
            fall = trunk.anatomy.slope * (24 + 11 * min(number, 7)) * trunk.unit + 2 * wobble[0]
            angle = np.linspace(0.16, end, 36)  # from the spine (0) over the flank towards the sternum (pi)
            radii = np.full(len(angle), (3.4 if number < 3 else 3.9) + 0.15 * wobble[1])
            rise = 1.0 if number > 1 else 0.6
            z = top - fall * rise * (1 - np.cos(np.minimum(angle, 2.5))) / 2 - 0.12 * fall * np.sin(angle)
            o = trunk.outline(z)
            u, v = np.sin(angle), np.cos(angle)
            k = np.sqrt(np.sqrt(np.square(u * u + v * v) - 2 * SQUARE * np.square(u * v)))  # the cavity's squared oval
            head = np.clip(1 - angle / 0.42, 0, 1)  # towards the joint with the vertebra
            y = ((o.cavity_b + 5.2) * v / k - 2) * (1 - head) + (o.spine + 14) * head + 30 * head * (1 - head)
            x = (o.cavity_a + 5.2) * u / k * (1 - head) + (15 * o.size + 4) * head
            bone += [Tubes.chain(np.stack([side * x, y, z], -1), radii) for side in (-1, 1)]
        self.ribs = Tubes.joined(bone)

    def paint(self, slab: Slab) -> None:
        """Paint all bones, the spine last."""
        u, w, (x, y, z) = self.trunk.unit, self.trunk.chest.width, slab.places
        o = self.trunk.outline(z)
        self._bone(slab, slab.distance(self.ribs, 3.0), 0.8 * self.marrow)
        scapulae = np.abs(oval(x, y + 2, o.cavity_a, o.cavity_b, SQUARE) - np.float32(17)) - np.float32(2.2)
        lean = np.float32(0.3) * (z + np.float32(75 * u))
        beside = np.abs(np.abs(x) - np.float32(24 + 0.59 * w) - lean) - np.float32(0.41 * w - 32)
        tall = np.abs(z + np.float32(75 * u)) - np.float32(68 * u)
        self._bone(slab, intersection(scapulae, np.maximum(beside, np.maximum(tall, -y)), 4), self.marrow)
        self._spine(slab)

    def _bone(self, slab: Slab, distance: Array, marrow: float) -> None:
        slab.paint(distance, tissue.CORTEX)
        slab.paint(distance + np.float32(self.shell), marrow + 45 * slab.patchy)

    def _spine(self, slab: Slab) -> None:
        """Vertebral bodies, discs, the canal, arches and spinous processes, by the phase within each vertebra."""
        if (near := slab.part((-62, -60, -np.inf), (62, 130, np.inf))) is None:
            return
        (x, y, z), numbers = near.places, np.arange(-2, 19, 0.02)
        number = np.interp(-z, self.trunk.chest.vertebra(numbers), numbers)
        phase = (number - np.round(number)).astype(np.float32)  # -0.5 top, 0 middle, 0.5 bottom
        o = self.trunk.outline(z)
        size, y = o.size, y - o.spine
        waist = size * (1 + np.float32(0.32) * np.square(phase))
        ahead = np.hypot(x, y - 22 * size)
        body = np.maximum(oval(x, y, 17.5 * waist, 14 * waist, 0.3), 11 * size - np.hypot(x, y - 23 * size))
        arch = np.maximum(np.abs(ahead - 12.5 * size) - 3.2 * size, 8 * size - y)
        process = np.maximum(np.abs(x) - 3.4, np.abs(y - 47 * size) - 14 * size)
        arch = np.maximum(np.minimum(arch, process), (np.abs(phase + np.float32(0.12)) - np.float32(0.27)) * 24)
        near.paint(ahead - 11 * size, tissue.FAT)
        near.paint(ahead - 6 * size, tissue.WALL)
        self._bone(near, arch, self.marrow)
        near.paint(body, tissue.DISC)
        self._bone(near, np.maximum(body, (np.abs(phase) - np.float32(0.37)) * 24 * size), self.marrow)
