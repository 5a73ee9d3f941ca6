"""Lung nodules and liver lesions: irregular balls, measured as drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.ct.belly import Belly
from dira_scale.archive.phantom.ct.chest import PLEURA, Thorax
from dira_scale.archive.phantom.ct.slab import Slab
from dira_scale.archive.phantom.ct.solids import Array, RandomField, ramp
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
    """One finding in the trunk's straight frame, mm and HU."""

    kind: str
    centre: NDArray[np.float64]  # of the original ball
    radius: float
    stretch: NDArray[np.float64]  # along x, y, z
    density: float  # HU; for a metastasis, below the enhanced liver
    core: float  # HU of a part-solid nodule's core; of a metastasis's rim, above the enhanced liver (0: none)
    growth: float  # of the radius between studies
    lobes: RandomField
    spikes: Tubes | None = None
    middle: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, y, z as drawn: set by `measured`
    diameter: float = 0.0  # of the ball of the same volume
    extent: tuple[tuple[float, float], ...] = ()  # in x, y, z

    def distance(self, x: NDArray, y: NDArray, z: NDArray, lobes: NDArray) -> NDArray:
        """Distance to its surface, before clipping to its organ."""
        gap = [(c - o) / s for c, o, s in zip((x, y, z), self.centre, self.stretch, strict=True)]
        return np.sqrt(sum(np.square(g) for g in gap)) - self.radius * (1 + UNEVEN * lobes)

    def measured(self, trunk: Trunk, organ: Surface) -> Lesion | None:
        """A copy with middle, diameter and extent of its part inside the organ; None if too little is left."""
        half = 1.6 * self.radius
        line = (np.arange(CUBE) + 0.5) / CUBE * 2 * half - half
        points = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3) + self.centre
        x, y, z = points.T
        inside = points[self.distance(x, y, z, self.lobes.at(points)) < 0]
        inside = inside[organ(trunk.points(trunk.bent(inside))) < 0]
        volume = len(inside) * (2 * half / CUBE) ** 3
        if volume < MIN_INSIDE * 4 / 3 * np.pi * self.radius**3:
            return None
        x, y, z = (float(v) for v in inside.mean(0))
        step = half / CUBE
        extent = tuple((float(a - step), float(b + step)) for a, b in zip(inside.min(0), inside.max(0), strict=True))
        return replace(self, middle=(x, y, z), diameter=float((6 * volume / np.pi) ** (1 / 3)), extent=extent)

    def paint(self, slab: Slab, organ: Array, trunk: Trunk) -> None:
        """Paint it and mark it as a finding. organ: distance to the organ on the slab."""
        reach = 1.7 * self.radius
        low, high = self.centre - reach, self.centre + reach
        near = slab.part(tuple(low), tuple(high), 2)
        if near is None:
            return
        z, y, x = near.lines
        distance = self.distance(x[None, None], y[None, :, None], z[:, None, None], self.lobes.on(*near.lines))
        first = [int(np.searchsorted(line, part[0])) for line, part in zip(slab.lines, near.lines, strict=True)]
        inside = organ[tuple(slice(f, f + len(part)) for f, part in zip(first, near.lines, strict=True))]
        surface = np.maximum(distance.astype(np.float32), inside)
        patchy = near.patchy
        if self.kind in NODULES:
            if self.spikes is not None:
                near.blend(near.cover(near.distance(self.spikes, 2)) * near.cover(inside + 2), self.density)
            near.paint(surface, np.float32(self.density) + (45 if self.density < -300 else 6) * patchy)
            if self.kind == "part_solid":
                near.paint(surface + np.float32(0.45 * self.radius) + 0.1 * self.radius * patchy, self.core)
        else:
            liver, enhanced = trunk.contrast.liver, trunk.contrast.liver > ENHANCED
            gain = 1.0 if enhanced else PLAIN_GAIN
            near.paint(surface, (self.density if self.kind == "cyst" else liver + gain * self.density) + 5 * patchy)
            if self.core and enhanced:
                wide = 0.12 * self.radius + 0.8
                rim = ramp(-np.abs(surface + np.float32(wide)), -wide, -0.2)
                near.blend(near.cover(surface) * rim, liver + self.core)
        share = near.cover(surface)
        np.maximum(near.finding, share, out=near.finding)


