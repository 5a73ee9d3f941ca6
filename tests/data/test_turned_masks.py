"""A mask goes where its image goes: drawn from the image itself, it is the turned image's own mask."""

import numpy as np
import torch
from data.volumes import spec as volume_spec

from dira_scale.data.batch import IGNORE
from dira_scale.data.distort import DistortVolumes, build
from dira_scale.data.distort.plane import rotate_mask
from dira_scale.data.views import ViewSpec, draw

SIZE = 31
DEGREES = torch.tensor([0.0, 90.0, 180.0, -90.0, 10.0, -7.5, 33.0, 137.0])


def bright(images: torch.Tensor) -> torch.Tensor:
    """The masks [b, S, S] of images [b, 1, S, S]."""
    return (images[:, 0] > 0.5).to(torch.int16)


def waves(count: int, size: int = SIZE) -> torch.Tensor:
    """Smooth patterns without any symmetry, [b, 1, S, S], that change by at most 0.12 from a pixel to the next."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([0.5 + 0.5 * torch.sin(0.17 * rows + 0.16 * columns + i)[None] for i in range(count)])


def plainly_rotated(mask: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """By a loop over pixels, in float64; and where a source pixel's centre is clearly nearer than the next one."""
    size, angle = len(mask), np.deg2rad(degrees)
    turned, clear = np.full_like(mask, IGNORE), np.zeros(mask.shape, bool)
    middle = (size - 1) / 2
    for row, column in np.ndindex(mask.shape):
        up, right = middle - row, column - middle  # anticlockwise: the source lies clockwise of it
        from_right = np.cos(angle) * right + np.sin(angle) * up
        from_up = -np.sin(angle) * right + np.cos(angle) * up
        y, x = middle - from_up, middle + from_right
        nearest = round(y), round(x)
        clear[row, column] = max(abs(y - nearest[0]), abs(x - nearest[1])) < 0.499
        if min(nearest) >= 0 and max(nearest) < size:
            turned[row, column] = mask[nearest]
    return turned, clear


def test_a_rotated_mask_takes_the_nearest_pixel_and_nothing_from_beyond() -> None:
    masks = torch.randint(0, 256, (len(DEGREES), SIZE, SIZE), dtype=torch.int16)
    for mask, turned, degrees in zip(masks.numpy(), rotate_mask(masks, DEGREES).numpy(), DEGREES.tolist(), strict=True):
        expected, clear = plainly_rotated(mask, degrees)
        assert clear.mean() > 0.98
        np.testing.assert_array_equal(turned[clear], expected[clear])
        assert (turned == IGNORE).any() == (degrees % 90 != 0)


def test_masks_of_distorted_views_are_turned_as_the_views() -> None:
    """By the angles that were drawn; views that are not rotated leave them as they are."""
    spec = ViewSpec(size=SIZE, rotation=30.0)
    index = np.arange(6)
    _, params = draw(spec, 0, 0, index, np.zeros(6, int), 0, np.full(6, 40), np.full(6, 40))
    images = waves(6)
    distort = build(spec)
    masks = distort.turned_mask(bright(images), params)
    assert masks.dtype == torch.int16 and torch.equal(masks, rotate_mask(bright(images), params.rotation))
    sure = (distort.turned(images, params)[:, 0] - 0.5).abs() > 0.12
    sure &= distort.turned(torch.ones_like(images), params)[:, 0] > 0.999
    assert torch.equal(masks[sure], bright(distort.turned(images, params))[sure])
    assert build(ViewSpec(size=SIZE)).turned_mask(masks, params) is masks
    volumes = torch.zeros(6, 8, 8, 8, dtype=torch.int16)
    assert DistortVolumes(volume_spec(8, 8, 8)).turned_mask(volumes, params) is volumes
