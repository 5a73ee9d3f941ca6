"""The views that a method asks for.

The defaults are DiRA's 2D pipeline: two independent views; random resized crop, brightness and contrast, blur, flip,
then at most one of cutout, inverse cutout and patch shuffling. Sizes of patches and blur are in pixels of a 224-pixel
view and scale with the view. PCRL also rotates views, and asks for orientations of their restoration targets. Views of
volumes have crops of given sizes, flips along each axis, brightness and contrast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dira_scale.data.geometry.crop import CropRule
from dira_scale.data.geometry.fixed import FixedCrop
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
        crops: of volumes: the sizes in voxels, one of which each crop has; none: the view's size.
        flip: probability of mirroring: images left and right, volumes along each axis.
        target_flip: whether the restoration target is mirrored and rotated: ``with_input``, or never (``released``).
        blur, cutout, inverse_cutout, shuffle, tone, warp: of images. A mask is warped with its image.
        border: distance of patches from the view's edges; negative: they may reach beyond by as much.
        rotation: of images: largest angle, in degrees, by which a view is rotated either way.
        orientations: of images: how many random orientations of the restoration target are drawn for each view.
        pair: what the views of a sample share: the ``image``, or the ``patient``: views after the first show another
            image of the same patient where there is one (MoCo with positives from a patient's images; Vu et al.,
            "MedAug", MLHC 2021, section 3).
        fixed: the crop of each view, the same for every image, in the place of drawn ones (``fixed_views``).
        corruptions: by name, of views that are to be restored: applied in this order, after all others.

    Raises UserError for invalid probabilities or ranges, and for what volumes do not have.
    """

    count: int = 2
    size: int | tuple[int, ...] = REFERENCE_SIZE
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
    crops: tuple[tuple[int, ...], ...] = ()
    fixed: tuple[FixedCrop, ...] = ()
    sized: SizedCrop | None = None
    tone: Tone = field(default_factory=Tone)
    warp: Warp = field(default_factory=Warp)
    corruptions: Mapping[str, Corruption] = field(default_factory=dict)

    def __post_init__(self) -> None:
        branches = (self.cutout.p, self.inverse_cutout.p, self.shuffle.p)
        others = (self.jitter.p, self.blur.p, self.tone.p, self.warp.p, self.sized.p if self.sized else 0)
        if not all(0 <= p <= 1 for p in (self.flip, *others, *branches, sum(branches))):
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
        self._check_fixed()
        if isinstance(self.size, int):
            self._check_plane()
        else:
            self._check_volume(self.size)
        check(self.corruptions, self.sides)

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
        if not 0 <= self.rotation <= 180 or self.orientations < 0:
            raise UserError(f"need 0 <= rotation <= 180 degrees and at least 0 orientations: {self}")
        if self.sized and not 0 < self.sized.side[0] <= self.sized.side[1] <= REFERENCE_SIZE:
            raise UserError(f"need 0 < sized.side[0] <= sized.side[1] <= {REFERENCE_SIZE}: {self.sized}")
        if not (0 < self.tone.gamma[0] <= self.tone.gamma[1] and 0 <= self.tone.contrast <= 1):
            raise UserError(f"need 0 < tone.gamma[0] <= tone.gamma[1] and 0 <= tone.contrast <= 1: {self.tone}")
        if not (self.warp.sigma > 0 and 0 <= self.warp.grid < 1):
            raise UserError(f"need warp.sigma > 0 and 0 <= warp.grid < 1: {self.warp}")
        if self.crops:
            raise UserError(f"crops={self.crops} are of volumes: views of images have scale and ratio")
        largest = max(self.cutout.side[1], self.shuffle.side[1], REFERENCE_SIZE - self.inverse_cutout.margin[0])
        if self.pixels(largest) + 2 * self.pixels(self.border) > self.sides[0]:
            raise UserError(
                f"a patch of {largest} of {REFERENCE_SIZE} pixels leaves no border of {self.border}: {self}"
            )

    def _check_volume(self, size: tuple[int, ...]) -> None:
        if len(size) != 3 or not all(len(crop) == 3 and min(crop) > 0 for crop in self.crops):
            raise UserError(f"views of volumes need size=[depth, height, width], and crops of such sizes: got size="
                            f"{list(size)} and crops={[list(crop) for crop in self.crops]}")  # fmt: skip
        names = ("blur", "cutout", "inverse_cutout", "shuffle", "tone", "warp")
        parts = {f"{name}.p": getattr(self, name).p for name in names}
        parts |= {"rotation": self.rotation, "orientations": self.orientations}
        if given := [f"{name}={value:g}" for name, value in parts.items() if value]:
            raise UserError(f"views of volumes do not have {', '.join(given)}: set each to 0")
        if (tuple(self.scale), tuple(self.ratio)) != (ViewSpec.scale, ViewSpec.ratio):
            raise UserError("views of volumes do not have scale and ratio, but crops: leave both at their defaults")
        if self.sized:
            raise UserError("views of volumes do not have sized, but crops: use sized=null")

    @property
    def sides(self) -> tuple[int, ...]:
        """Of a view, an entry for each axis."""
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)

    @property
    def dimensions(self) -> int:
        return len(self.sides)

    @property
    def crop(self) -> CropRule:
        """How crops and flips are drawn, unless they are ``fixed``."""
        if self.sized:
            low, high = (side / REFERENCE_SIZE for side in self.sized.side)
            return SizedPlaneCrop((low, high), self.sized.p, self.flip)
        if isinstance(self.size, int):
            return PlaneCrop(self.scale, self.ratio, self.flip)
        return VolumeCrop(self.crops or (self.size,), self.flip)

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


def fixed_views(size: int | tuple[int, ...], crops: tuple[FixedCrop, ...]) -> ViewSpec:
    """Views for evaluation: these crops of every image, resized to ``size``, and nothing drawn.

    ``geometry.fixed`` has the usual ones: ``centre(2)`` is the whole image, ``ten_crops(2, 224 / 256)`` are those of
    an image resized to 256 pixels, ``centre(3, extent=(64, 64, 32))`` is the middle of a volume, in voxels.
    """
    return ViewSpec(
        count=len(crops), size=size, fixed=crops, flip=0.0, jitter=Jitter(p=0), blur=Blur(p=0), cutout=Cutout(p=0),
        inverse_cutout=InverseCutout(p=0), shuffle=Shuffle(p=0),
    )  # fmt: skip
