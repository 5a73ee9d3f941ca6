"""Bones as thickness of cortical bone (mm): ribs, clavicles, scapulae, spine, upper arms."""

import numpy as np

from dira_scale.archive.phantom.anatomy import RIB_ENDS, curve
from dira_scale.archive.phantom.cxr.primitives import TubeLayer, ellipsoid
from dira_scale.archive.phantom.cxr.view import Map, Torso, View


def bones(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """All bones, mm of cortical bone along each ray, [size, size]."""
    return np.float32(chest.mineral) * (ribs(chest, view, rng) + shoulders(chest, view) + spine(chest, view))


def ribs(chest: Torso, view: View, rng: np.random.Generator) -> Map:
    """The pairs' posterior arcs and, as a second layer, the anterior arcs that cross them."""
    back, front = TubeLayer(view), TubeLayer(view)
    for number, end in enumerate(np.radians(RIB_ENDS[: chest.anatomy.ribs]), 1):
        wobble = rng.normal(0, 1, 2)
        start = float(chest.vertebra(number)) - 3
        fall = chest.anatomy.slope * (6 + 10.5 * min(number, 7) ** 0.8 + 1.5 * number) + 2 * wobble[0]
        widest = 64.0 if number == 1 else float(chest.lateral(np.array(max(start + fall, 18.0)))) + 3
        deep = float(chest.depth(np.array(start + fall))) * 0.52
        radius = (5.6 if number < 3 else 6.3) * chest.rib + 0.25 * wobble[1]
        # From the spine (angle 0) over the flank (pi/2) to the anterior end, where bone becomes cartilage.
        flank = min(np.pi / 2, end)
        for layer, angle in ((back, flank * np.linspace(0, 1, 48) ** 1.18), (front, np.linspace(flank, end, 48))):
            if angle[-1] == angle[0]:
                continue
            thick = 1 - 0.18 * np.exp(-np.square(angle / 0.35)) + 0.12 * np.maximum(angle - np.pi / 2, 0)
            if layer is front:
                thick *= np.sqrt(np.clip((end - angle) / 0.16, 0.03, 1))
            x = 14 + (widest - 14) * np.sin(angle) ** (0.85 * chest.spread)
            bend = float(chest.midline(start)) * np.clip(np.cos(angle), 0, 1)
            y = start + fall * (1 - np.cos(angle)) ** 1.1 - 7 * np.sin(np.minimum(2 * angle, np.pi)) * (fall > 20)
            arcs = np.stack([np.stack([side * x + bend, y, -deep * np.cos(angle)], -1) for side in (-1, 1)])
            layer.add(arcs, radius * np.stack([thick, thick]), flat=0.6, core=0.25, wall=0.8)
    return (back.thickness() + front.thickness()) * np.float32(0.72)


def shoulders(chest: Torso, view: View) -> Map:
    """Clavicles, scapulae, upper arms."""
    w, lift, (out, down) = chest.width, chest.state.shrug, chest.scapula
    s = np.linspace(0, 1, 32)
    height, bend = 42 - 46 * s**0.75 - (lift + chest.clavicle) * s, np.sin(2 * np.pi * s)
    clavicle = np.stack([13 + (w + 15) * s, height + 5 * bend, 62 - 70 * s + 8 * bend], -1)
    thick = 5.6 + 2.6 * np.exp(-np.square(s / 0.12)) + np.exp(-np.square((1 - s) / 0.2))
    thick *= np.sqrt(np.clip(np.minimum(s, 1 - s) * 16 + 0.1, 0, 1))
    arm = np.array([[[w + 50, 4, -20], [w + 60, 85, -20], [w + 75, 170, -20], [w + 92, 260, -20]]]) - (0, lift, 0)
    layer, plate = TubeLayer(view), np.zeros((view.size, view.size), np.float32)
    for side in (-1, 1):
        layer.add(clavicle[None] * (side, 1, 1), thick[None], core=0.36, wall=0.76)
        layer.add(curve(arm) * (side, 1, 1), curve(np.array([[8, 12.5, 11, 11]])), core=0.35)
        ellipsoid(view, (side * (w + out), 78 + down - lift, -90), (28, 66, 2.5), 14 * side, plate)
        ellipsoid(view, (side * (w + 54), 24 - lift, -20), (23, 24, 8), 0, plate)
    return layer.thickness() * np.float32(0.8) + plate * np.float32(0.55)


def spine(chest: Torso, view: View) -> Map:
    """Vertebral bodies with their end plates."""
    x, y = view.grid
    line, numbers = np.arange(-200, 420, 0.5), np.arange(-6, 17, 0.01)
    index = np.interp(line, chest.vertebra(numbers), numbers)
    phase = np.abs(2 * (index - np.round(index)))  # 0 in the middle of a body, 1 in the middle of a disc
    bone = np.where(phase < 0.78, 0.62 + 0.75 * np.exp(-np.square((phase - 0.72) / 0.08)), 0.25)
    half = 13.5 + 0.55 * np.clip(index, -2, 13) + 1.6 * phase**3
    at = np.clip((y + 200) * 2, 0, len(line) - 1).astype(np.intp)
    bone, half, middle = (v.astype(np.float32)[at] for v in (bone, half, chest.midline(line)))
    u = np.square((x - np.float32(-55 * np.sin(view.yaw)) - middle) / half)
    shell = 1 + np.float32(0.5) * np.exp(-np.square((u - 1) / np.float32(0.1)))
    return 4 * bone * np.sqrt(np.maximum(1 - u * u * u, 0)) * shell
