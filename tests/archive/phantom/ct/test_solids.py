"""Distances to the surfaces of solids, against the nearest of many points on them."""

import numpy as np

from dira_scale.archive.phantom.ct.slab import FAR, Slab
from dira_scale.archive.phantom.ct.solids import ellipsoid, facing
from dira_scale.archive.phantom.ct.tubes import Tubes


def sphere(n: int) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_ellipsoid_is_as_far_as_its_nearest_point() -> None:
    centre, axes, turn = np.array([3.0, -5, 8]), np.array([30.0, 18, 22]), facing((1, 0.4, -0.3), (0, 1, 0.2))
    surface = centre + (sphere(200_000) * axes) @ turn
    probes = centre + (sphere(60) * axes) @ turn * np.linspace(0.93, 1.07, 60)[:, None]
    got = ellipsoid(*probes.astype(np.float32).T, centre, axes, turn)
    away = np.array([np.linalg.norm(surface - p, axis=1).min() for p in probes])
    inside = np.square(((probes - centre) @ turn.T) / axes).sum(1) < 1
    np.testing.assert_allclose(got, np.where(inside, -away, away), atol=0.35)


def test_tubes_are_as_far_as_their_nearest_point() -> None:
    tubes = Tubes.chain(np.array([[-20.0, 3, 2], [0, -5, 6], [18, 6, -4]]), np.array([3.0, 4.0, 2.5]))
    lines = np.arange(-12, 12, 1.5), np.arange(-16, 16, 1.5), np.arange(-26, 26, 1.5)
    blank = np.zeros(tuple(map(len, lines)), np.float32)
    got = Slab(lines, 1.0, blank, blank, blank, blank, blank).distance(tubes, 6.0)
    z, y, x = np.meshgrid(*lines, indexing="ij")
    t = np.linspace(0, 1, 400)[:, None]
    axis = np.concatenate([a + t * (b - a) for a, b in tubes.ends])
    radii = np.concatenate([a + t[:, 0] * (b - a) for a, b in tubes.radii])
    probes = np.stack([x, y, z], -1).reshape(-1, 1, 3)
    expected = (np.linalg.norm(probes - axis, axis=-1) - radii).min(1).reshape(x.shape)
    near = expected < 5.0
    assert near.sum() > 1000
    # perpendicular to the axis, not to the slanting surface: a taper of 1.5 mm in 20 changes the distance by 0.3 %
    np.testing.assert_allclose(got[near], expected[near], atol=0.15)
    assert (got[expected > 6.5] > 5.5).all() and got.max() == FAR
