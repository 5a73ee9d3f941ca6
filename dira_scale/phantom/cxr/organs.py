"""The chest's organs projected on the detector: thickness maps in mm, [size, size]."""

import numpy as np

from dira_scale.phantom.curve import curve
from dira_scale.phantom.cxr.primitives import TubeLayer, ellipsoid
from dira_scale.phantom.cxr.view import Map, Torso, View


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
