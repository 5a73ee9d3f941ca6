"""Views of one size: what they are made with, and what follows from it for a crop."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import numpy as np

from dira_scale.arguments import Above, AtLeast, Bound, Within
from dira_scale.data.geometry.crop import CropRule
from dira_scale.data.geometry.fixed import FixedCrop
from dira_scale.data.geometry.pair import PairCrop
from dira_scale.data.geometry.plane import PlaneCrop, SizedPlaneCrop
from dira_scale.data.geometry.volume import VolumeCrop
from dira_scale.data.views.corruption import Corruption
from dira_scale.data.views.parts import (
    BELOW_ONE,
    REFERENCE_SIZE,
    Ascending,
    Blur,
    Chance,
    Cutout,
    InverseCutout,
    Jitter,
    Shuffle,
    SizedCrop,
    Tone,
    Warp,
)

TargetFlip = Literal["with_input", "released"]
TARGET_FLIPS = get_args(TargetFlip)
Voxels = Annotated[int, AtLeast(1)]
AXES = Bound("of 3 entries, [depth, height, width]", lambda entries: len(entries) == 3, whole=True)
AXES_OR_NONE = Bound(f"{AXES.text}, or none", lambda entries: len(entries) in (0, 3), whole=True)


@dataclass(frozen=True)
class UniformViews:
    """Views of one size, of images or of volumes.

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
            "MedAug", MLHC 2021, section 3); or the ``session``, the study: two sequences of one, where each is a
            sample (``recipe.split_sequences``).
        channel_dropout: of images of several channels: with which probability each becomes 0, but never all; not of the
            restoration target (as missing MR sequences; Havaei et al., "HeMIS", MICCAI 2016).
        grey: of images in colour: with which probability a view becomes grey (torchvision's RandomGrayscale).
        fixed: the crop of each view, the same for every image, in the place of drawn ones (``fixed_views``).
        corruptions: by name, of views that are to be restored: applied in this order, after all others.
        spacing: of volumes: the millimetres of a voxel on each axis, or on all, in which sizes of crops are counted;
            None: stored voxels, whatever their size.
        range: the stored values that become 0 and 1; None: each image's own, ``low`` and ``high`` of its manifest.
        pad: of volumes: whether those smaller than a crop are padded with what becomes 0, and masks with
            ``batch.IGNORE``; else they are refused.
    """

    count: Annotated[int, AtLeast(1)] = 2
    size: Annotated[int, AtLeast(8)] | Annotated[tuple[Annotated[int, AtLeast(8)], ...], AXES] = REFERENCE_SIZE
    scale: Annotated[tuple[float, float], Ascending(Above(0, 1))] = (0.2, 1.0)
    ratio: Annotated[tuple[float, float], Ascending(Above(0))] = (3 / 4, 4 / 3)
    flip: Chance | tuple[Chance, Chance, Chance] = 0.5
    target_flip: TargetFlip = "with_input"
    jitter: Jitter = field(default_factory=Jitter)
    blur: Blur = field(default_factory=Blur)
    cutout: Cutout = field(default_factory=Cutout)
    inverse_cutout: InverseCutout = field(default_factory=InverseCutout)
    shuffle: Shuffle = field(default_factory=Shuffle)
    border: int = 3
    rotation: Annotated[float, Within(0, 180)] = 0.0
    orientations: Annotated[int, AtLeast(0)] = 0
    pair: Literal["image", "session", "patient"] = "image"
    channel_dropout: Chance = 0.0
    grey: Chance = 0.0
    extents: tuple[tuple[Voxels, Voxels, Voxels], ...] = ()
    fixed: tuple[FixedCrop, ...] = ()
    sized: SizedCrop | None = None
    tone: Tone = field(default_factory=Tone)
    warp: Warp = field(default_factory=Warp)
    corruptions: Mapping[str, Corruption] = field(default_factory=dict)
    iou: Annotated[float, BELOW_ONE] | None = None
    same_size: bool = False
    crop_border: Annotated[tuple[Annotated[int, AtLeast(0)], ...], AXES_OR_NONE] = ()
    turns: Chance = 0.0
    transpose: Chance = 0.0
    spacing: Annotated[float, Above(0)] | Annotated[tuple[Annotated[float, Above(0)], ...], AXES] | None = None
    range: tuple[float, float] | None = None
    pad: bool = False

    @property
    def stored(self) -> dict[str, Any]:
        """The settings for reading stored images, which apply to every kind of view."""
        return {"spacing": self.spacing, "range": self.range, "pad": self.pad}

    @property
    def coloured(self) -> bool:
        """Return whether any distortion changes colours."""
        return max(self.jitter.saturation, self.jitter.hue, self.grey) > 0

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of a view, an entry for each axis."""
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
        """The rule that draws crops and flips, unless they are ``fixed``."""
        if self.sized:
            low, high = (side / REFERENCE_SIZE for side in self.sized.side)
            return SizedPlaneCrop((low, high), self.sized.p, self.flips[-1])
        if isinstance(self.size, int):
            return PlaneCrop(self.scale, self.ratio, self.flips[-1])
        return self.volume_crop

    @property
    def pairs(self) -> PairCrop | None:
        """The rule that draws both views of a volume, if their overlap is bounded."""
        return None if self.iou is None else PairCrop(self.volume_crop, self.iou, self.same_size)

    @property
    def volume_crop(self) -> VolumeCrop:
        return VolumeCrop(self.extents or (self.sides,), self.flips, self.turns, self.transpose, self.crop_border)

    def step(self, spacing: np.ndarray | None) -> np.ndarray | None:
        """Return the stored voxels to each voxel of a crop's size, for volumes of ``spacing`` [b, n] in mm; None: 1."""
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
