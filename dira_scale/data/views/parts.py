"""The parts of a ``ViewSpec``: what may be done to a crop, with lengths in pixels of a view of 224."""

from dataclasses import dataclass

LUMA = (0.2989, 0.587, 0.114)  # shares of red, green and blue in grey (torchvision's rgb_to_grayscale)
VIEWS_VERSION = 2  # in a run's identity: raise it when crops, flips, distortions or pixels of a sample change
REFERENCE_SIZE = 224  # pixels of the view that lengths refer to


@dataclass(frozen=True)
class Jitter:
    """With probability ``p``, factors from [1 - x, 1 + x] for brightness and contrast, in either order; of images in
    colour also for saturation, and their hue is turned by up to ``hue`` of the circle, in any order (torchvision's
    ColorJitter)."""

    brightness: float = 0.4
    contrast: float = 0.4
    p: float = 0.8
    saturation: float = 0.0
    hue: float = 0.0


@dataclass(frozen=True)
class Blur:
    """With probability ``p``, a Gaussian with a standard deviation drawn from ``sigma``."""

    sigma: tuple[float, float] = (0.1, 2.0)
    p: float = 0.5


@dataclass(frozen=True)
class Cutout:
    """Zero up to ``boxes`` rectangles with sides from ``side``; after each, stop with probability ``stop``."""

    p: float = 0.30
    boxes: int = 10
    side: tuple[int, int] = (10, 70)
    stop: float = 0.1


@dataclass(frozen=True)
class InverseCutout:
    """Zero everything but up to ``boxes`` windows whose sides are the view's minus a number from ``margin``."""

    p: float = 0.05
    boxes: int = 10
    margin: tuple[int, int] = (50, 70)
    stop: float = 0.1


@dataclass(frozen=True)
class Shuffle:
    """Swap ``swaps`` pairs of equally large patches with sides from ``side``."""

    p: float = 0.30
    swaps: int = 10
    side: tuple[int, int] = (10, 15)


@dataclass(frozen=True)
class SizedCrop:
    """With probability ``p`` a crop whose height and width are the same share of the image's, ``side`` of 224; else the
    whole image (albumentations' RandomSizedCrop of an image that was resized, whatever its aspect)."""

    side: tuple[int, int] = (156, 224)
    p: float = 0.25


@dataclass(frozen=True)
class Tone:
    """With probability ``p`` either brightness added from [-x, x] after a factor of contrast from [1 - x, 1 + x], or a
    power from ``gamma`` (albumentations' RandomBrightnessContrast and RandomGamma)."""

    brightness: float = 0.2
    contrast: float = 0.2
    gamma: tuple[float, float] = (0.8, 1.2)
    p: float = 0.0


@dataclass(frozen=True)
class Warp:
    """With probability ``p`` one of an elastic field (``alpha``, ``sigma``, ``affine``), a distorted ``grid`` and a
    lens (``optical``): albumentations' ElasticTransform, GridDistortion, OpticalDistortion."""

    alpha: float = 120.0
    sigma: float = 6.0
    affine: float = 3.6
    grid: float = 0.3
    optical: float = 2.0
    p: float = 0.0
