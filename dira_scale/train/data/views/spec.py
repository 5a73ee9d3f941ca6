"""The views that a method asks for: of one size, or a list of crops. The defaults are DiRA's of images."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Self

from dira_scale.base.arguments import UNSHOWN, ArgumentError, check_fields, inside
from dira_scale.base.errors import nearest
from dira_scale.train.data.geometry.fixed import FixedCrop
from dira_scale.train.data.views.augmentations import PlaneViews, VolumeViews
from dira_scale.train.data.views.parts import VIEWS_VERSION, Blur, Cutout, InverseCutout, Jitter, Shuffle, SizedCrop
from dira_scale.train.data.views.settings import PlaneViewSettings, Views, VolumeViewSettings

MOST = 256  # views of a sample: a random number's counter has 8 bits for them
# What may differ from one kind of crops to another; the rest is of the sample, or of what is restored.
OWN = (
    "size", "count", "scale", "ratio", "sized", "extents", "foreground", "crop_border", "flip", "turns", "transpose",
    "rotation", "channel_dropout", "grey", "jitter", "blur", "tone", "warp", "cutout", "inverse_cutout", "shuffle",
    "border", "corruptions",
)  # fmt: skip
# What a kind of crops that repeats others (``same_as``) may have of its own.
REPEATING = ("same_as", "count", "size", "jitter", "blur", "corruptions")


@dataclass(frozen=True)
class ViewSpec(PlaneViewSettings, VolumeViewSettings):
    """The views that a method needs: of one size, or of several kinds of ``crops``.

    With several kinds, ``count`` is the number of all views, ``size`` that of the first kind, and all else what a kind
    has that does not say it for itself.

    Attributes:
        crops: for each kind a mapping of its ``count``, its ``size`` and others of ``OWN``; of a part, such as
            ``blur``, the keys that differ. Views are numbered through all kinds. One kind is the same as its settings
            without ``crops``. A kind with ``same_as``, the number of an earlier view, shows the crops of this view and
            those after it again, in another size, mirrored and distorted alike: all else is theirs, but for
            ``REPEATING``, and so are their random numbers.
        drawn_as: for each view, the number of that whose random numbers it has.
        entries: the views of one size each that these are made of: of images or of volumes, as ``size`` says.

    Raises ArgumentError for settings out of range, that exclude each other, or that images, or volumes, do not have.
    """

    crops: tuple[Mapping[str, Any], ...] = ()
    drawn_as: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)
    entries: tuple[PlaneViews | VolumeViews, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        vars(self)["drawn_as"] = tuple(range(self.count))
        if not self.crops:
            vars(self)["entries"] = (_entry(self),)
            return
        if self.fixed:
            raise ArgumentError("crops", UNSHOWN, f"none beside {len(self.fixed)} fixed crops")
        if len(self.crops) > 1 and self.iou is not None:
            kinds = f"none: it is of two crops of one kind, and crops has {len(self.crops)}"
            raise ArgumentError("iou", self.iou, kinds)
        specs: list[ViewSpec] = []
        drawn_as: list[int] = []
        for number, kind in enumerate(self.crops):
            first = kind.get("same_as", len(drawn_as))
            specs.append(_of_kind(self, kind, f"crops[{number}]", [spec for spec in specs for _ in range(spec.count)]))
            drawn_as += range(first, first + specs[-1].count)
        if specs[0].sides != self.sides:
            size, wanted = ([*sides] if len(sides) > 2 else sides[0] for sides in (specs[0].sides, self.sides))
            expected = f"{wanted}, the size of the views: the network is made for the first crops"
            raise ArgumentError("crops[0].size", size, f"{expected}; or views of a size of {size}")
        if (count := sum(spec.count for spec in specs)) > MOST:
            raise ArgumentError("crops", UNSHOWN, f"at most {MOST} views of a sample, not {count}")
        if len(specs) == 1:
            vars(self).update(vars(specs[0]))
            return
        crops = tuple({**kind, "count": spec.count} for kind, spec in zip(self.crops, specs, strict=True))
        of_kinds = [spec.entries[0] for spec in specs]
        entries = tuple(
            replace(entry, first_side=entry.sides[-1] if "same_as" in kind else self.sides[-1])
            if isinstance(entry, PlaneViews)
            else entry
            for entry, kind in zip(of_kinds, crops, strict=True)
        )
        vars(self).update(entries=entries, crops=crops, count=count, drawn_as=tuple(drawn_as))

    @property
    def each(self) -> tuple[PlaneViews | VolumeViews, ...]:
        """For each view the one of ``entries`` that it is of."""
        return tuple(entry for entry in self.entries for _ in range(entry.count))

    def resized(self, size: int) -> Self:
        """Return the same views with the first ones of ``size``, and kinds of another size in proportion, rounded to
        whole patches of a mask, or to a multiple of what all sizes are multiples of: with patches of 14 pixels 98 of
        224 become 140 of 336.

        Raises ArgumentError of volumes, and where the views are not possible in that size.
        """
        if not isinstance(self.size, int):
            raise ArgumentError("size", size, "null: it is of images")
        masks = (getattr(each, "patch", None) for entry in self.entries for each in entry.corruptions.values())
        step = next(filter(None, masks), math.gcd(*(side for entry in self.entries for side in entry.sides)))
        crops = tuple(
            {**kind, "size": max(1, round(kind["size"] * size / self.size / step)) * step} if "size" in kind else kind
            for kind in self.crops
        )
        try:
            return replace(self, size=size, crops=crops)
        except ArgumentError as error:
            raise ArgumentError("size", size, f"one that these views can have: {error}") from error

    @property
    def repeating(self) -> int:
        """Return how many of the views repeat others, in another size."""
        return sum(number != view for view, number in enumerate(self.drawn_as))

    @property
    def stored(self) -> dict[str, Any]:
        """The settings for reading stored images, which apply to every kind of view."""
        return {"spacing": self.spacing, "range": self.range, "pad": self.pad}

    @property
    def version(self) -> int:
        """``VIEWS_VERSION``; 3 if crops of other sizes than the first are blurred, by pixels of their own before, or a
        higher one of a corruption."""
        images = [entry for entry in self.entries if isinstance(entry, PlaneViews)]
        blurred = any(entry.blur.p > 0 and entry.sides != self.sides for entry in images)
        others = (getattr(each, "version", 0) for entry in self.entries for each in entry.corruptions.values())
        return max(3 if blurred else VIEWS_VERSION, *others, 0)

    @property
    def content(self) -> list[str]:
        """Return hashes of what corruptions read from files (``ShuffleBlocks.content``)."""
        each = (part for entry in self.entries for part in entry.corruptions.values() if hasattr(part, "content"))
        return [content for part in each if (content := part.content(self.dimensions))]

    @property
    def around_foreground(self) -> bool:
        """Return whether some crops are drawn around the foreground."""
        return any(isinstance(entry, VolumeViews) and entry.foreground > 0 for entry in self.entries)

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


def _entry(views: ViewSpec) -> PlaneViews | VolumeViews:
    """Return the views of one size that ``views`` without crops say. What their type does not have must be off."""
    kind: type[PlaneViews] | type[VolumeViews]
    settings: type[Views]
    others: type[Views]
    if isinstance(views.size, int):
        kind, settings, others, owners = PlaneViews, PlaneViewSettings, VolumeViewSettings, "volumes"
    else:
        kind, settings, others, owners = VolumeViews, VolumeViewSettings, PlaneViewSettings, "images"
    own = {each.name: getattr(views, each.name) for each in fields(settings)}
    foreign = [each for each in fields(others) if each.name not in own]
    chances = {f"{each.name}.p": getattr(views, each.name).p for each in foreign if each.default is MISSING}
    if kind is VolumeViews:
        chances |= {f"jitter.{name}": getattr(views.jitter, name) for name in ("saturation", "hue")}
    if on := {name: p for name, p in chances.items() if p}:
        first, *rest = on
        also = f", nor {', '.join(rest)}" if rest else ""
        raise ArgumentError(first, on[first], f"0: views of volumes do not have it{also}")
    for each in foreign:
        value = getattr(views, each.name)
        if each.default is not MISSING and (tuple(value) if isinstance(value, list) else value) != each.default:
            raise ArgumentError(each.name, value, f"to be left out: only views of {owners} have it")
    return kind(**own)


def _of_kind(views: ViewSpec, kind: Mapping[str, Any], name: str, before: Sequence[ViewSpec]) -> ViewSpec:
    """Return the views of one size that an entry of ``views.crops`` says; ``before``: those of each earlier view."""
    own: dict[str, Any] = {"count": 1, "corruptions": {}} | dict(kind) if "same_as" in kind else dict(kind)
    try:
        if "same_as" in kind:
            _require_known(kind, REPEATING)
            first, count = own.pop("same_as"), own["count"]
            same = before[first : first + count] if isinstance(first, int) and isinstance(count, int) else []
            if views.dimensions != 2 or not same or len(same) < count or any(spec is not same[0] for spec in same):
                expected = "the number of the first of so many earlier views of one kind, of images"
                raise ArgumentError("same_as", first, expected)
            views = same[0]
        _require_known(own, OWN)
        return replace(views, crops=(), **{key: _value(key, getattr(views, key), own[key]) for key in own})
    except ArgumentError as error:  # of this kind's own settings, or of those that all have
        raise error.inside(name) if re.split(r"\W", error.name)[0] in kind else error from error


def _value(name: str, common: Any, value: Any) -> Any:
    """``value``; where it is a mapping of some keys of a part, such as ``blur``, that part of ``common`` with these."""
    part = SizedCrop() if name == "sized" and common is None else common
    if not (is_dataclass(part) and isinstance(value, Mapping)):
        return value
    with inside(name):
        _require_known(value, [field.name for field in fields(part)])
        return replace(part, **value)  # type: ignore[type-var]


def _require_known(keys: Iterable[str], known: Iterable[str]) -> None:
    for name in keys:
        if name not in known:
            raise ArgumentError(str(name), UNSHOWN, f"only {', '.join(known)}{nearest(str(name), known)}")
