"""Lung nodules and liver lesions: irregular balls, measured as drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.ct.belly import Belly
from dira_scale.archive.phantom.ct.chest import PLEURA, Thorax
from dira_scale.archive.phantom.ct.slab import GridLines, Slab
from dira_scale.archive.phantom.ct.solids import Array, RandomField
from dira_scale.archive.phantom.ct.trunk import Points, Trunk
from dira_scale.archive.phantom.ct.tubes import Tubes

Surface = Callable[[Points], Array]  # distance to an organ
NODULES = ("solid", "part_solid", "ground_glass")
LESIONS = ("metastasis", "cyst")
DIAMETERS = (4.0, 30.0), (6.0, 60.0)  # mm, of nodules and of lesions
UNEVEN = 0.1  # standard deviation, relative to the radius
MIN_INSIDE = 0.35  # minimum share of its volume inside the organ; below it, breathing has pushed the lesion out
ENHANCED = 80.0  # HU of a contrast-enhanced liver
PLAIN_GAIN = 0.45  # share of its contrast that a metastasis keeps unenhanced
CUBE = 36  # points per side to measure a lesion


@dataclass(frozen=True)
class Lesion:
    """One finding in the trunk's frame, mm and HU."""

    kind: str
    centre: NDArray[np.float64]  # of the original ball
    radius: float
    stretch: NDArray[np.float64]  # along x, y, z
    density: float  # HU; for a metastasis, below the enhanced liver
    growth: float  # of the radius between studies
    lobes: RandomField
    core: float = 0.0  # HU of a part-solid nodule's
    spikes: Tubes | None = None
    middle: tuple[float, ...] = ()  # x, y, z as drawn: set by `measured`
    diameter: float = 0.0  # of the ball of the same volume
    extent: tuple[NDArray, ...] = ()  # low and high corner (x, y, z)

    def distance(self, lines: GridLines) -> Array:
        """Distance to its surface on a grid, before clipping to its organ."""
        gaps = [np.square((v - o) / s) for v, o, s in zip(lines[::-1], self.centre, self.stretch, strict=True)]
        ball = np.sqrt(gaps[0] + gaps[1][:, None] + gaps[2][:, None, None])
        return (ball - self.radius * (1 + UNEVEN * self.lobes.on(*lines))).astype(np.float32)

    def measured(self, trunk: Trunk, organ: Surface) -> Lesion | None:
        """A copy with middle, diameter and extent of its part inside the organ; None if too little is left."""
        step = 3.2 * self.radius / CUBE
        x, y, z = self.centre[:, None] + (np.arange(CUBE) + 0.5 - CUBE / 2) * step
        places = Points(trunk, *np.meshgrid(x, y, z, indexing="ij", copy=False))
        inside = (self.distance((z, y, x)).transpose(2, 1, 0) < 0) & (organ(places) < 0)
        volume = inside.sum() * step**3
        if volume < MIN_INSIDE * 4 / 3 * np.pi * self.radius**3:
            return None
        points = np.stack([places.x, places.y, places.z], -1)[inside]
        extent = points.min(0) - step / 2, points.max(0) + step / 2
        middle = tuple(float(v) for v in points.mean(0))
        return replace(self, middle=middle, diameter=float((6 * volume / np.pi) ** (1 / 3)), extent=extent)

    def paint(self, slab: Slab, trunk: Trunk) -> None:
        """Paint it inside its organ, which the slab has, and mark it as a finding."""
        near = slab.part(self.centre - 2 * self.radius, self.centre + 2 * self.radius)
        if near is None:
            return
        distance, liver = self.distance(near.lines), trunk.contrast.liver
        share, density, rough = near.cover(distance) * near.organ, self.density, 6.0
        if self.spikes is not None:
            near.blend(near.cover(near.distance(self.spikes, 2)) * near.organ, density)
        if self.kind == "metastasis":
            density = liver - density * (1.0 if liver > ENHANCED else PLAIN_GAIN)
        elif density < -300:
            rough = 45.0
        near.blend(share, density + rough * near.patchy)
        if self.kind == "part_solid":
            near.blend(near.cover(distance + 0.45 * self.radius) * share, self.core)
        np.maximum(near.finding, share, out=near.finding)


