"""The chest's organs projected on the detector: thickness maps in mm, [size, size]."""

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.curve import curve
from dira_scale.archive.phantom.cxr.primitives import TubeLayer, ellipsoid
from dira_scale.archive.phantom.cxr.view import Map, Torso, View


def lungs(chest: Torso, view: View) -> tuple[Map, Map]:
    """(chest cavity beside the mediastinum, the part filled by the domes), thickness in mm, [size, size]."""
    x, y = view.grid
    line = np.arange(-10, 420, 0.25)
    outer, inner, depth = chest.lateral(line), chest.medial(line), chest.depth(line)
    at = np.clip((y + np.float32(10)) * np.float32(4), 0, len(line) - 1).astype(np.intp)
    centre, half = ((outer + inner) / 2).astype(np.float32), ((outer - inner) / 2).astype(np.float32)
    u = (np.abs(x) - centre[at]) / np.maximum(half, 1e-3)[at]
    u *= u
    u *= u
    chord = np.where(line <= 0, 0, depth).astype(np.float32)[at]
    cavity = chord * np.sqrt(np.maximum(1 - u, 0))
    fill = np.zeros_like(cavity)
    for side in (-1, 1):
        (cx, cy, _), (ax, ay, az) = chest.dome(side)
        across = (x - np.float32(cx)) * np.float32(side / ax)
        across = np.maximum(across, np.float32(-0.5) * across)  # stays high towards the middle
        down = np.minimum((y - np.float32(cy)) / np.float32(ay), 0)
        dome = np.sqrt(np.maximum(1 - across * across - down * down, 0)) * np.float32(2 * az)
        np.maximum(fill, dome, out=fill)
    where, raised, wide = chest.build.hump
    if raised > 1:
        (cx, cy, _), (ax, ay, _) = chest.dome(-1)
        top = cy - ay * float(np.sqrt(1 - (where - 0.5) ** 2)) - raised
        ellipsoid(view, (cx + ax * (0.5 - where), top + 60, 10), (wide, 60, 70), 0, fill)
    return cavity, np.minimum(fill, cavity)


def mediastinum(chest: Torso, view: View) -> tuple[Map, Map]:
    """(heart, mediastinum with the great vessels), thickness in mm, [size, size]."""
    unit, scale, build = chest.anatomy.height / 206, chest.heart, chest.build
    base = chest.anatomy.height - 0.3 * sum(chest.state.domes)
    heart = np.zeros((view.size, view.size), np.float32)
    (right, down), (long, high), wide = build.heart, build.ventricle, build.atrium
    for centre, axes, angle in (
        ((30, base - 26, 22), (68 * long, 41 * high, 58), 34 - chest.anatomy.lie),  # left ventricle, apex down and left
        ((-11, base - 40, 15), (34 * wide, 52, 55), -6),  # right atrium
        ((14, base - 62, 15), (30 * build.trunk, 48, 52), -24),  # left atrium and its appendage, outflow
    ):
        placed = (centre[0] * scale + right, centre[1] + down - 14 * (scale - 1), centre[2])
        ellipsoid(view, placed, tuple(a * scale * unit**0.5 for a in axes), angle, heart)
    arch, aorta, far = float(chest.vertebra(build.arch)), chest.anatomy.aorta, build.unfolded
    great, lower = np.zeros_like(heart), np.zeros_like(heart)
    ellipsoid(view, (15 + 9 * far, arch, -15), (aorta + 11, aorta + 8, 36), 0, great)  # the arch, seen end on
    ellipsoid(view, (18, arch + 40, 5), (25 * build.trunk, 33, 40), 0, lower)  # pulmonary trunk
    ellipsoid(view, (-13 - 7 * far, arch + 36, 15), (21 * build.pedicle, 92, 36), 3, great)  # ascending aorta, cava
    ellipsoid(view, (15 + 10 * far, arch + 90, -50), (aorta + 2 + 4 * far, 130, aorta + 8), 3, lower)  # descending
    for side in (-1, 1):  # vessels to neck and arms
        ellipsoid(view, (15 * side, arch - 65, 3), (16 * build.pedicle, 90, 22), 3 * side, great)
    x, y = view.grid
    half = np.float32(19) + np.float32(5) * np.tanh((y - np.float32(arch)) / np.float32(60))
    band = np.float32(0.34 * chest.anatomy.depth) * np.sqrt(np.maximum(1 - np.square(x / half), 0))
    return heart, np.sqrt(great * great + lower * lower + band * band)


