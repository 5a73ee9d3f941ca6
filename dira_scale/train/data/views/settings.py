"""The settings of views: those that images and volumes share, those of images, those of volumes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import numpy as np

from dira_scale.base.arguments import UNSHOWN, Above, ArgumentError, AtLeast, Bound, Within, inside
from dira_scale.train.data.geometry.fixed import FixedCrop
from dira_scale.train.data.views import parts
from dira_scale.train.data.views.corruption import Corruption, check
from dira_scale.train.data.views.parts import BELOW_ONE, REFERENCE_SIZE, Ascending, Chance, ViewPart

TargetFlip = Literal["with_input", "released"]
TARGET_FLIPS = get_args(TargetFlip)
Voxels = Annotated[int, AtLeast(1)]
AXES = Bound("of 3 entries, [depth, height, width]", lambda entries: len(entries) == 3, whole=True)
AXES_OR_NONE = Bound(f"{AXES.text}, or none", lambda entries: len(entries) in (0, 3), whole=True)


@dataclass(frozen=True)
class Views(ViewPart):
    """Views of images or of volumes: the settings that both have.

    Attributes:
        count: views per sample.
        size: of images: height and width of a view; of volumes: its depth, height and width.
        flip: probability of mirroring: images left and right; volumes along each axis, or for [depth, height, width].
        target_flip: whether the restoration target is mirrored and rotated: ``with_input``, or never (``released``).
        orientations: how many random orientations of the restoration target are drawn for each view.
        pair: what the views of a sample share: the ``image``, or the ``patient``: views after the first show another
            image of the same patient where there is one (MoCo with positives from a patient's images; Vu et al.,
            "MedAug", MLHC 2021, section 3); or the ``session``, the study: two sequences of one, where each is a
            sample (``recipe.split_sequences``).
        channel_dropout: of several channels: with which probability each becomes 0, but never all; not of the
            restoration target (as missing MR sequences; Havaei et al., "HeMIS", MICCAI 2016).
        fixed: the crop of each view, the same for every image, in the place of drawn ones (``fixed_views``).
        corruptions: by name, of views that are to be restored: applied in this order, after all others.
        range: the stored values that become 0 and 1; None: each image's own, ``low`` and ``high`` of its manifest.
    """

    count: Annotated[int, AtLeast(1)] = 2
    size: Annotated[int, AtLeast(8)] | Annotated[tuple[Annotated[int, AtLeast(8)], ...], AXES] = REFERENCE_SIZE
    flip: Chance | tuple[Chance, Chance, Chance] = 0.5
    target_flip: TargetFlip = "with_input"
    jitter: parts.Jitter = field(default_factory=parts.Jitter)
    orientations: Annotated[int, AtLeast(0)] = 0
    pair: Literal["image", "session", "patient"] = "image"
    channel_dropout: Chance = 0.0
    fixed: tuple[FixedCrop, ...] = ()
    corruptions: Mapping[str, Corruption] = field(default_factory=dict)
    range: tuple[float, float] | None = None

    @property
    def sides(self) -> tuple[int, ...]:
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)

    @property
    def dimensions(self) -> int:
        return len(self.sides)

    @property
    def least(self) -> tuple[int, ...] | None:
        """The sides [n] that an image must have, in pixels; None: any."""
        extents = [crop.extent for crop in self.fixed if crop.extent is not None]
        return tuple(map(max, zip(*extents, strict=True))) if extents else None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fixed and len(self.fixed) != self.count:
            raise ArgumentError("fixed", UNSHOWN, f"{self.count} crops, one for each view, not {len(self.fixed)}")
        for number, crop in enumerate(self.fixed):
            if {len(crop.position), len(crop.extent or crop.position)} != {self.dimensions}:
                raise ArgumentError(f"fixed[{number}]", crop, f"a crop of {self.dimensions} axes, as the views have")
        with inside("corruptions"):
            check(self.corruptions, self.sides)


@dataclass(frozen=True)
class PlaneViewSettings(Views):
    """The settings that only images have: crops of a share of the area, and what may be done to these.

    Attributes:
        scale: the crop's area as a fraction of the image's.
        ratio: the crop's width over its height.
        sized: crops of the image's own aspect, in the place of ``scale`` and ``ratio``.
        rotation: largest angle, in degrees, by which a view is rotated either way.
        warp: a mask is warped with its image.
        grey: of images in colour: with which probability a view becomes grey (torchvision's RandomGrayscale).
        border: distance of patches from the view's edges; negative: they may reach beyond by as much.
    """

    scale: Annotated[tuple[float, float], Ascending(Above(0, 1))] = (0.2, 1.0)
    ratio: Annotated[tuple[float, float], Ascending(Above(0))] = (3 / 4, 4 / 3)
    sized: parts.SizedCrop | None = None
    rotation: Annotated[float, Within(0, 180)] = 0.0
    grey: Chance = 0.0
    blur: parts.Blur = field(default_factory=parts.Blur)
    cutout: parts.Cutout = field(default_factory=parts.Cutout)
    inverse_cutout: parts.InverseCutout = field(default_factory=parts.InverseCutout)
    shuffle: parts.Shuffle = field(default_factory=parts.Shuffle)
    border: int = 3
    tone: parts.Tone = field(default_factory=parts.Tone)
    warp: parts.Warp = field(default_factory=parts.Warp)

    @property
    def coloured(self) -> bool:
        return max(self.jitter.saturation, self.jitter.hue, self.grey) > 0

    @property
    def blur_scale(self) -> float:
        """Pixels of a view for one of ``blur.sigma``."""
        return self.sides[-1] / REFERENCE_SIZE


@dataclass(frozen=True)
class VolumeViewSettings(Views):
    """The settings that only volumes have: crops of a size in voxels.

    Attributes:
        extents: the sizes in voxels, one of which each crop has; none: the view's size.
        iou: the intersection over union that the boxes of two views have more than; None: any.
        same_size: with ``iou``: whether both crops have one of ``extents``, or each its own.
        foreground: of the crops, the share that is drawn around a voxel of a class of the volume's mask; a volume
            without one has them anywhere.
        crop_border: for each axis how many voxels crops stay away from the volume's edges, as far as they can; empty:
            none.
        turns, transpose: probabilities of a turn by 90, 180 or 270 degrees in the plane of height and width, and that
            these change places. The restoration target is as the view.
        spacing: the millimetres of a voxel on each axis, or on all, in which sizes of crops are counted; None: stored
            voxels, whatever their size.
        pad: whether volumes smaller than a crop are padded with what becomes 0, and masks with ``labels.IGNORE``; else
            they are refused.
    """

    extents: tuple[tuple[Voxels, Voxels, Voxels], ...] = ()
    iou: Annotated[float, BELOW_ONE] | None = None
    same_size: bool = False
    foreground: Chance = 0.0
    crop_border: Annotated[tuple[Annotated[int, AtLeast(0)], ...], AXES_OR_NONE] = ()
    turns: Chance = 0.0
    transpose: Chance = 0.0
    spacing: Annotated[float, Above(0)] | Annotated[tuple[Annotated[float, Above(0)], ...], AXES] | None = None
    pad: bool = False

    def step(self, spacing: np.ndarray | None) -> np.ndarray | None:
        """Return the stored voxels to each voxel of a crop's size, for volumes of ``spacing`` [b, n] in mm; None: 1."""
        return None if self.spacing is None or spacing is None else np.array(self.spacing) / spacing
