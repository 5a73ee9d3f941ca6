"""Whether views of one size make sense."""

from dira_scale.data.geometry.pair import PairCrop
from dira_scale.data.views.corruption import check as check_corruptions
from dira_scale.data.views.parts import REFERENCE_SIZE
from dira_scale.data.views.uniform import UniformViews
from dira_scale.errors import UserError, nearest

TARGET_FLIPS = ("with_input", "released")
PAIRS = ("image", "session", "patient")


def check(views: UniformViews) -> None:
    """Raise UserError for views of one size with invalid probabilities or ranges, or with what volumes do not have."""
    _check_flip(views)
    patches = {f"{name}.p": getattr(views, name).p for name in ("cutout", "inverse_cutout", "shuffle")}
    chances = patches | {f"{name}.p": getattr(views, name).p for name in ("jitter", "blur", "tone", "warp")}
    chances |= {name: getattr(views, name) for name in ("turns", "transpose", "channel_dropout", "grey")}
    chances |= {"sized.p": views.sized.p} if views.sized else {}
    for name, p in [*chances.items(), *(("flip", p) for p in views.flips)]:
        if not 0 <= p <= 1:
            raise UserError(f"{name}={p:g}: a probability is from 0 to 1")
    if sum(patches.values()) > 1:
        raise UserError(f"{' + '.join(patches)} = {sum(patches.values()):g}: these probabilities add up to 1 at most")
    if not (0 <= views.jitter.saturation <= 1 and 0 <= views.jitter.hue <= 0.5):
        raise UserError(f"need 0 <= jitter.saturation <= 1 and 0 <= jitter.hue <= 0.5: {views.jitter}")
    if not (0 < views.scale[0] <= views.scale[1] <= 1 and 0 < views.ratio[0] <= views.ratio[1]):
        given = f"scale={[*views.scale]}, ratio={[*views.ratio]}"
        raise UserError(f"{given}: need 0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]")
    if views.target_flip not in TARGET_FLIPS:
        known = f"{', '.join(TARGET_FLIPS)}{nearest(views.target_flip, TARGET_FLIPS)}"
        raise UserError(f"target_flip={views.target_flip}: expected {known}")
    if views.pair not in PAIRS:
        raise UserError(f"pair={views.pair}: expected {', '.join(PAIRS)}{nearest(views.pair, PAIRS)}")
    if views.count < 1 or min(views.sides) < 8:
        shown = views.size if isinstance(views.size, int) else " x ".join(map(str, views.size))
        raise UserError(f"need at least one view of at least 8 pixels, got {views.count} of {shown}")
    if views.orientations < 0:
        raise UserError(f"orientations={views.orientations}: need at least 0")
    _check_fixed(views)
    if isinstance(views.size, int):
        _check_plane(views)
    else:
        _check_volume(views, views.size)
    check_corruptions(views.corruptions, views.sides)


def _check_flip(views: UniformViews) -> None:
    if isinstance(views.flip, float | int):
        return
    if views.dimensions == 2:
        raise UserError(f"flip={[*views.flip]}: images are mirrored left and right alone: give one number")
    if len(views.flip) != 3:
        raise UserError(f"flip={[*views.flip]}: give one number, or three, for [depth, height, width]")


def _check_fixed(views: UniformViews) -> None:
    if views.fixed and len(views.fixed) != views.count:
        raise UserError(f"fixed: {len(views.fixed)} crops for {views.count} views; give one for each")
    for crop in views.fixed:
        if {len(crop.position), len(crop.extent or crop.position)} != {views.dimensions}:
            raise UserError(f"fixed: {crop} does not have the {views.dimensions} axes of size={views.size}")
        if not (0 < crop.share <= 1 and all(0 <= p <= 1 for p in crop.position) and min(crop.extent or (1,)) > 0):
            raise UserError(f"fixed: need positions from 0 to 1, 0 < share <= 1 and extents above 0: {crop}")


