"""The body around the chest: its total thickness, with shoulders, arms, breasts and muscles."""

import numpy as np
from scipy import ndimage

from dira_scale.phantom.cxr.primitives import ellipsoid, upsample
from dira_scale.phantom.cxr.torso import Torso
from dira_scale.phantom.cxr.view import Map, View


def body(chest: Torso, view: View) -> Map:
    """The body's total thickness in mm; smooth, so drawn on a coarse grid and enlarged."""
    view, size = view.coarse(4), view.size
    x, y = view.grid
    fat, build = chest.anatomy.fat, chest.build
    wall = 30 + 1.1 * fat
    trunk = np.clip((y + 45) / 140, 0, 1)
    flank = build.waist * np.clip((y - 150) / 200, 0, 1)
    half = (chest.width + wall) * (0.55 + 0.45 * np.sqrt(trunk * (2 - trunk))) + flank
    deep = (chest.anatomy.depth + 50 + fat) * (0.55 + 0.45 * trunk)
    edge = np.square(x / half)
    body = np.where(y > -45, deep * np.sqrt(np.maximum(1 - edge * edge, 0)), 0).astype(np.float32)
    ellipsoid(view, (0, -95, -10), (build.neck + 0.3 * fat, 120, 66), 0, body)
    lift = chest.state.shrug - 2 * (build.shoulder - 17)
    for side in (-1, 1):
        # trapezius and shoulder, deltoid, arm
        ellipsoid(view, (side * 95, -8 - 0.5 * lift, -25), (118, 46 + 0.4 * fat, 78), build.shoulder * side, body)
        ellipsoid(view, (side * (chest.width + 48), 14 - lift, -10), (54 + 0.5 * fat, 58, 70), 0, body)
        away = side * (chest.width + 48 + build.arms)
        ellipsoid(view, (away, 150 - lift, -20), (40 + 0.6 * fat, 160, 64), (16 - build.arms) * side, body)
    body = ndimage.gaussian_filter(body, 4 / view.spacing)
    return upsample(body + _front(chest, view), size)


def _front(chest: Torso, view: View) -> Map:
    """Pectoral muscles and breasts, mm."""
    muscle, breast = np.zeros((2, view.size, view.size), np.float32)
    size, (out, down) = chest.anatomy.breast, chest.build.breast
    for side in (-1, 1):
        ellipsoid(view, (side * (chest.width - 40), 58, 70), (76, 60, chest.build.muscle), -24 * side, muscle)
        if size:
            b = size * (chest.build.uneven if side > 0 else 1)
            axes = (46 + 0.6 * b, 44 + 0.6 * b, 0.8 * b)
            ellipsoid(view, (side * (chest.width - 62 + out), 150 + down, 70), axes, 8 * side, breast)
    breast *= np.clip((view.grid[1] - 95 - down) / 110, 0, 1)  # hangs: thin above, full below
    return ndimage.gaussian_filter(muscle, 7 / view.spacing) + ndimage.gaussian_filter(breast, 3 / view.spacing)
