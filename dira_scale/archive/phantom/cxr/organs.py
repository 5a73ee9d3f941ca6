"""The chest's organs projected on the detector: thickness maps in mm, [size, size]."""

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.anatomy import curve
from dira_scale.archive.phantom.cxr.primitives import TubeLayer, ellipsoid
from dira_scale.archive.phantom.cxr.view import Map, Torso, View


def lungs(chest: Torso, view: View) -> tuple[Map, Map]:
    """(chest cavity beside the mediastinum, the part filled by the domes), thickness in mm, [size, size]."""
    x, y = view.grid
    line = np.arange(-10, 420, 0.25)
    outer, inner = chest.lateral(line), chest.medial(line)
    at = np.clip((y + np.float32(10)) * np.float32(4), 0, len(line) - 1).astype(np.intp)
    centre, half, chord = (
        v.astype(np.float32)[at]
        for v in ((outer + inner) / 2, np.maximum((outer - inner) / 2, 1e-3), np.where(line <= 0, 0, chest.depth(line)))
    )
    u = np.square(np.square((np.abs(x) - centre) / half))
    cavity = chord * np.sqrt(np.maximum(1 - u, 0))
    fill = np.zeros_like(cavity)
    for side in (-1, 1):
        (cx, cy, _), (ax, ay, az) = chest.dome(side)
        across = (x - np.float32(cx)) * np.float32(side / ax)
        across = np.maximum(across, np.float32(-0.5) * across)  # stays high towards the middle
        down = np.minimum((y - np.float32(cy)) / np.float32(ay), 0)
        dome = np.sqrt(np.maximum(1 - across * across - down * down, 0)) * np.float32(2 * az)
        np.maximum(fill, dome, out=fill)
    return cavity, np.minimum(fill, cavity)


def mediastinum(chest: Torso, view: View) -> tuple[Map, Map]:
    """(heart, mediastinum with the great vessels), thickness in mm, [size, size]."""
    scale, (right, down), (long, high) = chest.heart, chest.apart, chest.ventricle
    base, unit = chest.anatomy.height - 0.3 * sum(chest.state.domes), chest.anatomy.height / 206
    heart, great, lower = np.zeros((3, view.size, view.size), np.float32)
    for (cx, cy, cz), axes, angle in (
        ((30, base - 26, 22), (68 * long, 41 * high, 58), 34 - chest.anatomy.lie),  # left ventricle, apex down and left
        ((-11, base - 40, 15), (34 * chest.atrium, 52, 55), -6),  # right atrium
        ((14, base - 62, 15), (30, 48, 52), -24),  # left atrium and its appendage, outflow
    ):
        placed = cx * scale + right, cy + down - 14 * (scale - 1), cz
        ellipsoid(view, placed, tuple(a * scale * unit**0.5 for a in axes), angle, heart)
    arch, aorta = float(chest.vertebra(chest.arch)), chest.anatomy.aorta
    ellipsoid(view, (18, arch, -15), (aorta + 11, aorta + 8, 36), 0, great)  # the arch, seen end on
    ellipsoid(view, (-15, arch + 36, 15), (21 * chest.pedicle, 92, 36), 3, great)  # ascending aorta, cava
    ellipsoid(view, (18, arch + 40, 5), (25, 33, 40), 0, lower)  # pulmonary trunk
    ellipsoid(view, (18, arch + 90, -50), (aorta + 3, 130, aorta + 8), 3, lower)  # descending aorta
    for side in (-1, 1):  # vessels to neck and arms
        ellipsoid(view, (15 * side, arch - 65, 3), (16 * chest.pedicle, 90, 22), 3 * side, great)
    x, y = view.grid
    half = np.float32(19) + np.float32(5) * np.tanh((y - np.float32(arch)) / np.float32(60))
    band = np.float32(0.34 * chest.anatomy.depth) * np.sqrt(np.maximum(1 - np.square(x / half), 0))
    return heart, np.sqrt(great * great + lower * lower + band * band)