def _check_plane(views: UniformViews) -> None:
    if views.border < 0 and views.shuffle.p > 0:
        raise UserError(
            f"patches that reach beyond the edges cannot be swapped: need border >= 0 or shuffle.p=0, "
            f"got border={views.border} and shuffle.p={views.shuffle.p}"
        )
    if not 0 <= views.rotation <= 180:
        raise UserError(f"rotation={views.rotation}: need 0 <= rotation <= 180 degrees")
    if views.sized and not 0 < views.sized.side[0] <= views.sized.side[1] <= REFERENCE_SIZE:
        raise UserError(f"need 0 < sized.side[0] <= sized.side[1] <= {REFERENCE_SIZE}: {views.sized}")
    if not (0 < views.tone.gamma[0] <= views.tone.gamma[1] and 0 <= views.tone.contrast <= 1):
        raise UserError(f"need 0 < tone.gamma[0] <= tone.gamma[1] and 0 <= tone.contrast <= 1: {views.tone}")
    if not (views.warp.sigma > 0 and 0 <= views.warp.grid < 1):
        raise UserError(f"need warp.sigma > 0 and 0 <= warp.grid < 1: {views.warp}")
    if views.extents:
        raise UserError(f"extents={views.extents} are of volumes: views of images have scale and ratio")
    names = {name: f"views.{name}" for name in ("iou", "same_size", "crop_border", "turns", "transpose")}
    names |= {name: f"data.{name}" for name in ("spacing", "pad")}
    given = [shown for name, shown in names.items() if getattr(views, name)]
    if given := given or ["views.iou"] * (views.iou is not None):
        raise UserError(f"views of images do not have {', '.join(given)}, only those of volumes: leave it out")
    largest = max(views.cutout.side[1], views.shuffle.side[1], REFERENCE_SIZE - views.inverse_cutout.margin[0])
    if views.pixels(largest) + 2 * views.pixels(views.border) > views.sides[0]:
        raise UserError(f"a patch of {largest} of {REFERENCE_SIZE} pixels leaves no border of {views.border}")


def _check_volume(views: UniformViews, size: tuple[int, ...]) -> None:
    if not all(isinstance(extent, list | tuple) for extent in views.extents):
        raise UserError(f"views.extents={[*views.extents]}: give a list of sizes, [{[*views.extents]}]")
    if len(size) != 3 or not all(len(extent) == 3 and min(extent) > 0 for extent in views.extents):
        raise UserError(f"views of volumes need size=[depth, height, width], and extents of such sizes: got size="
                        f"{list(size)} and extents={[list(extent) for extent in views.extents]}")  # fmt: skip
    names = ("blur", "cutout", "inverse_cutout", "shuffle", "tone", "warp")
    parts = {f"{name}.p": getattr(views, name).p for name in names}
    parts |= {"rotation": views.rotation, "grey": views.grey}
    parts |= {f"jitter.{name}": getattr(views.jitter, name) for name in ("saturation", "hue")}
    if given := [f"{name}={value:g}" for name, value in parts.items() if value]:
        raise UserError(f"views of volumes do not have {', '.join(given)}: set each to 0")
    if (tuple(views.scale), tuple(views.ratio)) != (type(views).scale, type(views).ratio):
        raise UserError("views of volumes do not have scale and ratio, but extents: leave both at their defaults")
    if views.sized:
        raise UserError("views of volumes do not have sized, but extents: use sized=null")
    if views.crop_border and (len(views.crop_border) != 3 or min(views.crop_border) < 0):
        raise UserError(f"crop_border={list(views.crop_border)}: give [depth, height, width] in voxels")
    _check_pairs(views)
    _check_turns(views, size)


def _check_pairs(views: UniformViews) -> None:
    if views.iou is None:
        if views.same_size:
            raise UserError("same_size=true is of pairs: add iou=0.2, or another bound of their overlap")
        return
    if views.count != 2 or views.pair != "image" or views.fixed:
        raise UserError(f"iou={views.iou:g} is of two views of one volume: got count={views.count}, pair={views.pair}")
    if not 0 <= views.iou < 1:
        raise UserError(f"iou={views.iou:g}: pairs overlap by more than this; give a number from 0 to below 1")
    pairs = PairCrop(views.volume_crop, views.iou, views.same_size)
    if (best := pairs.best()) <= views.iou:
        sizes = ", ".join(" x ".join(map(str, crop)) for crop in pairs.crop.sizes)
        raise UserError(
            f"iou={views.iou:g}: no two crops of {sizes} have more where one of them is turned, at most {best:.3g}: "
            "use a smaller iou, sizes that are as high as wide, or turns=0 and transpose=0"
        )


def _check_turns(views: UniformViews, size: tuple[int, ...]) -> None:
    if views.orientations and size[-1] != size[-2]:
        raise UserError(f"orientations={views.orientations}: quarter turns need size=[depth, side, side], "
                        f"got {list(size)}")  # fmt: skip
    if not (views.turns or views.transpose):
        return
    if views.target_flip != "with_input":
        raise UserError(f"target_flip={views.target_flip}: of views with turns or transpose only with_input")
    if isinstance(views.spacing, tuple | list) and views.spacing[-1] != views.spacing[-2]:
        raise UserError(f"turns and transpose need one spacing in the plane, got spacing={list(views.spacing)}")
