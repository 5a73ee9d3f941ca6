"""Distances against the nearest of many points on a surface, fields against their definition, trees against Murray."""

import numpy as np
import pytest

from dira_scale.phantom.ct.fields import RandomField
from dira_scale.phantom.ct.slab import FAR, Slab
from dira_scale.phantom.ct.solids import difference, ellipsoid, facing, intersection, oval, union
from dira_scale.phantom.ct.tubes import Tubes, as_tubes, tree


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


@pytest.mark.parametrize("square", [0.0, 0.5, 1.0])
def test_oval_is_zero_on_its_outline_and_counts_millimetres_along_the_ray(square: float) -> None:
    angle = np.linspace(0.01, 2 * np.pi, 50)
    u, v = np.cos(angle), np.sin(angle)
    k = (u**4 + v**4 + 2 * (1 - square) * u**2 * v**2) ** 0.25
    x, y = 90 * u / k, 60 * v / k
    for far in (-7.0, 0.0, 11.0):
        scale = 1 + far / np.hypot(x, y)
        got = oval(*(np.float32(c * scale) for c in (x, y)), 90.0, 60.0, square)
        np.testing.assert_allclose(got, far, atol=0.01)


def test_blends_are_minimum_and_maximum_away_from_the_seam() -> None:
    a, b = np.random.default_rng(1).uniform(-20, 20, (2, 1000)).astype(np.float32)
    apart = np.abs(a - b) > 4
    np.testing.assert_array_equal(union(a, b, 4)[apart], np.minimum(a, b)[apart])
    np.testing.assert_array_equal(intersection(a, b, 4)[apart], np.maximum(a, b)[apart])
    away = np.abs(a + b) > 4
    np.testing.assert_array_equal(difference(a, b, 4)[away], np.maximum(a, -b)[away])
    assert (union(a, b, 4) <= np.minimum(a, b)).all() and (np.minimum(a, b) - union(a, b, 4)).max() <= 1.0


def test_field_is_the_same_on_lines_and_at_points_and_standardised() -> None:
    field = RandomField.draw(np.random.default_rng(2), (5.0, 4.0, 3.0), 32)
    z, y, x = np.linspace(-70, 90, 37), np.linspace(-50, 10, 40), np.linspace(0, 200, 60)
    points = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1)
    np.testing.assert_allclose(field.on(z, y, x), field.at(points), atol=2e-5)
    whole = field.on(*(np.arange(0, 32 * pitch, 0.9) for pitch in field.pitch))
    assert abs(whole.mean()) < 0.05 and whole.std() == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(field.on(z + 32 * 5.0, y, x), field.on(z, y, x), atol=1e-4)  # it repeats


def slab_of(lines: tuple[np.ndarray, ...], edge: float) -> Slab:
    shape = tuple(map(len, lines))
    blank = [np.zeros(shape, np.float32) for _ in range(8)]
    return Slab(lines, blank[0], blank[1], lines[0][:, None, None], edge, *blank[2:])  # type: ignore[arg-type]


def test_tubes_are_as_far_as_their_nearest_point() -> None:
    tubes = Tubes.chain(np.array([[-20.0, 3, 2], [0, -5, 6], [18, 6, -4]]), np.array([3.0, 4.0, 2.5]))
    lines = np.arange(-12, 12, 1.5), np.arange(-16, 16, 1.5), np.arange(-26, 26, 1.5)
    got = slab_of(lines, 1.0).distance(tubes, 6.0)
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


def test_a_thin_tube_covers_its_share_of_a_voxel() -> None:
    line = np.arange(-6, 6.01, 2.0)
    for radius in (0.25, 0.5, 1.0):
        slab = slab_of((line, line, line), 2.0)
        tubes = Tubes(np.array([[[-20.0, 0, 0], [20, 0, 0]]]), np.full((1, 2), radius))
        share = slab.cover(slab.distance(tubes, 4.0))
        assert share[3, 3, 3] == pytest.approx(min(1, 2 * radius / 2.0), abs=0.01)


def test_a_tree_feeds_all_points_by_murrays_law() -> None:
    rng = np.random.default_rng(3)
    targets = rng.uniform(-40, 40, (300, 3))
    paths, radii = tree(np.array([-60.0, 0, 0]), targets, 5.0, rng, finest=0.1)
    reached = np.linalg.norm(targets[:, None] - paths[None, :, 2], axis=-1).min(1)
    assert np.median(reached) < 6 and reached.max() < 15  # the points are 12 mm apart
    starts = {}
    for path, radius in zip(paths, radii, strict=True):
        starts.setdefault(tuple(path[0]), []).append(radius)
    forks = 0
    for path, radius in zip(paths, radii, strict=True):
        if children := starts.get(tuple(path[2])):
            assert sum(r**3 for r in children) == pytest.approx(radius**3)
            forks += 1
    assert forks > 100 and len(as_tubes(paths, radii).ends) == 2 * len(paths)
