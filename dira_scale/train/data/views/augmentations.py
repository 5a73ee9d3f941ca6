"""The random choices for an image or a volume: ``PlaneViews.draw`` and ``VolumeViews.draw``, read from top to bottom.

Nothing is changed here: a view's parameters are drawn. A loader applies its ``Geometry``: it cuts the crop out of the
stored image, resizes it to ``size`` and mirrors it (``pixels``). The training device applies its ``Distortion`` in this
order (``data.distort``). The restoration target is the view as the loader delivers it, rotated and warped as its input
is; or, with ``target_flip=released``, neither of these, and mirrored back. ``configs/views/`` has each method's values.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.train.data import random
from dira_scale.train.data.geometry.crop import Geometry
from dira_scale.train.data.geometry.pair import PairCrop
from dira_scale.train.data.geometry.plane import PlaneCrop, SizedPlaneCrop
from dira_scale.train.data.geometry.volume import VolumeCrop
from dira_scale.train.data.views.distortion import CHANNEL_DROPOUT, COLOUR, CORRUPTIONS, Distortion, Stream, ViewNumbers
from dira_scale.train.data.views.parts import REFERENCE_SIZE, WARP_NUMBERS
from dira_scale.train.data.views.patches import Patches
from dira_scale.train.data.views.settings import PlaneViewSettings, Views, VolumeViewSettings

# Of the 7 random numbers of intensities those of each part.
JITTERED, BLURRED = [0, 2, 3, 5], [1, 4]


@dataclass(frozen=True)
class PlaneViews(PlaneViewSettings):
    """Views of images, of one size.

    Attributes:
        first_side: of the first of several kinds of crops: ``blur`` is in its pixels, as in DINO's code; 0: its own.

    Raises ArgumentError for settings out of range, or that exclude each other.
    """

    first_side: int = 0
    turned: ClassVar[bool] = False

    def draw(
        self, numbers: ViewNumbers, sides: np.ndarray, spacing: np.ndarray | None, around: np.ndarray | None = None
    ) -> tuple[Geometry, Distortion]:
        """Draw the view of b images with stored ``sides`` int64 [b, 2]; the rest is of volumes."""
        # The loader: a crop, resized to ``size``; with probability ``flip`` mirrored left and right.
        if self.fixed:
            crop = self.fixed[numbers.view].of(sides)
        else:
            crop = self.crop.draw(numbers(self.crop.numbers, Stream.GEOMETRY), sides)
        # The device: rotated by up to ``rotation`` degrees; with ``warp.p`` warped. The restoration target, too.
        drawn, nested = _orientations(self, numbers), dict[str, dict[str, np.ndarray]]()
        if self.rotation:
            angle = random.between(numbers(1, Stream.ROTATION)[:, 0], -self.rotation, self.rotation)
            drawn["rotation"] = angle.astype(np.float32)
        if self.warp.p:
            drawn["warp"] = self.warp.draw(numbers(WARP_NUMBERS, Stream.WARP), numbers(2, Stream.NOISE), self.sides[-1])
        # The input alone. With ``tone.p`` either brightness and contrast, or gamma.
        if self.tone.p:
            drawn["tone"] = self.tone.draw(numbers(4, Stream.TONE))
        # With ``jitter.p`` brightness and contrast, in colour saturation and hue; then with ``grey`` no colours.
        intensity = numbers(7, Stream.INTENSITY)
        drawn |= self.jitter.draw(intensity[:, JITTERED])
        if self.coloured:
            nested[COLOUR] = self.jitter.draw_colour(intensity[:, JITTERED], numbers(5, Stream.COLOURS), self.grey)
        # With ``blur.p`` blurred.
        drawn["sigma"] = self.blur.draw(intensity[:, BLURRED], self.blur_scale)
        # If it is to be restored: cutout, inverse cutout or patch shuffling, each with its ``p``, or none of them.
        drawn |= self.patches.draw(numbers(self.patches.numbers, Stream.PATCHES))
        # Then each of ``corruptions``. In any case, and last: channels become 0, each with ``channel_dropout``.
        return crop, Distortion.of(sides, _corruptions(self, numbers) | nested, **drawn)

    @property
    def flips(self) -> tuple[float, ...]:
        assert isinstance(self.flip, float | int)
        return 0.0, self.flip

    @property
    def crop(self) -> PlaneCrop | SizedPlaneCrop:
        """The rule that draws crops and flips, unless they are ``fixed``."""
        if self.sized is None:
            return PlaneCrop(self.scale, self.ratio, self.flips[-1])
        low, high = (side / REFERENCE_SIZE for side in self.sized.side)
        return SizedPlaneCrop((low, high), self.sized.p, self.flips[-1])

    @property
    def patches(self) -> Patches:
        return Patches(self.cutout, self.inverse_cutout, self.shuffle, self.sides[0], self.border)

    @property
    def blur_scale(self) -> float:
        return (self.first_side or self.sides[-1]) / REFERENCE_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        total = self.cutout.p + self.inverse_cutout.p + self.shuffle.p
        if total > 1:
            expected = f"cutout.p, inverse_cutout.p and shuffle.p to add up to at most 1, not {total:g}"
            raise ArgumentError("cutout.p", self.cutout.p, expected)
        if not isinstance(self.flip, float | int):
            raise ArgumentError("flip", self.flip, "one number: images are mirrored left and right alone")
        if self.border < 0 and self.shuffle.p > 0:
            expected = "at least 0, or shuffle.p to be 0: patches that reach beyond the edges cannot be swapped"
            raise ArgumentError("border", self.border, expected)
        cut, kept, swapped = self.cutout.side, self.inverse_cutout.margin, self.shuffle.side
        largest = {"cutout.side": cut[1], "inverse_cutout.margin": REFERENCE_SIZE - kept[0], "shuffle.side": swapped[1]}
        name, pixels = max(largest, key=largest.__getitem__), self.patches.pixels
        if pixels(largest[name]) + 2 * pixels(self.border) > self.sides[0]:
            patch = f"one has {largest[name]} of {REFERENCE_SIZE} pixels"
            raise ArgumentError(name, UNSHOWN, f"patches that leave a border of {self.border}: {patch}")


@dataclass(frozen=True)
class VolumeViews(VolumeViewSettings):
    """Views of volumes, of one size.

    Raises ArgumentError for settings out of range, or that exclude each other.
    """

    coloured: ClassVar[bool] = False

    def draw(
        self, numbers: ViewNumbers, sides: np.ndarray, spacing: np.ndarray | None, around: np.ndarray | None = None
    ) -> tuple[Geometry, Distortion]:
        """Draw the view of b volumes with stored ``sides`` int64 [b, 3] and ``spacing`` [b, 3] in mm.

        ``around`` [b, 3]: voxels of the foreground, which the crops of a share ``foreground`` of the volumes show;
        NaN of a volume that has none.
        """
        # The loader: a crop of ``extents``, resized to ``size``; with probabilities ``flip`` mirrored along each axis,
        # ``transpose`` transposed in the plane and ``turns`` turned there.
        step = self.step(spacing)
        if self.fixed:
            crop = self.fixed[numbers.view].of(sides, step)
        elif self.pairs is None:
            if around is not None:
                chosen = numbers(1, Stream.FOREGROUND) < self.foreground
                around = np.where(chosen, around, np.nan)
            crop = self.crop.draw(numbers(self.crop.numbers, Stream.GEOMETRY), sides, step, around)
        else:  # of both views at once
            first, second = replace(numbers, view=0), replace(numbers, view=1)
            u = first(self.crop.numbers, Stream.GEOMETRY), second(self.crop.numbers, Stream.GEOMETRY)
            pair = self.pairs.draw(u, lambda rows, start, n: first[rows](n, Stream.PAIRS, start), sides, step)
            crop = pair[numbers.view]
        # The device, the input alone: with ``jitter.p`` brightness and contrast.
        drawn = _orientations(self, numbers) | self.jitter.draw(numbers(7, Stream.INTENSITY)[:, JITTERED])
        # If it is to be restored: each of ``corruptions``. In any case, and last: channels become 0, as of images.
        return crop, Distortion.of(sides, _corruptions(self, numbers), **drawn)

    @property
    def flips(self) -> tuple[float, ...]:
        return (self.flip,) * 3 if isinstance(self.flip, float | int) else tuple(self.flip)

    @property
    def crop(self) -> VolumeCrop:
        """The rule that draws crops, flips and turns, unless they are ``fixed``."""
        return VolumeCrop(self.extents or (self.sides,), self.flips, self.turns, self.transpose, self.crop_border)

    @property
    def pairs(self) -> PairCrop | None:
        """The rule that draws both views of a volume, if their overlap is bounded."""
        return None if self.iou is None else PairCrop(self.crop, self.iou, self.same_size)

    @property
    def turned(self) -> bool:
        """Return whether height and width may be swapped."""
        return self.crop.turned

    @property
    def least(self) -> tuple[int, ...] | None:
        return super().least if self.fixed else self.crop.least

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.foreground and (self.iou is not None or self.fixed):
            raise ArgumentError(
                "foreground", self.foreground, "0 of fixed crops, and of pairs with a bound of their iou"
            )
        if self.iou is None and self.same_size:
            raise ArgumentError("same_size", True, "a bound of the pairs' overlap beside it, such as an iou of 0.2")
        if self.iou is not None and (self.count != 2 or self.pair != "image" or self.fixed):
            views = f"{self.count}{' fixed' if self.fixed else ''} of one {self.pair}"
            raise ArgumentError("iou", self.iou, f"2 views, drawn of one volume, not {views}")
        if self.pairs is not None and (best := self.pairs.best()) <= self.pairs.iou:
            sizes = ", ".join(" x ".join(map(str, size)) for size in self.crop.sizes)
            expected = f"less than {best:.3g}, the most that two crops of {sizes} have where one of them is turned"
            raise ArgumentError("iou", self.iou, f"{expected}; or sizes as high as wide, or turns and transpose of 0")
        if self.orientations and self.sides[-1] != self.sides[-2]:
            expected = f"0, or a size of [depth, side, side], for quarter turns, not {list(self.sides)}"
            raise ArgumentError("orientations", self.orientations, expected)
        if self.turned and self.target_flip != "with_input":
            raise ArgumentError("target_flip", self.target_flip, "with_input, of views with turns or transpose")
        if self.turned and isinstance(self.spacing, tuple | list) and self.spacing[-1] != self.spacing[-2]:
            raise ArgumentError("spacing", self.spacing, "one spacing in the plane, of views with turns or transpose")


def _corruptions(views: Views, numbers: ViewNumbers) -> dict[str, dict[str, np.ndarray]]:
    """Draw the parameters of each corruption, by name, and the key of channel dropout."""
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for stream, (name, corruption) in enumerate(views.corruptions.items(), CORRUPTIONS):
        drawn[name] = corruption.draw(numbers(corruption.numbers(views.sides), stream), views.sides)
    if views.channel_dropout:
        drawn[CHANNEL_DROPOUT] = {"key": np.floor(numbers(1, Stream.CHANNELS)[:, 0] * 2**24).astype(np.int64)}
    return drawn


def _orientations(views: Views, numbers: ViewNumbers) -> dict[str, np.ndarray]:
    """Draw how a method turns the restoration target: uint8 [b, k, n + 1], mirrorings and quarter turns; or nothing."""
    count, choices = views.orientations, (*(2,) * views.dimensions, 4)
    if not count:
        return {}
    drawn = numbers(len(choices) * count, Stream.ORIENTATIONS).reshape(-1, count, len(choices))
    return {"orientations": np.floor(drawn * choices).astype(np.uint8)}
