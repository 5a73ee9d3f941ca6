"""Settings that views of one size do not have together."""

from dira_scale.arguments import UNSHOWN, ArgumentError, inside
from dira_scale.data.geometry.pair import PairCrop
from dira_scale.data.views.corruption import check as check_corruptions
from dira_scale.data.views.parts import REFERENCE_SIZE
from dira_scale.data.views.uniform import UniformViews

OF_IMAGES = ("rotation", "grey", "scale", "ratio", "sized")
OF_VOLUMES = ("extents", "iou", "same_size", "crop_border", "turns", "transpose", "spacing", "pad")
PARTS = ("blur", "cutout", "inverse_cutout", "shuffle", "tone", "warp")  # of images


def check(views: UniformViews) -> None:
    """Raise ArgumentError for settings that exclude each other, or that images, or volumes, do not have."""
    patches = views.cutout.p + views.inverse_cutout.p + views.shuffle.p
    if patches > 1:
        expected = f"cutout.p, inverse_cutout.p and shuffle.p to add up to at most 1, not {patches:g}"
        raise ArgumentError("cutout.p", views.cutout.p, expected)
    if views.fixed and len(views.fixed) != views.count:
        raise ArgumentError("fixed", UNSHOWN, f"{views.count} crops, one for each view, not {len(views.fixed)}")
    for number, crop in enumerate(views.fixed):
        if {len(crop.position), len(crop.extent or crop.position)} != {views.dimensions}:
            raise ArgumentError(f"fixed[{number}]", crop, f"a crop of {views.dimensions} axes, as the views have")
    if views.dimensions == 2:
        _check_image(views)
    else:
        _check_volume(views)
    with inside("corruptions"):
        check_corruptions(views.corruptions, views.sides)


def _check_image(views: UniformViews) -> None:
    _check_left_out(views, OF_VOLUMES, "volumes")
    if not isinstance(views.flip, float | int):
        raise ArgumentError("flip", views.flip, "one number: images are mirrored left and right alone")
    if views.border < 0 and views.shuffle.p > 0:
        expected = "at least 0, or shuffle.p to be 0: patches that reach beyond the edges cannot be swapped"
        raise ArgumentError("border", views.border, expected)
    cut, kept, swapped = views.cutout.side, views.inverse_cutout.margin, views.shuffle.side
    largest = {"cutout.side": cut[1], "inverse_cutout.margin": REFERENCE_SIZE - kept[0], "shuffle.side": swapped[1]}
    name = max(largest, key=largest.__getitem__)
    if views.pixels(largest[name]) + 2 * views.pixels(views.border) > views.sides[0]:
        expected = f"patches that leave a border of {views.border}: one has {largest[name]} of {REFERENCE_SIZE} pixels"
        raise ArgumentError(name, UNSHOWN, expected)


def _check_volume(views: UniformViews) -> None:
    given = {f"{name}.p": getattr(views, name).p for name in PARTS}
    given |= {f"jitter.{name}": getattr(views.jitter, name) for name in ("saturation", "hue")}
    if given := {name: value for name, value in given.items() if value}:
        first, *others = given
        also = f", nor {', '.join(others)}" if others else ""
        raise ArgumentError(first, given[first], f"0: views of volumes do not have it{also}")
    _check_left_out(views, OF_IMAGES, "images")
    _check_pairs(views)
    _check_turns(views)


def _check_left_out(views: UniformViews, names: tuple[str, ...], owners: str) -> None:
    for name in names:
        value, default = getattr(views, name), getattr(UniformViews, name)
        if (tuple(value) if isinstance(value, list) else value) != default:
            raise ArgumentError(name, value, f"to be left out: only views of {owners} have it")


def _check_pairs(views: UniformViews) -> None:
    if views.iou is None:
        if views.same_size:
            raise ArgumentError("same_size", True, "a bound of the pairs' overlap beside it, such as an iou of 0.2")
        return
    if views.count != 2 or views.pair != "image" or views.fixed:
        given = f"{views.count}{' fixed' if views.fixed else ''} of one {views.pair}"
        raise ArgumentError("iou", views.iou, f"2 views, drawn of one volume, not {given}")
    pairs = PairCrop(views.volume_crop, views.iou, views.same_size)
    if (best := pairs.best()) <= views.iou:
        sizes = ", ".join(" x ".join(map(str, crop)) for crop in pairs.crop.sizes)
        expected = f"less than {best:.3g}, the most that two crops of {sizes} have where one of them is turned"
        raise ArgumentError("iou", views.iou, f"{expected}; or sizes as high as wide, or turns and transpose of 0")


def _check_turns(views: UniformViews) -> None:
    if views.orientations and views.sides[-1] != views.sides[-2]:
        expected = f"0, or a size of [depth, side, side], for quarter turns, not {list(views.sides)}"
        raise ArgumentError("orientations", views.orientations, expected)
    if not (views.turns or views.transpose):
        return
    if views.target_flip != "with_input":
        raise ArgumentError("target_flip", views.target_flip, "with_input, of views with turns or transpose")
    if isinstance(views.spacing, tuple | list) and views.spacing[-1] != views.spacing[-2]:
        raise ArgumentError("spacing", views.spacing, "one spacing in the plane, of views with turns or transpose")
