"""Which crop, flip and distortion each view of a sample gets: pure arithmetic on (seed, epoch, sample, view).

The defaults are DiRA's 2D pipeline: two independent views; random resized crop, brightness and contrast, blur, flip,
then at most one of cutout, inverse cutout and patch shuffling. Sizes of patches and blur are in pixels of a 224-pixel
view and scale with the view. PCRL also rotates views, and asks for orientations of their restoration targets.
"""

from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dira_scale.data import random
from dira_scale.errors import UserError, nearest

VIEWS_VERSION = 2  # in a run's identity: raise it when crops, flips, distortions or pixels of a sample change
REFERENCE_SIZE = 224  # pixels of the view that lengths below refer to
CUTOUT, INVERSE_CUTOUT, SHUFFLE, NONE = range(4)  # values of Distortion.branch
TARGET_FLIPS = ("with_input", "released")
PAIRS = ("image", "patient")
_TRIES = 10  # of torchvision's RandomResizedCrop, before it falls back to a central crop
_GEOMETRY, _INTENSITY, _PATCHES, _ROTATION, _ORIENTATIONS, _PARTNER = range(6)  # streams of random numbers


@dataclass(frozen=True)
class Jitter:
    """With probability ``p``, factors from [1 - x, 1 + x] for brightness and contrast, in either order."""

    brightness: float = 0.4
    contrast: float = 0.4
    p: float = 0.8


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
class ViewSpec:
    """The views that a method needs; crops and flips are 2D only.

    Attributes:
        count: views per sample.
        size: height and width of a view.
        scale: the crop's area as a fraction of the image's.
        ratio: the crop's width over its height.
        flip: probability of mirroring left and right.
        target_flip: whether the restoration target is mirrored and rotated: ``with_input``, or never (``released``).
        border: distance of patches from the view's edges; negative: they may reach beyond by as much.
        rotation: largest angle, in degrees, by which a view is rotated either way.
        orientations: how many random orientations of the restoration target are drawn for each view.
        pair: what the views of a sample share: the ``image``, or the ``patient``: views after the first show another
            image of the same patient where there is one (MoCo with positives from a patient's images; Vu et al.,
            "MedAug", MLHC 2021, section 3).

    Raises UserError for invalid probabilities or ranges.
    """

    count: int = 2
    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    target_flip: str = "with_input"
    jitter: Jitter = field(default_factory=Jitter)
    blur: Blur = field(default_factory=Blur)
    cutout: Cutout = field(default_factory=Cutout)
    inverse_cutout: InverseCutout = field(default_factory=InverseCutout)
    shuffle: Shuffle = field(default_factory=Shuffle)
    border: int = 3
    rotation: float = 0.0
    orientations: int = 0
    pair: str = "image"

    def __post_init__(self) -> None:
        branches = (self.cutout.p, self.inverse_cutout.p, self.shuffle.p)
        if not all(0 <= p <= 1 for p in (self.flip, self.jitter.p, self.blur.p, *branches, sum(branches))):
            raise UserError(f"probabilities must be in [0, 1], as must the sum of the three patch distortions: {self}")
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise UserError(f"need 0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]: {self}")
        if self.target_flip not in TARGET_FLIPS:
            known = f"{', '.join(TARGET_FLIPS)}{nearest(self.target_flip, TARGET_FLIPS)}"
            raise UserError(f"target_flip={self.target_flip}: expected {known}")
        if self.pair not in PAIRS:
            raise UserError(f"pair={self.pair}: expected {', '.join(PAIRS)}{nearest(self.pair, PAIRS)}")
        if self.border < 0 and self.shuffle.p > 0:
            raise UserError(
                f"patches that reach beyond the edges cannot be swapped: need border >= 0 or shuffle.p=0, "
                f"got border={self.border} and shuffle.p={self.shuffle.p}"
            )
        if not 0 <= self.rotation <= 180 or self.orientations < 0:
            raise UserError(f"need 0 <= rotation <= 180 degrees and at least 0 orientations: {self}")
        if self.count < 1 or self.size < 8:
            raise UserError(f"need at least one view of at least 8 pixels, got {self.count} of {self.size}")
        largest = max(self.cutout.side[1], self.shuffle.side[1], REFERENCE_SIZE - self.inverse_cutout.margin[0])
        if self.pixels(largest) + 2 * self.pixels(self.border) > self.size:
            raise UserError(
                f"a patch of {largest} of {REFERENCE_SIZE} pixels leaves no border of {self.border}: {self}"
            )

    def pixels(self, length: int) -> int:
        """A ``length`` in a 224-pixel view, in whole pixels of this one."""
        return round(length * self.size / REFERENCE_SIZE)


