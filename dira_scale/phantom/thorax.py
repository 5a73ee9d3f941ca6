"""A thorax: the numbers that make one patient, and the thickness of body, lungs, heart and great vessels.

Shapes are drawn from ordinary adult proportions; they are a plausible chest, not anybody's.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dira_scale.phantom.primitives import Tubes, curve, ellipsoid, upsample
from dira_scale.phantom.view import Map, View


@dataclass(frozen=True)
class Anatomy:
    """What stays the same in all studies of one patient (mm)."""

    sex: str
    age: int
    width: float  # of half the rib cage, inside
    height: float  # lung apex to right dome, full inspiration
    depth: float  # front to back, inside
    fat: float
    breast: float
    heart: float  # relative size
    aorta: float  # radius of the arch
    scoliosis: float
    opening: float  # how soon the rib cage widens below the apex
    rise: float  # of the domes
    lie: float  # degrees by which the heart lies flatter
    slope: float  # how steeply the ribs fall
    seed: int  # of the vessel tree and other details

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        sex = "M" if rng.random() < 0.55 else "F"
        age = int(np.clip(rng.normal(52, 17), 18, 95))
        male, fat = sex == "M", float(np.clip(rng.gamma(3.0, 6.0), 5, 50))
        return cls(
            sex=sex,
            age=age,
            width=float(rng.normal(143 if male else 131, 5)),
            height=float(rng.normal(206 if male else 190, 9)),
            depth=float(rng.normal(172 if male else 158, 9)),
            fat=fat,
            breast=0.0 if male else float(rng.uniform(10, 20) + 0.4 * fat),
            heart=float(rng.normal(1.0, 0.05)),
            aorta=float(10.5 + 0.07 * age + rng.normal(0, 1.2)),
            scoliosis=float(rng.normal(0, 3)),
            opening=float(rng.uniform(2.2, 3.3)),
            rise=float(rng.normal(52, 6)),
            lie=float(rng.normal(0, 5)),
            slope=float(rng.normal(1.0, 0.08)),
            seed=int(rng.integers(2**31)),
        )


@dataclass(frozen=True)
class State:
    """What a study's breath and findings do to the anatomy."""

    domes: tuple[float, float] = (0.0, 0.0)  # mm by which the (right, left) dome stands higher
    flat: float = 0.0  # 0 ordinary domes, 1 flat ones
    widened: float = 1.0  # rib cage
    heart: float = 1.0
    vessels: float = 1.0  # calibre
    pruned: float = 0.0  # share of the peripheral vessels that is lost

    def change(self, **values: Any) -> "State":
        """A copy with some values replaced."""
        return replace(self, **values)


