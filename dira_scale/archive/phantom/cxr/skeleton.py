"""Bones as thickness of cortical bone (mm): ribs, clavicles, scapulae, spine, sternum, upper arms."""

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.anatomy import RIB_ENDS
from dira_scale.archive.phantom.curve import curve
from dira_scale.archive.phantom.cxr.primitives import TubeLayer, ellipsoid
from dira_scale.archive.phantom.cxr.view import Map, Torso, View


def bones(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """All bones, mm of cortical bone along each ray, [size, size]."""
    mineral = np.float32(chest.build.mineral)
    return mineral * (ribs(chest, view, rng) + shoulders(chest, view) + spine(chest, view))


def ribs(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """The pairs' posterior arcs and, as a second layer, the anterior arcs that cross them.

    In the old, the cartilage between rib and sternum is calcified in places.
    """
    arcs: dict[str, list[tuple[NDArray, NDArray]]] = {"back": [], "front": []}
    build, cartilage = chest.build, []
    for number, end in enumerate(np.radians(RIB_ENDS[: chest.anatomy.ribs]), 1):
        wobble = rng.normal(0, 1, 3)
        start = float(chest.vertebra(number)) - 3
        fall = chest.anatomy.slope * (6 + 10.5 * min(number, 7) ** 0.8 + 1.5 * number) + 2 * wobble[0]
        widest = 64.0 if number == 1 else float(chest.lateral(np.array(max(start + fall, 18.0)))) + 3
        deep = float(chest.depth(np.array(start + fall))) * 0.52
        radius = (5.6 if number < 3 else 6.3) * build.rib + 0.25 * wobble[1]
        for side in (-1, 1):
            for where, low, high in (("back", 0.0, min(np.pi / 2, end)), ("front", np.pi / 2, end)):
                if low < high:
                    angle = low + (high - low) * np.linspace(0, 1, 48) ** (1.18 if where == "back" else 1.0)
                    thick = 1 - 0.18 * np.exp(-np.square(angle / 0.35)) + 0.12 * np.maximum(angle - np.pi / 2, 0)
                    if where == "front":
                        thick *= np.sqrt(np.clip((end - angle) / 0.16, 0.03, 1))  # bone becomes cartilage
                    points = _arc(chest, side, angle, start, fall * (1 + 0.02 * side * wobble[2]), widest, deep)
                    arcs[where].append((points, radius * thick))
            if build.cartilage > 0.2 and 1 < number < 10:
                angle = end + np.linspace(0.02, 0.16 + 0.2 * build.cartilage, 24)
                speckled = np.clip(0.55 + 0.35 * np.sin(angle * 90 + 5 * wobble[0]), 0.1, 1) * build.cartilage
                points = _arc(chest, side, angle, start, fall * (1 + 0.02 * side * wobble[2]), widest, deep)
                cartilage.append((points, radius * speckled))
    total = np.zeros((view.size, view.size), np.float32)
    for where, tubes in arcs.items():
        layer = TubeLayer(view)
        layer.add(np.stack([t[0] for t in tubes]), np.stack([t[1] for t in tubes]), flat=0.6, core=0.25, wall=0.8)
        if where == "front" and cartilage:
            layer.add(np.stack([t[0] for t in cartilage]), np.stack([t[1] for t in cartilage]), flat=0.5)
        total += layer.thickness()
    return total * np.float32(0.72)


def _arc(
    chest: Torso, side: int, angle: NDArray, start: float, fall: float, widest: float, deep: float
) -> NDArray:  # fmt: skip
    """A rib from the spine (angle 0) over the flank (pi/2) to its anterior end, [M, 3] in mm."""
    x = 14 + (widest - 14) * np.sin(angle) ** (0.85 * chest.build.spread)
    x += side * float(chest.midline(start)) * np.clip(np.cos(angle), 0, 1)
    y = start + fall * (1 - np.cos(angle)) ** 1.1 - 7 * np.sin(np.minimum(2 * angle, np.pi)) * (fall > 20)
    return np.stack([side * x, y, -deep * np.cos(angle)], -1)


def shoulders(chest: Torso, view: View) -> Map:
    """Clavicles, scapulae, upper arms, sternum."""
    w, lift = chest.width, chest.state.shrug
    (rise, bent, calibre), (out, down) = chest.build.clavicle, chest.build.scapula
    s = np.linspace(0, 1, 32)
    bend, reach = np.sin(2 * np.pi * s), w + 28
    height = 42 - 46 * s**0.75 - (lift + rise) * s + 5 * bent * bend
    clavicle = np.stack([13 + (reach - 13) * s, height, 62 - 70 * s + 8 * bend], -1)
    thick = 5.6 + 2.6 * np.exp(-np.square(s / 0.12)) + np.exp(-np.square((1 - s) / 0.2))
    thick *= calibre * np.sqrt(np.clip(np.minimum(s, 1 - s) * 16 + 0.1, 0, 1))
    scapula = curve(
        np.array(
            [
                [[w - 28, 25, -95], [w - 36, 60, -98], [w - 30, 110, -96], [w - 12, 148, -90]],  # medial border
                [[w + 26, 30, -70], [w + 16, 70, -80], [w + 4, 112, -86], [w - 12, 148, -90]],  # lateral border
                [[w - 34, 48, -96], [w - 5, 28, -92], [w + 22, 8, -80], [w + 38, -4, -60]],  # spine to acromion
                [[w - 28, 25, -95], [w - 12, 16, -90], [w + 6, 18, -80], [w + 24, 26, -70]],  # upper border
            ]
        )
    )
    borders = curve(np.array([[1.6] * 4, [4.5, 4.2, 3.6, 3.0], [2.6, 3.4, 4.4, 2.0], [1.6] * 4]))
    arm = curve(np.array([[[w + 50, 4, -20], [w + 60, 85, -20], [w + 75, 170, -20], [w + 92, 260, -20]]]))
    layer, plate = TubeLayer(view), np.zeros((view.size, view.size), np.float32)
    layer.add(_both(clavicle[None]), np.stack([thick, thick]), core=0.36, wall=0.76)
    moved = np.array([out, down - lift, 0])
    layer.add(_both(scapula + moved), np.concatenate([borders, borders]), flat=0.65, core=0.5)
    layer.add(_both(arm - (0, lift, 0)), curve(np.array([[8, 12.5, 11, 11]] * 2)), core=0.35, wall=0.7)
    for side in (-1, 1):
        ellipsoid(view, (side * (w + out), 78 + down - lift, -90), (28, 66, 1.6), 14 * side, plate)
        ellipsoid(view, (side * (w + 54), 24 - lift, -20), (23, 24, 8), 0, plate)
    sternum = np.stack([0 * s, 25 + 160 * s, 70 + 20 * s], -1)
    layer.add(sternum[None], (15 - 4 * np.sin(np.pi * s))[None], flat=0.08, core=0.6)
    return layer.thickness() * np.float32(0.8) + plate * np.float32(0.55)


def _both(points: NDArray) -> NDArray:
    """Mirror tubes of the left side: [T, M, 3] -> [2 T, M, 3]."""
    return np.concatenate([points * (-1, 1, 1), points])


def spine(chest: Torso, view: View) -> Map:
    """Bodies with their end plates, pedicles, spinous and transverse processes of C6 ... L2."""
    out = np.zeros((view.size, view.size), np.float32)
    middle, scale = (view.size - 1) / 2, float(view.pixels_per_mm(-50.0))
    reach = int(60 * scale)
    left = int(np.clip(middle - view.shift[0] * scale - reach, 0, view.size - 8))
    strip = slice(left, min(view.size, left + 2 * reach))
    x, y = (g[:, strip] for g in view.grid)
    x = x - np.float32(-55 * np.sin(view.yaw))
    line = np.arange(-200, 420, 0.5)
    numbers = np.arange(-6, 17, 0.01)
    index = np.interp(line, chest.vertebra(numbers), numbers)
    phase = np.abs(2 * (index - np.round(index)))  # 0 in the middle of a body, 1 in the middle of a disc
    bone = np.where(phase < 0.78, 0.62 + 0.75 * np.exp(-np.square((phase - 0.72) / 0.08)), 0.25)
    at = np.clip((y + 200) * 2, 0, len(line) - 1).astype(np.int32)
    x = x - chest.midline(line).astype(np.float32)[at]
    half = (13.5 + 0.55 * np.clip(index, -2, 13) + 1.6 * phase**3).astype(np.float32)[at]
    u = np.square(x / half)
    shell = 1 + 0.5 * np.exp(-np.square((u - 0.86) / 0.1))
    out[:, strip] = 4.0 * bone.astype(np.float32)[at] * np.sqrt(np.maximum(1 - u * u * u, 0)) * shell
    number = np.arange(-1, 14)  # spinous and transverse processes and pedicles, of C6 ... L1
    level = chest.vertebra(number)[:, None, None]
    shift = chest.midline(level)
    pedicle = (9 + 0.4 * number)[:, None, None]
    ends = np.array(  # start and end of each: in pedicle distances, mm sideways, mm down
        [
            [(0, 0, 6), (0, 0, 21)],
            [(-1, 0, -8), (-1, 0, 1)],
            [(1, 0, -8), (1, 0, 1)],
            [(-1, 0, -3), (-1, -24, -6)],
            [(1, 0, -3), (1, 24, -6)],
        ]
    )
    x, y = shift + pedicle * ends[..., 0] + ends[..., 1], level + ends[..., 2]
    points = np.stack([x, y, np.full_like(x, -70)], -1).reshape(-1, 2, 3)
    radius = np.tile([[3.4, 2.8], [3.4, 3.4], [3.4, 3.4], [3.8, 2.6], [3.8, 2.6]], (len(number), 1))
    layer = TubeLayer(view)
    layer.add(curve(points, 8), curve(radius, 8), flat=0.9)
    return out + layer.thickness() * np.float32(0.3)