def airways(chest: Torso, view: View) -> Map:
    """Trachea and main bronchi, thickness in mm."""
    carina = float(chest.vertebra(chest.build.arch + 0.4))
    pushed = 5 * chest.build.unfolded  # to the right, by the arch
    trachea = [[0, -110, 5], [0, -65, 2], [1, -20, -5], [-pushed, carina - 45, -12], [-3 - pushed, carina, -15]]
    right = [[-3 - pushed, carina - 4], [-10, carina + 10], [-19, carina + 24], [-28, carina + 38], [-33, carina + 52]]
    left = [[-3 - pushed, carina - 4], [9, carina + 8], [22, carina + 18], [34, carina + 27], [40, carina + 38]]
    points = np.array([trachea, *([[x, y, -16] for x, y in bronchus] for bronchus in (right, left))])
    tubes = TubeLayer(view)
    radii = np.array([[9, 9, 9.5, 9.5, 9], [7, 7, 6.5, 5, 1.5], [6.5, 6, 5.5, 4, 1.5]])
    tubes.add(curve(points), curve(radii))
    return tubes.thickness()


def bowel_gas(chest: Torso, view: View, filled: float) -> Map:
    """Gas in the stomach and the colon's left flexure, in mm. filled: 0 ... 1, by study."""
    (x, y, _), (_, rise, _) = chest.dome(1)
    shift, shape = chest.build.stomach
    size = 26 * filled
    axes = ((8 + 1.3 * size) * shape, (4 + 0.7 * size) / shape, 4 + 0.8 * size)
    gas = ellipsoid(view, (x - 12 + shift, y - rise + 14 + 0.7 * size, 0), axes, -8)
    if chest.build.colon:
        wide = 8 + 9 * chest.build.colon
        for number in range(3):  # haustra along the flank
            centre = (x + 32 - 3 * number * number, y - 0.85 * rise + 8 + (1 + 1.45 * number) * wide, -20)
            ellipsoid(view, centre, (wide * (1.25 - 0.15 * number), wide, 0.8 * wide), 14 * number, gas)
    return gas


def calcium(chest: Torso, view: View) -> Map:
    """Calcified wall of the aortic arch, in mm of bone."""
    angle = np.linspace(-0.35, 0.4, 24) * np.pi * chest.build.calcified
    arch, radius = float(chest.vertebra(chest.build.arch)), chest.anatomy.aorta
    x = 15 + 9 * chest.build.unfolded + (radius + 9) * np.cos(angle)
    tubes = TubeLayer(view)
    tubes.add(np.stack([x, arch + (radius + 6) * np.sin(angle), 0 * x - 15], -1)[None], np.full((1, 24), 0.8), flat=3.0)
    return tubes.thickness() * np.float32(0.5)


GENERATIONS = 7
FINEST = 0.4  # mm: thinner ones are lost in the noise
SEGMENTS = ((-72, -34), (-48, -30), (-30, -16), (-8, 0), (14, 14), (34, 26), (52, 38), (68, 46), (82, 44))
MURRAY = 2 ** (-1 / 3)  # radius of each of two equal daughters (Murray 1926: the cubes add up)


