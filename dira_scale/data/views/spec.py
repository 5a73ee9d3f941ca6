"""The views that a method asks for.

The defaults are DiRA's 2D pipeline: two independent views; random resized crop, brightness and contrast, blur, flip,
then at most one of cutout, inverse cutout and patch shuffling. Sizes of patches and blur are in pixels of a 224-pixel
view and scale with the view, blur of local crops with the first crops. PCRL also rotates views, and asks for
orientations of their restoration targets. Views of volumes have crops of given sizes, flips along each axis, brightness
and contrast.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from dira_scale.arguments import UNSHOWN, ArgumentError, check_fields, inside
from dira_scale.data.geometry.fixed import FixedCrop
from dira_scale.data.views.checks import check
from dira_scale.data.views.parts import (
    REFERENCE_SIZE,
    VIEWS_VERSION,
    Blur,
    Cutout,
    InverseCutout,
    Jitter,
    Shuffle,
    SizedCrop,
)
from dira_scale.data.views.uniform import UniformViews
from dira_scale.errors import nearest

MOST = 256  # views of a sample: a random number's counter has 8 bits for them
# What may differ from one kind of crops to another; the rest is of the sample, or of what is restored.
OWN = (
    "size", "count", "scale", "ratio", "sized", "extents", "crop_border", "flip", "turns", "transpose", "rotation",
    "channel_dropout", "grey", "jitter", "blur", "tone", "warp", "cutout", "inverse_cutout", "shuffle", "border",
    "corruptions",
)  # fmt: skip


@dataclass(frozen=True)
class ViewSpec(UniformViews):
    """The views that a method needs: of one size, or of several kinds of ``crops``.

    With several kinds, ``count`` is the number of all views, ``size`` that of the first kind, and all else what a kind
    has that does not say it for itself. What is of a view alone, such as ``crop`` and ``pixels``, is asked of ``each``.

    Attributes:
        crops: for each kind a mapping of its ``count``, its ``size`` and others of ``OWN``; of a part, such as
            ``blur``, the keys that differ. Views are numbered through all kinds. One kind is the same as its settings
            without ``crops``.

    Raises ArgumentError for settings out of range, that exclude each other, or that images, or volumes, do not have.
    """

    crops: tuple[Mapping[str, Any], ...] = ()
    _side: int = field(default=0, init=False, repr=False, compare=False)  # of the first of several ``crops``
    _entries: tuple["ViewSpec", ...] = field(default=(), init=False, repr=False, compare=False)  # of several ``crops``

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.crops:
            check(self)
            return
        first, *others = entries = _specs(self)
        if not others:  # one kind of crops is the same as these settings without ``crops``
            vars(self).update(vars(first))
            return
        for entry in entries:
            vars(entry)["_side"] = self.sides[-1]
        counted = tuple({**given, "count": entry.count} for given, entry in zip(self.crops, entries, strict=True))
        vars(self).update(_entries=entries, crops=counted, count=sum(entry.count for entry in entries))

    @property
    def entries(self) -> tuple["ViewSpec", ...]:
        """The specs of one size each that these views are made of: of each of ``crops``, or this one itself."""
        return self._entries or (self,)

    @property
    def each(self) -> tuple["ViewSpec", ...]:
        """For each view the one of ``entries`` that it is of."""
        return tuple(entry for entry in self.entries for _ in range(entry.count))

    @property
    def blur_scale(self) -> float:
        """Pixels of this view for one of ``blur.sigma``: as many as of the first crops, as in DINO's code."""
        return (self._side or self.sides[-1]) / REFERENCE_SIZE

    @property
    def version(self) -> int:
        """``VIEWS_VERSION``; 3 if crops of other sizes than the first are blurred, by pixels of their own before, or a
        higher one of a corruption."""
        blurred = any(entry.blur.p > 0 and entry.sides != self.sides for entry in self.entries)
        others = (getattr(each, "version", 0) for entry in self.entries for each in entry.corruptions.values())
        return max(3 if blurred else VIEWS_VERSION, *others, 0)

    @property
    def one_size(self) -> bool:
        return len({entry.sides for entry in self.entries}) == 1


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


def _specs(views: "ViewSpec") -> tuple["ViewSpec", ...]:
    """Return, for each of ``views.crops``, the views of one size that it says."""
    if views.fixed:
        raise ArgumentError("crops", UNSHOWN, f"none beside {len(views.fixed)} fixed crops")
    if len(views.crops) > 1 and views.iou is not None:
        raise ArgumentError("iou", views.iou, f"none: it is of two crops of one kind, and crops has {len(views.crops)}")
    made = tuple(_spec(views, entry, f"crops[{number}]") for number, entry in enumerate(views.crops))
    if made[0].sides != views.sides:
        size, wanted = ([*sides] if len(sides) > 2 else sides[0] for sides in (made[0].sides, views.sides))
        expected = f"{wanted}, the size of the views: the network is made for the first crops"
        raise ArgumentError("crops[0].size", size, f"{expected}; or views of a size of {size}")
    if (count := sum(spec.count for spec in made)) > MOST:
        raise ArgumentError("crops", UNSHOWN, f"at most {MOST} views of a sample, not {count}")
    return made


def _spec(views: "ViewSpec", entry: Mapping[str, Any], name: str) -> "ViewSpec":
    try:
        _require_known(entry, OWN)
        return replace(views, crops=(), **{key: _value(key, getattr(views, key), entry[key]) for key in entry})
    except ArgumentError as error:  # of this kind's own settings, or of those that all have
        own = re.split(r"\W", error.name)[0] in entry
        raise error.inside(name) if own else error from error


def _value(name: str, common: Any, given: Any) -> Any:
    """``given``; where it is a mapping of some keys of a part, such as ``blur``, that part of ``common`` with these."""
    part = SizedCrop() if name == "sized" and common is None else common
    if not (is_dataclass(part) and isinstance(given, Mapping)):
        return given
    with inside(name):
        _require_known(given, [field.name for field in fields(part)])
        return replace(part, **given)  # type: ignore[type-var]


def _require_known(given: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise ArgumentError(str(name), UNSHOWN, f"only {', '.join(known)}{nearest(str(name), known)}")