class Chest:
    """The surfaces of one patient in one study, as functions of height y (mm below the apices)."""

    def __init__(self, anatomy: Anatomy, state: State) -> None:
        self.anatomy, self.state = anatomy, state
        self.width = anatomy.width * state.widened
        self.heart = anatomy.heart * state.heart

    def lateral(self, y: NDArray) -> NDArray:
        """Inner face of the rib cage, |x|."""
        v = np.clip(np.asarray(y, float) / (self.anatomy.height * 1.08), 0, 1.2)
        opening = np.sqrt(np.clip(1 - (1 - np.minimum(v, 1)) ** self.anatomy.opening, 0, 1))
        return 46 + (self.width - 46) * opening - 70 * np.clip(v - 0.98, 0, 1) ** 2 * 4

    def medial(self, y: NDArray) -> NDArray:
        """Where the pleura turns back beside the mediastinum, |x|."""
        v = np.clip(np.asarray(y, float) / (0.42 * self.anatomy.height), 0, 1)
        return 46 - 40 * np.sqrt(1 - (1 - v) ** 2)

    def depth(self, y: NDArray) -> NDArray:
        """Front to back, inside."""
        v = np.clip(np.asarray(y, float) / self.anatomy.height, 0, 1.4)
        return self.anatomy.depth * (0.42 + 0.58 * np.sin(np.minimum(v * 1.9, np.pi / 2)))

    def vertebra(self, number: NDArray | float) -> NDArray:
        """Height y of the middle of thoracic vertebra 1 ... 12 (13 = L1, 0 = C7, fractions between)."""
        unit = self.anatomy.height / 206
        n = np.asarray(number, float) - 1
        return -10 + unit * (21.5 * n + 0.36 * np.maximum(n, 0) ** 2 - 2.5 * np.minimum(n, 0))

    def dome(self, side: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Centre and semi-axes of a hemidiaphragm's ellipsoid; side -1 right, +1 left."""
        right = side < 0
        top = self.anatomy.height + (0 if right else 13) - self.state.domes[0 if right else 1]
        rise = self.anatomy.rise * (1 - 0.6 * self.state.flat)
        half = self.width * 0.535
        return (side * (self.width + 1.5 - half), top + rise, -4.0), (half, rise, self.anatomy.depth)

    def lungs(self, view: View) -> tuple[Map, Map]:
        """(chest cavity beside the mediastinum, what the domes fill of it), thickness in mm, [size, size]."""
        x, y = view.grid
        line = np.arange(-10, 420, 0.25)
        outer, inner, depth = self.lateral(line), self.medial(line), self.depth(line)
        at = np.clip((y + np.float32(10)) * np.float32(4), 0, len(line) - 1).astype(np.intp)
        centre, half = ((outer + inner) / 2).astype(np.float32), ((outer - inner) / 2).astype(np.float32)
        u = (np.abs(x) - centre[at]) / np.maximum(half, 1e-3)[at]
        u *= u
        u *= u
        chord = np.where(line <= 0, 0, depth).astype(np.float32)[at]
        cavity = chord * np.sqrt(np.maximum(1 - u, 0))
        fill = np.zeros_like(cavity)
        for side in (-1, 1):
            (cx, cy, _), (ax, ay, az) = self.dome(side)
            across = (x - np.float32(cx)) * np.float32(side / ax)
            across = np.maximum(across, np.float32(-0.5) * across)  # towards the middle it stays high
            down = np.minimum((y - np.float32(cy)) / np.float32(ay), 0)
            dome = np.sqrt(np.maximum(1 - across * across - down * down, 0)) * np.float32(2 * az)
            np.maximum(fill, dome, out=fill)
        return cavity, np.minimum(fill, cavity)

    def mediastinum(self, view: View) -> tuple[Map, Map]:
        """(heart, mediastinum with the great vessels), thickness in mm, [size, size]."""
        unit, scale = self.anatomy.height / 206, self.heart
        base = self.anatomy.height - 0.3 * sum(self.state.domes)
        heart = np.zeros((view.size, view.size), np.float32)
        for centre, axes, angle in (
            ((30, base - 26, 22), (68, 41, 58), 34 - self.anatomy.lie),  # left ventricle, apex down and to the left
            ((-11, base - 40, 15), (34, 52, 55), -6),  # right atrium
            ((14, base - 62, 15), (30, 48, 52), -24),  # left atrium and its appendage, outflow
        ):
            placed = (centre[0] * scale, centre[1] - 14 * (scale - 1), centre[2])
            ellipsoid(view, placed, tuple(a * scale * unit**0.5 for a in axes), angle, heart)
        arch, aorta = float(self.vertebra(5.2)), self.anatomy.aorta
        great, lower = np.zeros_like(heart), np.zeros_like(heart)
        ellipsoid(view, (15, arch, -15), (aorta + 11, aorta + 8, 36), 0, great)  # the arch, seen end on
        ellipsoid(view, (18, arch + 40, 5), (25, 33, 40), 0, lower)  # pulmonary trunk
        ellipsoid(view, (-13, arch + 36, 15), (21, 92, 36), 3, great)  # ascending aorta, superior vena cava
        ellipsoid(view, (15, arch + 90, -50), (aorta + 2, 130, aorta + 8), 3, lower)  # descending aorta
        ellipsoid(view, (-14, arch - 65, 5), (16, 90, 22), -3, great)  # vessels to neck and arms
        ellipsoid(view, (16, arch - 65, 0), (16, 90, 22), 3, great)
        x, y = view.grid
        half = np.float32(19) + np.float32(5) * np.tanh((y - np.float32(arch)) / np.float32(60))
        band = np.float32(0.34 * self.anatomy.depth) * np.sqrt(np.maximum(1 - np.square(x / half), 0))
        return heart, np.sqrt(great * great + lower * lower + band * band)

    def body(self, view: View) -> Map:
        """The whole body, outside to outside, in mm; smooth, so drawn on a coarse grid and enlarged."""
        view, size = view.coarse(4), view.size
        x, y = view.grid
        fat = self.anatomy.fat
        wall = 30 + 1.1 * fat
        trunk = np.clip((y + 45) / 140, 0, 1)
        half = (self.width + wall) * (0.55 + 0.45 * np.sqrt(trunk * (2 - trunk))) + 12 * np.clip((y - 150) / 200, 0, 1)
        deep = (self.anatomy.depth + 50 + fat) * (0.55 + 0.45 * trunk)
        edge = np.square(x / half)
        body = np.where(y > -45, deep * np.sqrt(np.maximum(1 - edge * edge, 0)), 0).astype(np.float32)
        ellipsoid(view, (0, -95, -10), (57 + 0.3 * fat, 120, 66), 0, body)  # neck
        for side in (-1, 1):
            ellipsoid(view, (side * 95, -8, -25), (118, 46 + 0.4 * fat, 78), 17 * side, body)  # trapezius, shoulder
            ellipsoid(view, (side * (self.width + 48), 14, -10), (54 + 0.5 * fat, 58, 70), 0, body)  # deltoid
            ellipsoid(view, (side * (self.width + 72), 150, -20), (40 + 0.6 * fat, 160, 64), -9 * side, body)  # arm
        body = ndimage.gaussian_filter(body, 4 / view.spacing)
        chest, breast = np.zeros_like(body), np.zeros_like(body)
        b = self.anatomy.breast
        for side in (-1, 1):
            ellipsoid(view, (side * (self.width - 40), 58, 70), (76, 60, 5), -24 * side, chest)  # pectoral muscle
            if b:
                axes = (46 + 0.6 * b, 44 + 0.6 * b, 0.8 * b)
                ellipsoid(view, (side * (self.width - 62), 150, 70), axes, 8 * side, breast)
        breast *= np.clip((y - 95) / 110, 0, 1)  # hangs: thin above, full below
        soft = ndimage.gaussian_filter(chest, 7 / view.spacing) + ndimage.gaussian_filter(breast, 3 / view.spacing)
        return upsample(body + soft, size)

    def airways(self, view: View) -> Map:
        """Trachea and main bronchi, thickness in mm."""
        carina = float(self.vertebra(5.6))
        trachea = [[0, -110, 5], [0, -65, 2], [1, -20, -5], [0, carina - 45, -12], [-3, carina, -15]]
        right = [[-3, carina - 4], [-10, carina + 10], [-19, carina + 24], [-28, carina + 38], [-33, carina + 52]]
        left = [[-3, carina - 4], [9, carina + 8], [22, carina + 18], [34, carina + 27], [40, carina + 38]]
        points = np.array([trachea, *([[x, y, -16] for x, y in bronchus] for bronchus in (right, left))])
        tubes = Tubes(view)
        radii = np.array([[9, 9, 9.5, 9.5, 9], [7, 7, 6.5, 5, 1.5], [6.5, 6, 5.5, 4, 1.5]])
        tubes.add(curve(points), curve(radii))
        return tubes.thickness()
