"""Devices in or on the patient: pacemakers, sternal wires, valves, ports, rods; tubes, catheters and electrodes.

Implants stay in their place through all studies from their first one on; the rest is of one study.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.curve import curve
from dira_scale.archive.phantom.cxr.primitives import TubeLayer, ellipsoid
from dira_scale.archive.phantom.cxr.view import Map, Torso, View

STEEL, TITANIUM, PLASTIC = 1.2, 0.35, 0.12  # line integral per mm at 60 keV, rounded; PLASTIC has a lead stripe
OPAQUE = 3.0  # line integral beyond which nothing becomes brighter
NEW_SHARE = 0.3  # of the implants: placed between two studies


@dataclass(frozen=True)
class Implant:
    """One implant; seed: of its place and shape."""

    kind: str
    seed: int


def draw(rng: np.random.Generator, age: int, studies: int) -> list[list[Implant]]:
    """A patient's implants per study: more with age; most are there from the first study on."""
    courses: list[list[Implant]] = [[] for _ in range(studies)]
    for kind, (share, _) in IMPLANTS.items():
        has, new, seed = rng.random() < share * age / 60, rng.random() < NEW_SHARE, int(rng.integers(2**31))
        first = int(rng.integers(studies)) if new else 0
        for study in range(first if has else studies, studies):
            courses[study].append(Implant(kind, seed))
    return courses


def shadows(implants: Sequence[Implant], chest: Torso, view: View, rng: np.random.Generator) -> Map | float:
    """Line integrals of implants, and of what the study's ``rng`` adds, [size, size]."""
    parts = [IMPLANTS[implant.kind][1](chest, view, np.random.default_rng(implant.seed)) for implant in implants]
    shares = (0.1, 0.01, 0.01, 0.02) if view.front else (0.5, 0.25, 0.25, 0.25)  # the lying are more ill
    painters: tuple[Painter, ...] = (_electrodes, _tracheal_tube, _gastric_tube, _central_line)
    attached = [painter for painter, share in zip(painters, shares, strict=True) if rng.random() < share]
    parts += [paint(chest, view, rng) for paint in attached]
    return np.minimum(sum(parts), np.float32(OPAQUE)) if parts else 0.0


def _wires(view: View, radius: float, density: float, *lines: NDArray) -> Map:
    """Smooth wires through control points [M, 3] each (mm)."""
    layer = TubeLayer(view)
    for points in lines:
        path = curve(np.asarray(points, float)[None], 12 * len(points))
        layer.add(path, np.full(path.shape[:2], radius))
    return layer.thickness() * np.float32(density)