def vessels(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """Thickness of blood in the pulmonary vessels, mm, [size, size]; not yet clipped to the aerated lung."""
    layer = TubeLayer(view)
    hilum = float(chest.vertebra(6.2))
    unit = chest.anatomy.height / 206
    calibre = chest.state.vessels
    trunks = np.array(  # right interlobar artery, left artery over its bronchus, upper branches
        [
            [[-6.0, hilum - 6, 0], [-46, hilum + 2, -8], [-57, hilum + 24, -18], [-63, hilum + 52, -25]],
            [[8, hilum - 12, -5], [46, hilum - 12, -15], [56, hilum + 8, -25], [60, hilum + 42, -32]],
            [[-12, hilum - 2, 5], [-42, hilum - 12, 5], [-51, hilum - 28, 0], [-56, hilum - 46, -5]],
            [[14, hilum - 12, 5], [44, hilum - 20, 5], [51, hilum - 34, 0], [56, hilum - 52, -5]],
        ]
    )
    hila = np.array([(side * out, down, 0) for side, (out, down) in zip((-1, 1), chest.build.hila, strict=True)])
    trunks[:, 1:] += hila[[0, 1, 0, 1], None]  # they leave the mediastinum where they did
    radii = np.array([[8.5, 7.4, 5.6, 3.6], [9, 7.8, 5.6, 3.6], [6.5, 5.5, 4.6, 3.6], [6.5, 5.5, 4.6, 3.6]])
    layer.add(curve(trunks), calibre * curve(radii))
    bottom = chest.anatomy.height + 30
    start, direction, length, radius = _roots(hilum, unit, hila, rng)
    for level in range(GENERATIONS):
        count = len(start)
        sideways = _perpendicular(direction, rng)
        end = start + direction * length[:, None]
        sag = sideways * (length * rng.normal(0, 0.07, count))[:, None]
        t = np.linspace(0, 1, 5)[None, :, None]
        points = start[:, None] * (1 - t) + end[:, None] * t + sag[:, None] * (4 * t * (1 - t))
        taper = radius[:, None] * (1 - (1 - MURRAY) * t[..., 0])
        layer.add(points, taper * calibre)
        start = np.concatenate([end, end])
        spread = np.radians(rng.uniform(14, 34, (2, count)))[..., None] * np.array([1, -1])[:, None, None]
        sideways = _perpendicular(direction, rng)
        outward = 0.16 * (start - (0, hilum, -5)) / (np.abs(start).max() + 1)
        direction = np.concatenate([direction * np.cos(a) + sideways * np.sin(a) for a in spread]) + outward
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        uneven = rng.uniform(0.86, 1.1, count)
        radius = np.concatenate([radius * MURRAY * uneven, radius * MURRAY * (2 - uneven - 0.04)])
        length = np.concatenate([length, length]) * rng.uniform(0.68, 0.98, 2 * count)
        lost = rng.random(2 * count) < (chest.state.pruned if level >= 3 else 0)
        x, y = np.abs(start[:, 0]), start[:, 1]
        keep = ~lost & (y > 2) & (x > 12) & (x < chest.lateral(y) - 4) & (y < bottom) & (radius > FINEST)
        start, direction, length, radius = start[keep], direction[keep], length[keep], radius[keep]
    return layer.thickness()


def _roots(
    hilum: float, unit: float, hila: NDArray, rng: np.random.Generator
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Segmental vessels: starts and unit directions [n, 3], lengths and radii [n] (mm)."""
    start, direction, length, radius = [], [], [], []
    for side, shift in zip((-1, 1), hila, strict=True):
        top = hilum - (6 if side > 0 else 0)
        for angle, where in SEGMENTS:
            a = np.radians(angle + rng.normal(0, 10))
            deep = rng.normal(-0.1, 0.45)
            vector = np.array([side * np.cos(a), np.sin(a), deep])
            start.append(shift + np.array([side * (54 + rng.normal(0, 2)), top + where, -10 + 10 * deep]))
            direction.append(vector / np.linalg.norm(vector))
            length.append(unit * rng.uniform(22, 36) * (1.0 if angle > -60 else 0.75))
            radius.append(rng.uniform(2.6, 4.4) * (1.0 if angle > 0 else 0.82))
    return np.array(start), np.array(direction), np.array(length), np.array(radius)


def _perpendicular(direction: NDArray, rng: np.random.Generator) -> NDArray:
    """A random unit vector perpendicular to each direction [n, 3]."""
    other = rng.normal(size=direction.shape)
    other -= np.einsum("ni,ni->n", other, direction)[:, None] * direction
    return other / np.sqrt(np.einsum("ni,ni->n", other, other))[:, None]