@dataclass(frozen=True)
class Geometry:
    """What the loader applies to b 2D images; can be sliced along b.

    Attributes:
        box: int32 [b, 4], (y, x, h, w) in stored pixels.
        flip: bool [b], left and right.
    """

    box: np.ndarray
    flip: np.ndarray

    def __getitem__(self, samples: slice) -> Self:
        return type(self)(self.box[samples], self.flip[samples])


@dataclass(frozen=True)
class Distortion:
    """What ``distort.Distort`` applies to b samples; can be sliced along b.

    Attributes:
        brightness, contrast: float32 [b], factors; 1 = none.
        contrast_first: bool [b].
        sigma: float32 [b], of the blur, in pixels of this view; 0 = none.
        branch: uint8 [b], CUTOUT, INVERSE_CUTOUT, SHUFFLE or NONE.
        boxes: int16 [b, 10, 4], (y, x, h, w) of the first ``n_boxes`` uint8 [b] rectangles; 0 beyond them.
        swaps: int16 [b, 10, 6], (h, w, y1, x1, y2, x2); 0 where nothing is swapped.
        rotation: float32 [b], degrees, anticlockwise.
        orientations: uint8 [b, n, 3], of the restoration target, for ``orientation.reorient``: a method applies them.
    """

    brightness: Tensor
    contrast: Tensor
    contrast_first: Tensor
    sigma: Tensor
    branch: Tensor
    boxes: Tensor
    n_boxes: Tensor
    swaps: Tensor
    rotation: Tensor
    orientations: Tensor

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def __getitem__(self, samples: slice) -> Self:
        # In memory of its own: another process gets these samples, not all that they were sliced from.
        return type(self)(*(getattr(self, f.name)[samples].clone() for f in fields(self)))


def draw(
    spec: ViewSpec,
    seed: int,
    epoch: int | np.ndarray,
    index: np.ndarray,
    occurrence: np.ndarray,
    view: int,
    heights: np.ndarray,
    widths: np.ndarray,
) -> tuple[Geometry, Distortion]:
    """Parameters of view number ``view`` of the samples ``index`` [b], independent of batching.

    ``epoch`` may differ by sample [b]; ``occurrence`` [b] numbers repetitions of a sample within it; ``heights`` and
    ``widths`` [b] are those of the stored images, in pixels.
    """

    def uniform(n: int, stream: int) -> np.ndarray:
        return random.uniform(seed, epoch, index, occurrence, view, n, stream)

    geometry = uniform(2 * _TRIES + 3, _GEOMETRY)
    box = _resized_crop(spec, geometry[:, :-1], np.asarray(heights, np.int64), np.asarray(widths, np.int64))
    intensity = uniform(7, _INTENSITY)
    patches = uniform(1 + 6 * _patches(spec), _PATCHES)
    rotation, orientations = _float32(np.zeros(len(index))), torch.zeros(len(index), 0, 3, dtype=torch.uint8)
    if spec.rotation:
        rotation = _float32(_between(uniform(1, _ROTATION)[:, 0], -spec.rotation, spec.rotation))
    if spec.orientations:
        drawn = uniform(3 * spec.orientations, _ORIENTATIONS).reshape(len(index), spec.orientations, 3)
        orientations = torch.from_numpy(np.floor(drawn * (2, 2, 4)).astype(np.uint8))
    return Geometry(box, geometry[:, -1] < spec.flip), Distortion(
        *_intensity(spec, intensity), *_corrupt(spec, patches), rotation, orientations
    )


def draw_partner(
    seed: int, epoch: int | np.ndarray, index: np.ndarray, occurrence: np.ndarray, view: int, others: np.ndarray
) -> np.ndarray:
    """For each of the samples ``index`` [b] one of ``others`` [b] > 0 possibilities: int64 [b], from 0."""
    u = random.uniform(seed, epoch, index, occurrence, view, 1, _PARTNER)[:, 0]
    return _integer(u, 0, others - 1)


