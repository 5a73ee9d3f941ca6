"""Lung nodules and liver lesions: irregular balls, measured as drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.ct import tissue
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
SOFT = 20.0  # HU of a part-solid nodule's core
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
        if (near := slab.part(self.centre - 2 * self.radius, self.centre + 2 * self.radius)) is None:
            return
        distance, hu = self.distance(near.lines), self.density
        share = np.minimum(near.cover(distance), near.organ)
        if self.spikes is not None:
            near.blend(near.cover(near.distance(self.spikes, 2)) * near.organ, hu)
        if self.kind == "metastasis":
            hu = trunk.contrast.liver * (1 - hu / tissue.VENOUS.liver)
        near.blend(share, hu + (45 if hu < -300 else 6) * near.patchy)
        if self.kind == "part_solid":
            near.blend(near.cover(distance + 0.45 * self.radius) * share, SOFT)
        np.maximum(near.finding, share, out=near.finding)


def nodules(chest: Thorax, rng: np.random.Generator) -> list[Lesion]:
    """0 to 6 nodules, in the parenchyma or on the pleura."""
    points = np.concatenate([chest.points(side, rng, 0.6) for side in (-1, 1)])
    at = Points(chest.trunk, *points.astype(np.float32).T)
    depth, wall = -chest.lungs(at), -at.cavity - PLEURA
    central = np.linalg.norm(points - (0, 0, chest.hilum), axis=1) - 75  # the great vessels are there
    found: list[Lesion] = []
    for _ in range(int(rng.choice(7, p=(0.12, 0.26, 0.24, 0.16, 0.11, 0.07, 0.04)))):
        kind = str(rng.choice(NODULES, p=(0.64, 0.16, 0.2)))
        radius = float(np.clip(rng.lognormal(np.log(8.5), 0.5), *DIAMETERS[0])) / 2
        on_wall = (0.3 * radius < depth) & (depth < 0.7 * radius) & (np.abs(wall - depth) < 0.3)
        place = (on_wall if rng.random() < 0.3 else depth > radius + 4) & (central > radius)
        density = float(rng.normal(30, 12) if kind == "solid" else rng.normal(-610, 50))
        _add(found, points[place], rng, kind, radius, density, 0.8 * radius)
    return [m for lesion in found if (m := lesion.measured(chest.trunk, chest.lungs))]


def lesions(belly: Belly, rng: np.random.Generator) -> list[Lesion]:
    """0 to 8 liver lesions: cysts, and metastases darker than the liver."""
    depth = -belly.liver(Points(belly.trunk, *belly.spots.astype(np.float32).T))
    found: list[Lesion] = []
    for _ in range(int(rng.choice(9, p=(0.12, 0.2, 0.18, 0.14, 0.12, 0.09, 0.07, 0.05, 0.03)))):
        kind = str(rng.choice(LESIONS, p=(0.75, 0.25)))
        radius = float(np.clip(rng.lognormal(np.log(15), 0.6), *DIAMETERS[1])) / 2
        density, pitch = (6.0, 1.4) if kind == "cyst" else (float(rng.uniform(30, 55)), 0.8)
        _add(found, belly.spots[depth > 0.75 * radius + 1], rng, kind, radius, density, pitch * radius)
    return [m for lesion in found if (m := lesion.measured(belly.trunk, belly.liver))]


def _add(
    found: list[Lesion], places: NDArray, rng: np.random.Generator, kind: str, radius: float, hu: float, pitch: float
) -> None:
    """Add a lesion at one of the places [N, 3], if there are any and it keeps a distance from the others."""
    if not len(places):
        return
    spot, stretch, spikes = places[rng.integers(len(places))], rng.uniform(0.85, 1.2, 3), None
    if kind == "solid" and radius > 6 and rng.random() < 0.6:
        out = rng.normal(size=(14, 1, 3))
        out *= radius / np.linalg.norm(out, axis=-1, keepdims=True)
        spikes = Tubes(spot + out * np.array([[0.8], [1.6]]), np.tile([0.9, 0.35], (14, 1)))
    lobes, growth = RandomField.draw(rng, max(pitch, 2.0), 16), float(np.clip(rng.normal(1.07, 0.1), 0.85, 1.4))
    if all(np.linalg.norm(spot - o.centre) > 1.4 * (radius + o.radius) + 4 for o in found):
        found.append(Lesion(kind, spot, radius, stretch, hu, growth, lobes, spikes))
