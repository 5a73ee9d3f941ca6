"""Pulmonary arteries and veins: trees that fork from the hila and taper by Murray's law."""

import numpy as np
from numpy.typing import NDArray

from dira_scale.phantom.curve import curve
from dira_scale.phantom.cxr.primitives import TubeLayer
from dira_scale.phantom.cxr.view import Map, Torso, View

LEVELS = 7
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
    for level in range(LEVELS):
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