def nodules(chest: Thorax, rng: np.random.Generator) -> list[Lesion]:
    """0 to 6 nodules, in the parenchyma or on the pleura."""
    trunk, found = chest.trunk, list[Lesion]()
    points = np.concatenate([chest.points(side, rng, 0.6) for side in (-1, 1)])
    at = Points(trunk, *points.astype(np.float32).T)
    depth, wall = -chest.lungs(at), -at.cavity - PLEURA
    for _ in range(int(rng.choice(7, p=(0.12, 0.26, 0.24, 0.16, 0.11, 0.07, 0.04)))):
        kind = str(rng.choice(NODULES, p=(0.64, 0.16, 0.2)))
        radius = float(np.clip(rng.lognormal(np.log(8.5), 0.5), *DIAMETERS[0])) / 2
        on_wall = (0.3 * radius < depth) & (depth < 0.7 * radius) & (np.abs(wall - depth) < 0.3)
        good = on_wall if rng.random() < 0.3 else depth > radius + 4
        good &= np.linalg.norm(points - (0, 0, chest.hilum), axis=1) > 75 + radius  # clear of the great vessels
        if not good.any():  # the chest has no such place
            continue
        spot, spikes = points[rng.choice(np.flatnonzero(good))], None
        density = float(rng.normal(30, 12)) if kind == "solid" else float(rng.normal(-610, 50))
        if kind == "solid" and radius > 6 and rng.random() < 0.6:
            out = rng.normal(size=(14, 1, 3))
            out *= radius / np.linalg.norm(out, axis=-1, keepdims=True)
            spikes = Tubes(spot + out * np.array([[0.8], [1.6]]), np.tile([0.9, 0.35], (14, 1)))
        stretch, growth = rng.uniform(0.85, 1.18, 3), float(np.clip(rng.normal(1.06, 0.1), 0.85, 1.4))
        lobes = RandomField.draw(rng, max(radius * 0.8, 2.0), 16)
        _add(Lesion(kind, spot, radius, stretch, density, growth, lobes, float(rng.normal(0, 25)), spikes), found)
    return [m for lesion in found if (m := lesion.measured(trunk, chest.lungs))]


def lesions(belly: Belly, rng: np.random.Generator) -> list[Lesion]:
    """0 to 8 liver lesions: cysts, and metastases darker than the liver."""
    trunk, found = belly.trunk, list[Lesion]()
    depth = -belly.liver(Points(trunk, *belly.spots.astype(np.float32).T))
    for _ in range(int(rng.choice(9, p=(0.12, 0.2, 0.18, 0.14, 0.12, 0.09, 0.07, 0.05, 0.03)))):
        kind = str(rng.choice(LESIONS, p=(0.75, 0.25)))
        radius = float(np.clip(rng.lognormal(np.log(15), 0.6), *DIAMETERS[1])) / 2
        deep = depth > 0.75 * radius + 1
        if not deep.any():
            continue
        spot = belly.spots[rng.choice(np.flatnonzero(deep))]
        density = 6.0 if kind == "cyst" else float(rng.uniform(30, 55))
        stretch, growth = rng.uniform(0.85, 1.2, 3), float(np.clip(rng.normal(1.08, 0.12), 0.8, 1.4))
        lobes = RandomField.draw(rng, radius * (1.4 if kind == "cyst" else 0.8), 16)
        _add(Lesion(kind, spot, radius, stretch, density, growth, lobes), found)
    return [m for lesion in found if (m := lesion.measured(trunk, belly.liver))]


def _add(lesion: Lesion, others: list[Lesion]) -> None:
    """Add it if it keeps a distance from the others."""
    gaps = [np.linalg.norm(lesion.centre - o.centre) - 1.4 * (lesion.radius + o.radius) for o in others]
    if all(gap > 4 for gap in gaps):
        others.append(lesion)
