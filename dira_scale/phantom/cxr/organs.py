"""The chest's organs projected on the detector: thickness maps in mm, [size, size]."""

import numpy as np
from scipy import ndimage

from dira_scale.phantom.anatomy import Chest
from dira_scale.phantom.curve import curve
from dira_scale.phantom.cxr.primitives import Tubes, ellipsoid, upsample
from dira_scale.phantom.cxr.view import Map, View


def lungs(chest: Chest, view: View) -> tuple[Map, Map]:
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
    return cavity, np.minimum(fill, cavity)


def mediastinum(chest: Chest, view: View) -> tuple[Map, Map]:
    """(heart, mediastinum with the great vessels), thickness in mm, [size, size]."""
    unit, scale = chest.anatomy.height / 206, chest.heart
    base = chest.anatomy.height - 0.3 * sum(chest.state.domes)
    heart = np.zeros((view.size, view.size), np.float32)
    for centre, axes, angle in (
        ((30, base - 26, 22), (68, 41, 58), 34 - chest.anatomy.lie),  # left ventricle, apex down and to the left
        ((-11, base - 40, 15), (34, 52, 55), -6),  # right atrium
        ((14, base - 62, 15), (30, 48, 52), -24),  # left atrium and its appendage, outflow
    ):
        placed = (centre[0] * scale, centre[1] - 14 * (scale - 1), centre[2])
        ellipsoid(view, placed, tuple(a * scale * unit**0.5 for a in axes), angle, heart)
    arch, aorta = float(chest.vertebra(5.2)), chest.anatomy.aorta
    great, lower = np.zeros_like(heart), np.zeros_like(heart)
    ellipsoid(view, (15, arch, -15), (aorta + 11, aorta + 8, 36), 0, great)  # the arch, seen end on
    ellipsoid(view, (18, arch + 40, 5), (25, 33, 40), 0, lower)  # pulmonary trunk
    ellipsoid(view, (-13, arch + 36, 15), (21, 92, 36), 3, great)  # ascending aorta, superior vena cava
    ellipsoid(view, (15, arch + 90, -50), (aorta + 2, 130, aorta + 8), 3, lower)  # descending aorta
    ellipsoid(view, (-14, arch - 65, 5), (16, 90, 22), -3, great)  # vessels to neck and arms
    ellipsoid(view, (16, arch - 65, 0), (16, 90, 22), 3, great)
    x, y = view.grid
    half = np.float32(19) + np.float32(5) * np.tanh((y - np.float32(arch)) / np.float32(60))
    band = np.float32(0.34 * chest.anatomy.depth) * np.sqrt(np.maximum(1 - np.square(x / half), 0))
    return heart, np.sqrt(great * great + lower * lower + band * band)


def body(chest: Chest, view: View) -> Map:
    """The body's total thickness in mm; smooth, so drawn on a coarse grid and enlarged."""
    view, size = view.coarse(4), view.size
    x, y = view.grid
    fat = chest.anatomy.fat
    wall = 30 + 1.1 * fat
    trunk = np.clip((y + 45) / 140, 0, 1)
    half = (chest.width + wall) * (0.55 + 0.45 * np.sqrt(trunk * (2 - trunk))) + 12 * np.clip((y - 150) / 200, 0, 1)
    deep = (chest.anatomy.depth + 50 + fat) * (0.55 + 0.45 * trunk)
    edge = np.square(x / half)
    body = np.where(y > -45, deep * np.sqrt(np.maximum(1 - edge * edge, 0)), 0).astype(np.float32)
    ellipsoid(view, (0, -95, -10), (57 + 0.3 * fat, 120, 66), 0, body)  # neck
    for side in (-1, 1):
        ellipsoid(view, (side * 95, -8, -25), (118, 46 + 0.4 * fat, 78), 17 * side, body)  # trapezius, shoulder
        ellipsoid(view, (side * (chest.width + 48), 14, -10), (54 + 0.5 * fat, 58, 70), 0, body)  # deltoid
        ellipsoid(view, (side * (chest.width + 72), 150, -20), (40 + 0.6 * fat, 160, 64), -9 * side, body)  # arm
    body = ndimage.gaussian_filter(body, 4 / view.spacing)
    muscle, breast = np.zeros_like(body), np.zeros_like(body)
    b = chest.anatomy.breast
    for side in (-1, 1):
        ellipsoid(view, (side * (chest.width - 40), 58, 70), (76, 60, 5), -24 * side, muscle)  # pectoral
        if b:
            axes = (46 + 0.6 * b, 44 + 0.6 * b, 0.8 * b)
            ellipsoid(view, (side * (chest.width - 62), 150, 70), axes, 8 * side, breast)
    breast *= np.clip((y - 95) / 110, 0, 1)  # hangs: thin above, full below
    soft = ndimage.gaussian_filter(muscle, 7 / view.spacing) + ndimage.gaussian_filter(breast, 3 / view.spacing)
    return upsample(body + soft, size)


def airways(chest: Chest, view: View) -> Map:
    """Trachea and main bronchi, thickness in mm."""
    carina = float(chest.vertebra(5.6))
    trachea = [[0, -110, 5], [0, -65, 2], [1, -20, -5], [0, carina - 45, -12], [-3, carina, -15]]
    right = [[-3, carina - 4], [-10, carina + 10], [-19, carina + 24], [-28, carina + 38], [-33, carina + 52]]
    left = [[-3, carina - 4], [9, carina + 8], [22, carina + 18], [34, carina + 27], [40, carina + 38]]
    points = np.array([trachea, *([[x, y, -16] for x, y in bronchus] for bronchus in (right, left))])
    tubes = Tubes(view)
    radii = np.array([[9, 9, 9.5, 9.5, 9], [7, 7, 6.5, 5, 1.5], [6.5, 6, 5.5, 4, 1.5]])
    tubes.add(curve(points), curve(radii))
    return tubes.thickness()