def _resized_crop(spec: ViewSpec, u: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """torchvision's RandomResizedCrop: the first of ten draws of area and log ratio that fits, else a central crop."""
    height, width = heights[:, None], widths[:, None]
    area = _between(u[:, :_TRIES], *spec.scale) * height * width
    ratio = np.exp(_between(u[:, _TRIES : 2 * _TRIES], *np.log(spec.ratio)))
    h, w = np.rint(np.sqrt(area / ratio)).astype(np.int64), np.rint(np.sqrt(area * ratio)).astype(np.int64)
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = fits.argmax(1)[:, None]
    h, w = np.take_along_axis(h, first, 1)[:, 0], np.take_along_axis(w, first, 1)[:, 0]
    y, x = _integer(u[:, -2], 0, heights - h), _integer(u[:, -1], 0, widths - w)

    central_w = np.minimum(widths, np.rint(heights * spec.ratio[1]).astype(np.int64))
    central_h = np.minimum(heights, np.rint(widths / spec.ratio[0]).astype(np.int64))
    central = (heights - central_h) // 2, (widths - central_w) // 2, central_h, central_w
    return np.where(fits.any(1), (y, x, h, w), central).T.astype(np.int32)


def _intensity(spec: ViewSpec, u: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    jitter, blur = u[:, 0] < spec.jitter.p, u[:, 1] < spec.blur.p
    brightness = np.where(jitter, _between(u[:, 2], 1 - spec.jitter.brightness, 1 + spec.jitter.brightness), 1.0)
    contrast = np.where(jitter, _between(u[:, 3], 1 - spec.jitter.contrast, 1 + spec.jitter.contrast), 1.0)
    sigma = np.where(blur, _between(u[:, 4], *spec.blur.sigma) * spec.size / REFERENCE_SIZE, 0.0)
    return _float32(brightness), _float32(contrast), torch.from_numpy(u[:, 5] < 0.5), _float32(sigma)


def _corrupt(spec: ViewSpec, u: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Branch, boxes, their number, and swaps. A sample has one branch, so the branches share random numbers."""
    limits = np.cumsum((spec.cutout.p, spec.inverse_cutout.p, spec.shuffle.p))
    branch = np.searchsorted(limits, u[:, 0], side="right")
    u = u[:, 1:].reshape(len(u), _patches(spec), 6)
    boxes, number = np.zeros((*u.shape[:2], 4), np.int16), np.zeros(len(u), np.uint8)
    swaps = np.zeros((*u.shape[:2], 6), np.int16)

    cut, kept, shuffled = (np.flatnonzero(branch == kind) for kind in (CUTOUT, INVERSE_CUTOUT, SHUFFLE))
    low, high = map(spec.pixels, spec.cutout.side)
    sides = _integer(u[cut, :, :2], max(1, low), high)
    boxes[cut], number[cut] = _boxes(spec, u[cut], sides, spec.cutout.boxes, spec.cutout.stop)
    sides = spec.size - _integer(u[kept, :, :2], *map(spec.pixels, spec.inverse_cutout.margin))
    boxes[kept], number[kept] = _boxes(spec, u[kept], sides, spec.inverse_cutout.boxes, spec.inverse_cutout.stop)

    u = u[shuffled, : spec.shuffle.swaps]
    low, high = map(spec.pixels, spec.shuffle.side)
    sides = _integer(u[..., :2], max(1, low), high)
    places = _place(spec, u[..., 2:4], sides), _place(spec, u[..., 4:6], sides)
    swaps[shuffled, : spec.shuffle.swaps] = np.concatenate((sides, *places), -1)
    return (
        torch.from_numpy(branch.astype(np.uint8)),
        torch.from_numpy(boxes),
        torch.from_numpy(number),
        torch.from_numpy(swaps),
    )


def _boxes(spec: ViewSpec, u: np.ndarray, sides: np.ndarray, most: int, stop: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [b, n, 4] with ``sides`` [b, n, 2], 0 beyond their number [b]: up to the first u below ``stop``."""
    stops = u[:, :most, 4] < stop
    number = np.where(stops.any(1), stops.argmax(1) + 1, most)
    used = np.arange(u.shape[1]) < number[:, None]
    return np.concatenate((_place(spec, u[..., 2:4], sides), sides), -1) * used[..., None], number


def _patches(spec: ViewSpec) -> int:
    return max(spec.cutout.boxes, spec.inverse_cutout.boxes, spec.shuffle.swaps)


def _place(spec: ViewSpec, u: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Top-left corners [..., 2] of patches with ``sides`` [..., 2], ``border`` away from the edges."""
    border = spec.pixels(spec.border)
    return _integer(u, border, spec.size - sides - border)


def _between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * u


def _integer(u: np.ndarray, low: int, high: int | np.ndarray) -> np.ndarray:
    """Integers from ``low`` to ``high``, inclusive."""
    return low + (u * (high - low + 1)).astype(np.int64)


def _float32(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))