def _pacemaker(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """The generator below a clavicle, one to three leads to the heart; some with a defibrillator's coil."""
    side, lowered = (1 if rng.random() < 0.75 else -1), rng.normal(0, 9)
    at = np.array([side * (chest.width - rng.uniform(18, 42)), 54 + lowered, 85])
    case = ellipsoid(view, tuple(at), (24, 20, 5), rng.uniform(-30, 30)) * np.float32(TITANIUM * 0.7)
    base = chest.anatomy.height - 40
    tips = [(34 + rng.normal(0, 8), base + 4, 50), (-18, base - 40 + rng.normal(0, 6), 55), (62, base - 44, -20)]
    atrium = (-16 + rng.normal(0, 3), base - 20 + rng.normal(0, 5), 25)
    loop = at + np.array([-side * 26, rng.uniform(0, 16), 0])
    vein = (side * 60, 26 + rng.normal(0, 5), 50), (side * 20, 34, 25), (-22, 70, 20)
    leads = [np.array([at, loop, *vein, atrium, tip]) for tip in tips[: int(rng.integers(1, 4))]]
    shadow = np.maximum(case, _wires(view, 1.0, STEEL * 0.7, *leads))
    if rng.random() < 0.3:
        shadow = np.maximum(shadow, _wires(view, 1.9, STEEL, np.linspace(atrium, tips[0], 4)))
    return shadow


def _sternal_wires(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """Five to seven twisted loops along the sternum; on some, clips beside the heart."""
    unit, middle, layer = chest.anatomy.height / 206, rng.normal(0, 4), TubeLayer(view)
    t = np.linspace(0, 2 * np.pi, 40)
    for y in np.linspace(38, 170, int(rng.integers(5, 8))) * unit + rng.normal(0, 3, 1):
        wide, high, tilt = 9 + rng.normal(0, 1.5), 3 + rng.uniform(0, 2.5), rng.normal(0, 0.2)
        x, down = wide * np.cos(t), high * np.sin(t)
        loop = np.stack([middle + x, y + down + tilt * x, 85 + 0.12 * y + 0 * t], -1)
        layer.add(loop[None], np.full((1, 40), 0.6))
    if rng.random() < 0.5:
        clips = rng.uniform((12, 90, 30), (48, 165, 70), (int(rng.integers(4, 10)), 3)) * (1, unit, 1)
        layer.add(np.stack([clips, clips + rng.normal(0, 2.5, clips.shape)], 1), np.full((len(clips), 2), 0.8))
    return layer.thickness() * np.float32(STEEL)


def _valve(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """The ring of an artificial aortic or mitral valve."""
    t, tilt = np.linspace(0, 2 * np.pi, 48), rng.uniform(0.25, 0.7)
    x, y = (10, -70) if rng.random() < 0.5 else (26, -48)
    turn, radius = rng.uniform(-1, 1), rng.uniform(11, 15)
    across, along = radius * np.cos(t), radius * tilt * np.sin(t)
    ring = np.stack([across * np.cos(turn) - along * np.sin(turn), across * np.sin(turn) + along * np.cos(turn)], -1)
    centre = np.array([x, chest.anatomy.height + y])
    layer = TubeLayer(view)
    layer.add(np.concatenate([ring + centre, np.full((48, 1), 15.0)], -1)[None], np.full((1, 48), 1.1))
    return layer.thickness() * np.float32(STEEL)


def _port(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """A port's chamber on the chest and its catheter to the superior vena cava."""
    side = 1 if rng.random() < 0.3 else -1
    at = np.array([side * (chest.width - rng.uniform(45, 70)), 75 + rng.normal(0, 8), 85])
    case: Map = ellipsoid(view, tuple(at), (12, 12, 5)) * np.float32(TITANIUM)
    case -= ellipsoid(view, tuple(at), (7, 7, 4)) * np.float32(0.2)  # the membrane
    way = [at, (side * 62, 22, 60), (side * 34, 12, 40), (side * 18, 42, 20), (-22, 78, 15), (-24, 110, 15)]
    return case + _wires(view, 1.2, PLASTIC * 2, np.array(way))


def _rods(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """Two rods along the spine, with a screw to each vertebra on both sides."""
    first = int(rng.integers(3, 9))
    numbers = np.arange(first, first + int(rng.integers(3, 6)))
    y = chest.vertebra(numbers)
    x, lines = chest.midline(y), []
    layer = TubeLayer(view)
    for side in (-1, 1):
        rod = np.stack([x + 14 * side, y, np.full_like(y, -85)], -1)
        lines.append(rod)
        layer.add(np.stack([rod, rod + np.array([-5 * side, 0, 30])], 1), np.full((len(rod), 2), 2.6))
    return np.maximum(layer.thickness() * np.float32(TITANIUM), _wires(view, 2.6, TITANIUM * 1.5, *lines))


def _clips(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """Clips of an operation: in an armpit, the upper abdomen or at the neck."""
    w, low = chest.width, chest.anatomy.height + 35
    spot = ((w + 8, 70, 20), (-60, low, 20), (0, -28, 20))[int(rng.integers(3))]
    side = 1 if rng.random() < 0.5 else -1
    count = int(rng.integers(3, 9))
    start = np.array([side * spot[0] if spot[0] > 0 else spot[0], *spot[1:]]) + rng.normal(0, 13, (count, 3))
    layer = TubeLayer(view)
    layer.add(np.stack([start, start + rng.normal(0, 3.2, (count, 3))], 1), np.full((count, 2), 0.9))
    return layer.thickness() * np.float32(STEEL)


def _electrodes(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """Three to five electrodes and their cables."""
    w, h = chest.width, chest.anatomy.height
    spots = np.array([(-w + 30, 25, 95), (w - 30, 25, 95), (w - 20, h - 20, 95), (-w + 20, h - 20, 95), (15, 90, 100)])
    spots = spots[: int(rng.integers(3, 6))] + rng.normal(0, 9, 3)
    meet, cables = np.array([rng.choice((-1, 1)) * rng.uniform(30, 90), h + 110, 110]), []
    pads = np.zeros((view.size, view.size), np.float32)
    for spot in spots:
        ellipsoid(view, spot, (5.5, 5.5, 1.0), 0, pads)
        sag = (spot + meet) / 2 + rng.normal(0, 22, 3) * (1, 1, 0)
        cables.append(np.array([spot, sag, meet]))
    return pads * np.float32(0.4) + _wires(view, 0.8, PLASTIC * 4, *cables)


def _tracheal_tube(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    tip = float(chest.vertebra(chest.build.arch)) - rng.uniform(15, 45)
    bend = rng.normal(0, 2)
    return _wires(view, 1.3, PLASTIC * 3, np.array([(bend, -130, 0), (bend + 3, -50, 0), (4, 0, -8), (2, tip, -12)]))


def _gastric_tube(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    h, x = chest.anatomy.height, rng.normal(4, 3)
    way = [(x, -130, -10), (x, -20, -25), (x - 4, 90, -40), (10 + x, h - 10, -40), (45, h + 35, -10)]
    return _wires(view, 1.5, PLASTIC * 2.5, np.array([*way, (70 + rng.normal(0, 12), h + 65, 20)]))


def _central_line(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    end = [(-20, 60, 10), (-24 + rng.normal(0, 3), rng.uniform(95, 125), 15)]
    jugular = [(-46 + rng.normal(0, 5), -110, 20), (-34, -45, 15), (-22, 10, 10)]
    subclavian = [(130, 45, 80), (80, 18, 55), (28, 30, 25)]
    return _wires(view, 1.1, PLASTIC * 2.5, np.array((jugular if rng.random() < 0.6 else subclavian) + end))


Painter = Callable[[Torso, View, np.random.Generator], Map]
IMPLANTS: dict[str, tuple[float, Painter]] = {  # share of patients of 60 years
    "pacemaker": (0.09, _pacemaker),
    "sternal wires": (0.09, _sternal_wires),
    "valve": (0.03, _valve),
    "port": (0.05, _port),
    "rods": (0.02, _rods),
    "clips": (0.1, _clips),
}
