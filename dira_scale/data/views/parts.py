"""The parts of a ``ViewSpec``: what may be done to a crop, with lengths in pixels of a view of 224."""

from dataclasses import dataclass
from typing import Annotated

from dira_scale.arguments import Above, AtLeast, Bound, Within, check_fields

LUMA = (0.2989, 0.587, 0.114)  # shares of red, green and blue in grey (torchvision's rgb_to_grayscale)
VIEWS_VERSION = 2  # in a run's identity: raise it when crops, flips, distortions or pixels of a sample change
REFERENCE_SIZE = 224  # pixels of the view that lengths refer to
Chance = Annotated[float, Within(0, 1)]
BELOW_ONE = Bound("from 0 to below 1", lambda value: 0 <= value < 1)


def Ascending(each: Bound) -> Bound:
    """Two numbers, each within these bounds, the first at most the second."""
    return Bound(
        f"{each.text}, in ascending order", lambda pair: all(map(each.holds, pair)) and pair[0] <= pair[1], whole=True
    )


class Part:
    """Base class of views' settings: dataclasses whose fields are checked against their annotations."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Jitter(Part):
    """With probability ``p``, factors from [1 - x, 1 + x] for brightness and contrast, in either order; of images in
    colour also for saturation, and their hue is turned by up to ``hue`` of the circle, in any order (torchvision's
    ColorJitter)."""

    brightness: Annotated[float, AtLeast(0)] = 0.4
    contrast: Annotated[float, AtLeast(0)] = 0.4
    p: Chance = 0.8
    saturation: Annotated[float, Within(0, 1)] = 0.0
    hue: Annotated[float, Within(0, 0.5)] = 0.0


@dataclass(frozen=True)
class Blur(Part):
    """With probability ``p``, a Gaussian with a standard deviation drawn from ``sigma``."""

    sigma: Annotated[tuple[float, float], Ascending(AtLeast(0))] = (0.1, 2.0)
    p: Chance = 0.5


@dataclass(frozen=True)
class Cutout(Part):
    """Zero up to ``boxes`` rectangles with sides from ``side``; after each, stop with probability ``stop``."""

    p: Chance = 0.30
    boxes: Annotated[int, Within(1, 255)] = 10
    side: Annotated[tuple[int, int], Ascending(AtLeast(0))] = (10, 70)
    stop: Chance = 0.1


@dataclass(frozen=True)
class InverseCutout(Part):
    """Zero everything but up to ``boxes`` windows whose sides are the view's minus a number from ``margin``."""

    p: Chance = 0.05
    boxes: Annotated[int, Within(1, 255)] = 10
    margin: Annotated[tuple[int, int], Ascending(AtLeast(0))] = (50, 70)
    stop: Chance = 0.1


@dataclass(frozen=True)
class Shuffle(Part):
    """Swap ``swaps`` pairs of equally large patches with sides from ``side``."""

    p: Chance = 0.30
    swaps: Annotated[int, AtLeast(0)] = 10
    side: Annotated[tuple[int, int], Ascending(AtLeast(0))] = (10, 15)


@dataclass(frozen=True)
class SizedCrop(Part):
    """With probability ``p`` a crop whose height and width are the same share of the image's, ``side`` of 224; else the
    whole image (albumentations' RandomSizedCrop of an image that was resized, whatever its aspect)."""

    side: Annotated[tuple[int, int], Ascending(Within(1, REFERENCE_SIZE))] = (156, 224)
    p: Chance = 0.25


@dataclass(frozen=True)
class Tone(Part):
    """With probability ``p`` either brightness added from [-x, x] after a factor of contrast from [1 - x, 1 + x], or a
    power from ``gamma`` (albumentations' RandomBrightnessContrast and RandomGamma)."""

    brightness: Annotated[float, AtLeast(0)] = 0.2
    contrast: Annotated[float, Within(0, 1)] = 0.2
    gamma: Annotated[tuple[float, float], Ascending(Above(0))] = (0.8, 1.2)
    p: Chance = 0.0


@dataclass(frozen=True)
class Warp(Part):
    """With probability ``p`` one of an elastic field (``alpha``, ``sigma``, ``affine``), a distorted ``grid`` and a
    lens (``optical``): albumentations' ElasticTransform, GridDistortion, OpticalDistortion."""

    alpha: float = 120.0
    sigma: Annotated[float, Above(0)] = 6.0
    affine: float = 3.6
    grid: Annotated[float, BELOW_ONE] = 0.3
    optical: float = 2.0
    p: Chance = 0.0
