"""The parts of a ``ViewSpec``: what may be done to a view, with lengths in pixels of a view of 224, and how each draws
its parameters by numbers ``u``, uniform in [0, 1)."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np

from dira_scale.base.arguments import Above, AtLeast, Bound, Within, check_fields
from dira_scale.train.data import random

LUMA = (0.2989, 0.587, 0.114)  # shares of red, green and blue in grey (torchvision's rgb_to_grayscale)
VIEWS_VERSION = 2  # in a run's identity: raise it when crops, flips, distortions or pixels of a sample change
REFERENCE_SIZE = 224  # pixels of the view that lengths refer to
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbers
ORDERS = np.array(  # of these: contrast first or not, saturation's place of the first three, hue's of all four
    [
        [*three[:hue], HUE, *three[hue:]]
        for pair in ([BRIGHTNESS, CONTRAST], [CONTRAST, BRIGHTNESS])
        for three in ([*pair[:saturation], SATURATION, *pair[saturation:]] for saturation in range(3))
        for hue in range(4)
    ],
    np.uint8,
)
CUTOUT, INVERSE_CUTOUT, SHUFFLE, NONE = range(4)  # a view has one of them
UNWARPED, ELASTIC, GRID, OPTICAL = range(4)  # likewise
CELLS = 5  # of a distorted grid, on each axis
NODES = CELLS + 2  # with the rest of an image that does not divide into cells, and both ends
WARP_NUMBERS = 1 + 2 + 6 + 2 * CELLS + 1  # random ones that a warp takes
Chance = Annotated[float, Within(0, 1)]
BELOW_ONE = Bound("from 0 to below 1", lambda value: 0 <= value < 1)


def Ascending(each: Bound) -> Bound:
    """Two numbers, each within these bounds, the first at most the second."""
    return Bound(
        f"{each.text}, in ascending order", lambda pair: all(map(each.holds, pair)) and pair[0] <= pair[1], whole=True
    )


def scaled(length: float, side: int) -> float:
    """Return a ``length`` in a 224-pixel view, in pixels of one with this ``side``."""
    return length * side / REFERENCE_SIZE


class ViewPart:
    """Base class of views' settings: dataclasses whose fields are checked against their annotations."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Jitter(ViewPart):
    """With probability ``p``, factors from [1 - x, 1 + x] for brightness and contrast, in either order; of images in
    colour also for saturation, and their hue is turned by up to ``hue`` of the circle, in any order (torchvision's
    ColorJitter)."""

    brightness: Annotated[float, AtLeast(0)] = 0.4
    contrast: Annotated[float, AtLeast(0)] = 0.4
    p: Chance = 0.8
    saturation: Annotated[float, Within(0, 1)] = 0.0
    hue: Annotated[float, Within(0, 0.5)] = 0.0

    def draw(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """Return brightness and contrast, factors float32 [b], and which comes first, by ``u`` [b, 4]."""
        on = u[:, 0] < self.p
        brightness = np.where(on, random.between(u[:, 1], 1 - self.brightness, 1 + self.brightness), 1.0)
        contrast = np.where(on, random.between(u[:, 2], 1 - self.contrast, 1 + self.contrast), 1.0)
        return {
            "brightness": brightness.astype(np.float32),
            "contrast": contrast.astype(np.float32),
            "contrast_first": u[:, 3] < 0.5,
        }

    def draw_colour(self, u: np.ndarray, colour: np.ndarray, grey: float) -> dict[str, np.ndarray]:
        """Return saturation's factor and the turn of the hue, float32 [b], the ``order`` of all four changes, uint8
        [b, 4], and which views become ``grey``, by ``u`` as ``draw`` has it and ``colour`` [b, 5].

        All orders are equally likely, and brightness and contrast are in the order that views of grey images have.
        """
        on = u[:, 0] < self.p
        places = u[:, 3] < 0.5, *np.floor(colour[:, 2:4] * (3, 4)).astype(int).T
        saturation = np.where(on, random.between(colour[:, 0], 1 - self.saturation, 1 + self.saturation), 1.0)
        return {
            "saturation": saturation.astype(np.float32),
            "hue": np.where(on, random.between(colour[:, 1], -self.hue, self.hue), 0.0).astype(np.float32),
            "order": ORDERS[np.ravel_multi_index(places, (2, 3, 4))],
            "grey": colour[:, 4] < grey,
        }


@dataclass(frozen=True)
class Blur(ViewPart):
    """With probability ``p``, a Gaussian with a standard deviation drawn from ``sigma``."""

    sigma: Annotated[tuple[float, float], Ascending(AtLeast(0))] = (0.1, 2.0)
    p: Chance = 0.5

    def draw(self, u: np.ndarray, scale: float) -> np.ndarray:
        """Return the standard deviation, 0 for none, times ``scale``: float32 [b], by ``u`` [b, 2]."""
        on = u[:, 0] < self.p
        return np.where(on, random.between(u[:, 1], *self.sigma) * scale, 0.0).astype(np.float32)


@dataclass(frozen=True)
class Cutout(ViewPart):
    """Zero up to ``boxes`` rectangles with sides from ``side``; after each, stop with probability ``stop``."""

    p: Chance = 0.30
    boxes: Annotated[int, Within(1, 255)] = 10
    side: Annotated[tuple[int, int], Ascending(AtLeast(0))] = (10, 70)
    stop: Chance = 0.1


@dataclass(frozen=True)
class InverseCutout(ViewPart):
    """Zero everything but up to ``boxes`` windows whose sides are the view's minus a number from ``margin``."""

    p: Chance = 0.05
    boxes: Annotated[int, Within(1, 255)] = 10
    margin: Annotated[tuple[int, int], Ascending(AtLeast(0))] = (50, 70)
    stop: Chance = 0.1


@dataclass(frozen=True)
class Shuffle(ViewPart):
    """Swap ``swaps`` pairs of equally large patches with sides from ``side``."""

    p: Chance = 0.30
    swaps: Annotated[int, AtLeast(0)] = 10
    side: Annotated[tuple[int, int], Ascending(AtLeast(0))] = (10, 15)


@dataclass(frozen=True)
class SizedCrop(ViewPart):
    """With probability ``p`` a crop whose height and width are the same share of the image's, ``side`` of 224; else the
    whole image (albumentations' RandomSizedCrop of an image that was resized, whatever its aspect)."""

    side: Annotated[tuple[int, int], Ascending(Within(1, REFERENCE_SIZE))] = (156, 224)
    p: Chance = 0.25


@dataclass(frozen=True)
class Tone(ViewPart):
    """With probability ``p`` either brightness added from [-x, x] after a factor of contrast from [1 - x, 1 + x], or a
    power from ``gamma`` (albumentations' RandomBrightnessContrast and RandomGamma)."""

    brightness: Annotated[float, AtLeast(0)] = 0.2
    contrast: Annotated[float, Within(0, 1)] = 0.2
    gamma: Annotated[tuple[float, float], Ascending(Above(0))] = (0.8, 1.2)
    p: Chance = 0.0

    def draw(self, u: np.ndarray) -> np.ndarray:
        """Return a factor, what is added after it, and the power that follows: float32 [b, 3], by ``u`` [b, 4]."""
        contrasted, powered = u[:, 0] < self.p / 2, (u[:, 0] >= self.p / 2) & (u[:, 0] < self.p)
        factor = np.where(contrasted, random.between(u[:, 1], 1 - self.contrast, 1 + self.contrast), 1.0)
        added = np.where(contrasted, random.between(u[:, 2], -self.brightness, self.brightness), 0.0)
        power = np.where(powered, random.between(u[:, 3], *self.gamma), 1.0)
        return np.stack((factor, added, power), 1).astype(np.float32)


class Warps(NamedTuple):
    """The warps of b images: the columns of ``Distortion.warp``, in this order.

    Attributes:
        kind: [b, 1], ``UNWARPED``, ``ELASTIC``, ``GRID`` or ``OPTICAL``.
        noise: [b, 2], of ``ELASTIC``: the halves of a 48-bit key, whole numbers below 2^24.
        affine: [b, 6], of ``ELASTIC``: a pixel (x, y) shows what lies at (x, y, 1) times this matrix [3, 2].
        nodes: [b, 14], of ``GRID``: which x, then y, the edges of its cells show.
        lens: [b, 1], of ``OPTICAL``: the coefficient of its second and fourth power.
    """

    kind: np.ndarray
    noise: np.ndarray
    affine: np.ndarray
    nodes: np.ndarray
    lens: np.ndarray


COLUMNS = (1, 2, 6, 2 * NODES, 1)  # how many each has


@dataclass(frozen=True)
class Warp(ViewPart):
    """With probability ``p`` one of an elastic field (``alpha``, ``sigma``, ``affine``), a distorted ``grid`` and a
    lens (``optical``): albumentations' ElasticTransform, GridDistortion, OpticalDistortion."""

    alpha: float = 120.0
    sigma: Annotated[float, Above(0)] = 6.0
    affine: float = 3.6
    grid: Annotated[float, BELOW_ONE] = 0.3
    optical: float = 2.0
    p: Chance = 0.0

    def draw(self, u: np.ndarray, key: np.ndarray, side: int) -> np.ndarray:
        """Return ``Warps`` of views with this ``side``: float32 [b, 24], by ``u`` [b, WARP_NUMBERS] and ``key``
        [b, 2].

        ``distort.warp`` computes the fields that follow from it.
        """
        kind = np.where(u[:, 0] < self.p, 1 + (u[:, 0] / self.p * 3).astype(int).clip(0, 2), UNWARPED)
        # The affine part takes three corners, which are moved by so many pixels, back.
        near, far = side // 2 - side // 3, side // 2 + side // 3
        corners = np.array([(far, far), (far, near), (near, near)], float)
        moved = random.between(u[:, 1:7].reshape(-1, 3, 2), -1, 1) * scaled(self.affine, side)
        homogeneous = np.concatenate([corners + moved, np.ones((len(moved), 3, 1))], 2)
        affine = np.linalg.solve(homogeneous, np.broadcast_to(corners, moved.shape))
        # The edges of stretched cells, the last at the image's end.
        stretched = random.between(u[:, 7 : 7 + 2 * CELLS].reshape(-1, 2, CELLS), 1 - self.grid, 1 + self.grid)
        edges = np.cumsum(stretched * (side // CELLS), 2)
        nodes = np.concatenate([np.zeros_like(edges[..., :1]), edges, np.full_like(edges[..., :1], side)], 2)
        lens = random.between(u[:, -1:], -self.optical, self.optical)
        warps = Warps(kind[:, None], np.floor(key * 2**24), affine.reshape(-1, 6), nodes.reshape(-1, 2 * NODES), lens)
        return np.concatenate(warps, 1).astype(np.float32)