def nodules(chest: Thorax, rng: np.random.Generator) -> list[Lesion]:
    """0 to 6 nodules: in the parenchyma, on the pleura, or on a vessel."""
    trunk, lesions = chest.trunk, list[Lesion]()
    for _ in range(int(rng.choice(7, p=(0.12, 0.26, 0.24, 0.16, 0.11, 0.07, 0.04)))):
        kind = str(rng.choice(NODULES, p=(0.64, 0.16, 0.2)))
        radius = float(np.clip(rng.lognormal(np.log(8.5), 0.5), *DIAMETERS[0])) / 2
        where = str(rng.choice(("free", "pleura", "vessel"), p=(0.5, 0.25, 0.25)))
        points = chest.pipes.ends[:, 1][chest.pipes.radii[:, 1] > 0.8]
        if where != "vessel":
            points = np.concatenate([trunk.straight(chest.points(side, rng, 0.3 * radius)) for side in (-1, 1)])
        at = trunk.points(trunk.bent(points))
        depth, wall = -chest.lungs(at), -at.cavity - PLEURA
        on_wall = (depth < 0.7 * radius) & (np.abs(wall - depth) < 0.3)
        good = on_wall if where == "pleura" else depth > radius + 4
        good &= np.linalg.norm(points - (0, 0, chest.middle.hilum), axis=1) > 75 + radius  # clear of the great vessels
        if not good.any():  # the chest has no such place
            continue
        spot = points[rng.choice(np.flatnonzero(good))]
        density, core, spikes = float(rng.normal(30, 12)), 0.0, None
        if kind == "solid" and radius < 5 and rng.random() < 0.2:
            density = float(rng.uniform(200, 500))  # calcified
        if kind != "solid":
            density, core = float(rng.normal(-610, 50)), float(rng.normal(0, 25))
        if kind == "solid" and radius > 6 and rng.random() < 0.6:
            out = rng.normal(size=(14, 3))
            out /= np.linalg.norm(out, axis=1, keepdims=True)
            ends = np.stack([spot + 0.8 * radius * out, spot + radius * rng.uniform(1.35, 1.9, (14, 1)) * out], 1)
            spikes = Tubes(ends, np.tile([0.9, 0.35], (14, 1)))
        stretch, growth = rng.uniform(0.85, 1.18, 3), float(np.clip(rng.normal(1.06, 0.1), 0.85, 1.4))
        lobes = RandomField.draw(rng, max(radius * 0.8, 2.0), 16)
        lesion = Lesion(kind, spot, radius, stretch, density, core, growth, lobes, spikes)
        if _apart(lesion, lesions):
            lesions.append(lesion)
    return [m for lesion in lesions if (m := lesion.measured(trunk, chest.lungs))]


def lesions(belly: Belly, rng: np.random.Generator) -> list[Lesion]:
    """0 to 8 liver lesions: cysts, and metastases darker than the liver, some with a rim."""
    trunk = belly.trunk
    lesions: list[Lesion] = []
    depth = -belly.liver(trunk.points(belly.spots))
    for _ in range(int(rng.choice(9, p=(0.12, 0.2, 0.18, 0.14, 0.12, 0.09, 0.07, 0.05, 0.03)))):
        kind = str(rng.choice(LESIONS, p=(0.75, 0.25)))
        radius = float(np.clip(rng.lognormal(np.log(15), 0.6), *DIAMETERS[1])) / 2
        deep = depth > 0.75 * radius + 1
        if not deep.any():
            continue
        spot = trunk.straight(belly.spots[rng.choice(np.flatnonzero(deep))])
        darker, rim = float(rng.uniform(30, 55)), rng.random() < 0.45
        density = 6.0 if kind == "cyst" else -darker
        core = 12.0 if rim and kind != "cyst" else 0.0
        stretch, growth = rng.uniform(0.85, 1.2, 3), float(np.clip(rng.normal(1.08, 0.12), 0.8, 1.4))
        lobes = RandomField.draw(rng, radius * (1.4 if kind == "cyst" else 0.8), 16)
        lesion = Lesion(kind, spot, radius, stretch, density, core, growth, lobes)
        if _apart(lesion, lesions):
            lesions.append(lesion)
    return [m for lesion in lesions if (m := lesion.measured(trunk, belly.liver))]


def _apart(lesion: Lesion, others: list[Lesion]) -> bool:
    return all(
        np.linalg.norm(lesion.centre - other.centre) > 1.4 * (lesion.radius + other.radius) + 4 for other in others
    )