def gas(chest: Torso, view: View, filled: float) -> Map:
    """Air in trachea and main bronchi, and in the stomach, in mm. filled: 0 ... 1, by study."""
    carina = float(chest.vertebra(chest.arch + 0.4))
    trachea = [[0, -110, -16], [0, -45, -16], [-1, carina - 45, -16], [-5, carina, -16]]
    right = [[-5, carina - 4, -16], [-14, carina + 16, -16], [-26, carina + 36, -16], [-33, carina + 52, -16]]
    left = [[-5, carina - 4, -16], [15, carina + 13, -16], [32, carina + 25, -16], [40, carina + 38, -16]]
    tubes, radii = TubeLayer(view), np.array([[9, 9, 9.5, 9], [7, 6.5, 5, 1.5], [6.5, 6, 4.5, 1.5]])
    tubes.add(curve(np.array([trachea, right, left])), curve(radii))
    (x, y, _), (_, rise, _) = chest.dome(1)
    shift, shape = chest.stomach
    size = 26 * filled
    axes = ((8 + 1.3 * size) * shape, (4 + 0.7 * size) / shape, 4 + 0.8 * size)
    return ellipsoid(view, (x - 12 + shift, y - rise + 14 + 0.7 * size, 0), axes, -8, tubes.thickness())


GENERATIONS = 7
FINEST = 0.4  # mm: thinner ones are lost in the noise
SEGMENTS = ((-72, -34), (-48, -30), (-30, -16), (-8, 0), (14, 14), (34, 26), (52, 38), (68, 46), (82, 44))
MURRAY = 2 ** (-1 / 3)  # radius of each of two equal daughters (Murray 1926: the cubes add up)


def vessels(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """Thickness of blood in the pulmonary vessels, mm, [size, size]; not yet clipped to the aerated lung."""
    layer, hilum = TubeLayer(view), float(chest.vertebra(6.2))
    unit, calibre, bottom = chest.anatomy.height / 206, chest.state.vessels, chest.anatomy.height + 30
    right = [[-6, hilum - 6, 0], [-46, hilum + 2, -8], [-57, hilum + 24, -18], [-63, hilum + 52, -25]]
    left = [[8, hilum - 12, -5], [46, hilum - 12, -15], [56, hilum + 8, -25], [60, hilum + 42, -32]]
    radii = np.array([[8.5, 7.4, 5.6, 3.6], [9, 7.8, 5.6, 3.6]])
    layer.add(curve(np.array([right, left])), calibre * curve(radii))
    side, (angle, where) = np.repeat((-1, 1), len(SEGMENTS)), np.tile(np.array(SEGMENTS).T, 2)
    a, deep = np.radians(angle + rng.normal(0, 10, len(side))), rng.normal(-0.1, 0.45, len(side))
    x, y = side * (54 + rng.normal(0, 2, len(side))), hilum - 6 * (side > 0) + where
    start, direction = np.stack([x, y, -10 + 10 * deep], -1), _unit(np.stack([side * np.cos(a), np.sin(a), deep], -1))
    length = unit * rng.uniform(22, 36, len(side)) * np.where(angle > -60, 1.0, 0.75)
    radius = rng.uniform(2.6, 4.4, len(side)) * np.where(angle > 0, 1.0, 0.82)
    for level in range(GENERATIONS):
        end = start + direction * length[:, None]
        layer.add(np.stack([start, end], 1), calibre * np.stack([radius, radius * MURRAY], 1))
        spread = np.radians(rng.uniform(14, 34, (2, len(start), 1))) * np.array([1, -1])[:, None, None]
        sideways = _unit(np.cross(direction, rng.normal(size=direction.shape)))
        start = np.concatenate([end, end])
        outward = 0.16 * (start - (0, hilum, -5)) / (np.abs(start).max() + 1)
        direction = _unit(np.concatenate([direction * np.cos(a) + sideways * np.sin(a) for a in spread]) + outward)
        uneven = rng.uniform(0.86, 1.1, len(radius))
        radius = np.concatenate([radius * uneven, radius * (1.96 - uneven)]) * MURRAY
        length = np.tile(length, 2) * rng.uniform(0.68, 0.98, len(start))
        lost = rng.random(len(start)) < (chest.state.pruned if level >= 3 else 0)
        x, y = np.abs(start[:, 0]), start[:, 1]
        keep = ~lost & (y > 2) & (x > 12) & (x < chest.lateral(y) - 4) & (y < bottom) & (radius > FINEST)
        start, direction, length, radius = start[keep], direction[keep], length[keep], radius[keep]
    return layer.thickness()


def _unit(vectors: NDArray) -> NDArray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
