"""The views that a method asks for.

The defaults are DiRA's 2D pipeline: two independent views; random resized crop, brightness and contrast, blur, flip,
then at most one of cutout, inverse cutout and patch shuffling. Sizes of patches and blur are in pixels of a 224-pixel
view and scale with the view. PCRL also rotates views, and asks for orientations of their restoration targets. Views of
volumes have crops of given sizes, flips along each axis, brightness and contrast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dira_scale.data.geometry.crop import CropRule
from dira_scale.data.geometry.fixed import FixedCrop
from dira_scale.data.geometry.pair import PairCrop
from dira_scale.data.geometry.plane import PlaneCrop, SizedPlaneCrop
from dira_scale.data.geometry.volume import VolumeCrop
from dira_scale.data.views.corruption import Corruption, check
from dira_scale.errors import UserError, nearest

REFERENCE_SIZE = 224  # pixels of the view that lengths below refer to
TARGET_FLIPS = ("with_input", "released")
PAIRS = ("image", "patient")


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


@dataclass(frozen=True)
class ViewSpec:
    """The views that a method needs, of images or of volumes.

    Attributes:
        count: views per sample.
        size: of images: height and width of a view; of volumes: its depth, height and width.
        scale: of images: the crop's area as a fraction of the image's.
        ratio: of images: the crop's width over its height.
        sized: of images: crops of the image's own aspect, in the place of ``scale`` and ``ratio``.
        extents: of volumes: the sizes in voxels, one of which each crop has; none: the view's size.
        iou: of volumes: the intersection over union that the boxes of two views have more than; None: any.
        same_size: of volumes with ``iou``: whether both crops have one of ``extents``, or each its own.
        crop_border: of volumes: for each axis how many voxels crops stay away from the volume's edges, as far as they
            can; empty: none.
        flip: probability of mirroring: images left and right; volumes along each axis, or for [depth, height, width].
        turns, transpose: of volumes: probabilities that height and width change places, and of a turn by 90, 180 or
            270 degrees in their plane. The restoration target is as the view.
        target_flip: whether the restoration target is mirrored and rotated: ``with_input``, or never (``released``).
        blur, cutout, inverse_cutout, shuffle, tone, warp: of images. A mask is warped with its image.
        border: distance of patches from the view's edges; negative: they may reach beyond by as much.
        rotation: of images: largest angle, in degrees, by which a view is rotated either way.
        orientations: how many random orientations of the restoration target are drawn for each view.
        pair: what the views of a sample share: the ``image``, or the ``patient``: views after the first show another
            image of the same patient where there is one (MoCo with positives from a patient's images; Vu et al.,
            "MedAug", MLHC 2021, section 3).
        fixed: the crop of each view, the same for every image, in the place of drawn ones (``fixed_views``).
        corruptions: by name, of views that are to be restored: applied in this order, after all others; None: none.
        spacing: of volumes: the millimetres of a voxel on each axis, or on all, in which sizes of crops are counted;
            None: stored voxels, whatever their size.
        range: the stored values that become 0 and 1; None: each image's own, ``low`` and ``high`` of its manifest.
        pad: of volumes: whether those smaller than a crop are padded with what becomes 0, and masks with
            ``batch.IGNORE``; else they are refused.

    Raises UserError for invalid probabilities or ranges, and for what volumes do not have.
    """

    count: int = 2
    size: int | tuple[int, ...] = REFERENCE_SIZE
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float | tuple[float, float, float] = 0.5
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
    extents: tuple[tuple[int, ...], ...] = ()
    fixed: tuple[FixedCrop, ...] = ()
    sized: SizedCrop | None = None
    tone: Tone = field(default_factory=Tone)
    warp: Warp = field(default_factory=Warp)
    corruptions: Mapping[str, Corruption] = field(default_factory=dict)
    iou: float | None = None
    same_size: bool = False
    crop_border: tuple[int, ...] = ()
    turns: float = 0.0
    transpose: float = 0.0
    spacing: float | tuple[float, ...] | None = None
    range: tuple[float, float] | None = None
    pad: bool = False

    def __post_init__(self) -> None:
        branches = (self.cutout.p, self.inverse_cutout.p, self.shuffle.p)
        others = (self.jitter.p, self.blur.p, self.tone.p, self.warp.p, self.sized.p if self.sized else 0)
        self._check_flip()
        oriented = *self.flips, self.turns, self.transpose
        if not all(0 <= p <= 1 for p in (*oriented, *others, *branches, sum(branches))):
            raise UserError(f"probabilities must be in [0, 1], as must the sum of the three patch distortions: {self}")
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise UserError(f"need 0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]: {self}")
        if self.target_flip not in TARGET_FLIPS:
            known = f"{', '.join(TARGET_FLIPS)}{nearest(self.target_flip, TARGET_FLIPS)}"
            raise UserError(f"target_flip={self.target_flip}: expected {known}")
        if self.pair not in PAIRS:
            raise UserError(f"pair={self.pair}: expected {', '.join(PAIRS)}{nearest(self.pair, PAIRS)}")
        if self.count < 1 or min(self.sides) < 8:
            shown = self.size if isinstance(self.size, int) else " x ".join(map(str, self.size))
            raise UserError(f"need at least one view of at least 8 pixels, got {self.count} of {shown}")
        if self.orientations < 0:
            raise UserError(f"orientations={self.orientations}: need at least 0")
        self._check_fixed()
        if isinstance(self.size, int):
            self._check_plane()
        else:
            self._check_volume(self.size)
        object.__setattr__(self, "corruptions", self.corruptions or {})
        check(self.corruptions, self.sides)

    def _check_flip(self) -> None:
        if isinstance(self.flip, float | int):
            return
        if self.dimensions == 2:
            raise UserError(f"flip={[*self.flip]}: images are mirrored left and right alone: give one number")
        if len(self.flip) != 3:
            raise UserError(f"flip={[*self.flip]}: give one number, or three, for [depth, height, width]")

    def _check_fixed(self) -> None:
        if self.fixed and len(self.fixed) != self.count:
            raise UserError(f"fixed: {len(self.fixed)} crops for {self.count} views; give one for each")
        for crop in self.fixed:
            if {len(crop.position), len(crop.extent or crop.position)} != {self.dimensions}:
                raise UserError(f"fixed: {crop} does not have the {self.dimensions} axes of size={self.size}")
            if not (0 < crop.share <= 1 and all(0 <= p <= 1 for p in crop.position) and min(crop.extent or (1,)) > 0):
                raise UserError(f"fixed: need positions from 0 to 1, 0 < share <= 1 and extents above 0: {crop}")

    def _check_plane(self) -> None:
        if self.border < 0 and self.shuffle.p > 0:
            raise UserError(
                f"patches that reach beyond the edges cannot be swapped: need border >= 0 or shuffle.p=0, "
                f"got border={self.border} and shuffle.p={self.shuffle.p}"
            )
        if not 0 <= self.rotation <= 180:
            raise UserError(f"need 0 <= rotation <= 180 degrees: {self}")
        if self.sized and not 0 < self.sized.side[0] <= self.sized.side[1] <= REFERENCE_SIZE:
            raise UserError(f"need 0 < sized.side[0] <= sized.side[1] <= {REFERENCE_SIZE}: {self.sized}")
        if not (0 < self.tone.gamma[0] <= self.tone.gamma[1] and 0 <= self.tone.contrast <= 1):
            raise UserError(f"need 0 < tone.gamma[0] <= tone.gamma[1] and 0 <= tone.contrast <= 1: {self.tone}")
        if not (self.warp.sigma > 0 and 0 <= self.warp.grid < 1):
            raise UserError(f"need warp.sigma > 0 and 0 <= warp.grid < 1: {self.warp}")
        if self.extents:
            raise UserError(f"extents={self.extents} are of volumes: views of images have scale and ratio")
        names = {name: f"views.{name}" for name in ("iou", "same_size", "crop_border", "turns", "transpose")}
        names |= {name: f"data.{name}" for name in ("spacing", "pad")}
        given = [shown for name, shown in names.items() if getattr(self, name)]
        if given := given or ["views.iou"] * (self.iou is not None):
            raise UserError(f"views of images do not have {', '.join(given)}, only those of volumes: leave it out")
        largest = max(self.cutout.side[1], self.shuffle.side[1], REFERENCE_SIZE - self.inverse_cutout.margin[0])
        if self.pixels(largest) + 2 * self.pixels(self.border) > self.sides[0]:
            raise UserError(
                f"a patch of {largest} of {REFERENCE_SIZE} pixels leaves no border of {self.border}: {self}"
            )

    def _check_volume(self, size: tuple[int, ...]) -> None:
        if not all(isinstance(extent, list | tuple) for extent in self.extents):
            raise UserError(f"views.extents={[*self.extents]}: give a list of sizes, [{[*self.extents]}]")
        if len(size) != 3 or not all(len(extent) == 3 and min(extent) > 0 for extent in self.extents):
            raise UserError(f"views of volumes need size=[depth, height, width], and extents of such sizes: got size="
                            f"{list(size)} and extents={[list(extent) for extent in self.extents]}")  # fmt: skip
        names = ("blur", "cutout", "inverse_cutout", "shuffle", "tone", "warp")
        parts = {f"{name}.p": getattr(self, name).p for name in names}
        parts |= {"rotation": self.rotation}
        if given := [f"{name}={value:g}" for name, value in parts.items() if value]:
            raise UserError(f"views of volumes do not have {', '.join(given)}: set each to 0")
        if (tuple(self.scale), tuple(self.ratio)) != (ViewSpec.scale, ViewSpec.ratio):
            raise UserError("views of volumes do not have scale and ratio, but extents: leave both at their defaults")
        if self.sized:
            raise UserError("views of volumes do not have sized, but extents: use sized=null")
        if self.crop_border and (len(self.crop_border) != 3 or min(self.crop_border) < 0):
            raise UserError(f"crop_border={list(self.crop_border)}: give [depth, height, width] in voxels")
        self._check_pairs()
        self._check_turns(size)

    def _check_pairs(self) -> None:
        if self.iou is None:
            if self.same_size:
                raise UserError("same_size=true is of pairs: add iou=0.2, or another bound of their overlap")
            return
        if self.count != 2 or self.pair != "image" or self.fixed:
            raise UserError(f"iou={self.iou:g} is of two views of one volume: got count={self.count}, pair={self.pair}")
        if not 0 <= self.iou < 1:
            raise UserError(f"iou={self.iou:g}: pairs overlap by more than this; give a number from 0 to below 1")
        pairs = PairCrop(self._volume_crop, self.iou, self.same_size)
        if (best := pairs.best()) <= self.iou:
            sizes = ", ".join(" x ".join(map(str, crop)) for crop in pairs.crop.sizes)
            raise UserError(
                f"iou={self.iou:g}: no two crops of {sizes} have more where one of them is turned, at most {best:.3g}: "
                "use a smaller iou, sizes that are as high as wide, or turns=0 and transpose=0"
            )

    def _check_turns(self, size: tuple[int, ...]) -> None:
        if self.orientations and size[-1] != size[-2]:
            raise UserError(f"orientations={self.orientations}: quarter turns need size=[depth, side, side], "
                            f"got {list(size)}")  # fmt: skip
        if not (self.turns or self.transpose):
            return
        if self.target_flip != "with_input":
            raise UserError(f"target_flip={self.target_flip}: of views with turns or transpose only with_input")
        if isinstance(self.spacing, tuple | list) and self.spacing[-1] != self.spacing[-2]:
            raise UserError(f"turns and transpose need one spacing in the plane, got spacing={list(self.spacing)}")

    @property
    def stored(self) -> dict[str, Any]:
        """How stored images are seen, of whatever views."""
        return {"spacing": self.spacing, "range": self.range, "pad": self.pad}

    @property
    def sides(self) -> tuple[int, ...]:
        """Of a view, an entry for each axis."""
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)

    @property
    def dimensions(self) -> int:
        return len(self.sides)

    @property
    def flips(self) -> tuple[float, ...]:
        """Probability of mirroring along each axis."""
        if not isinstance(self.flip, float | int):
            return tuple(self.flip)
        return (0.0, self.flip) if self.dimensions == 2 else (self.flip,) * 3

    @property
    def crop(self) -> CropRule:
        """How crops and flips are drawn, unless they are ``fixed``."""
        if self.sized:
            low, high = (side / REFERENCE_SIZE for side in self.sized.side)
            return SizedPlaneCrop((low, high), self.sized.p, self.flips[-1])
        if isinstance(self.size, int):
            return PlaneCrop(self.scale, self.ratio, self.flips[-1])
        return self._volume_crop

    @property
    def pairs(self) -> PairCrop | None:
        """How both views of a volume are drawn, if their overlap is bounded."""
        return None if self.iou is None else PairCrop(self._volume_crop, self.iou, self.same_size)

    @property
    def _volume_crop(self) -> VolumeCrop:
        return VolumeCrop(self.extents or (self.sides,), self.flips, self.turns, self.transpose, self.crop_border)

    def step(self, spacing: np.ndarray | None) -> np.ndarray | None:
        """Of volumes with this ``spacing`` [b, n] in mm: the stored voxels to each voxel of a crop's size. None: 1."""
        return None if self.spacing is None or spacing is None else np.array(self.spacing) / spacing

    @property
    def least(self) -> tuple[int, ...] | None:
        """The sides [n] that an image must have, in pixels; None: any."""
        if not self.fixed:
            return self.crop.least
        extents = [crop.extent for crop in self.fixed if crop.extent is not None]
        return tuple(map(max, zip(*extents, strict=True))) if extents else None

    def pixels(self, length: int) -> int:
        """A ``length`` in a 224-pixel view, in whole pixels of this one."""
        return round(self.scaled(length))

    def scaled(self, length: float) -> float:
        """A ``length`` in a 224-pixel view, in pixels of this one."""
        return length * self.sides[-1] / REFERENCE_SIZE


def fixed_views(size: int | tuple[int, ...], crops: tuple[FixedCrop, ...], **stored: Any) -> ViewSpec:
    """Views for evaluation: these crops of every image, resized to ``size``, and nothing drawn. ``stored`` may have
    ``spacing``, ``range`` and ``pad``.

    ``geometry.fixed`` has the usual ones: ``centre(2)`` is the whole image, ``ten_crops(2, 224 / 256)`` are those of
    an image resized to 256 pixels, ``centre(3, extent=(64, 64, 32))`` is the middle of a volume, in voxels.
    """
    return ViewSpec(
        count=len(crops), size=size, fixed=crops, flip=0.0, jitter=Jitter(p=0), blur=Blur(p=0), cutout=Cutout(p=0),
        inverse_cutout=InverseCutout(p=0), shuffle=Shuffle(p=0), **stored,
    )  # fmt: skip
