"""One study: draw pose and exposure, assemble the chest with its findings, take the radiograph."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from dira_scale.archive.phantom.anatomy import Anatomy, StudyState
from dira_scale.archive.phantom.cxr import organs, projection
from dira_scale.archive.phantom.cxr.findings import Finding, Lungs, prepare
from dira_scale.archive.phantom.cxr.painters import paint
from dira_scale.archive.phantom.cxr.primitives import ellipsoid
from dira_scale.archive.phantom.cxr.projection import BONE, FAT, LUNG, SOFT, Exposure
from dira_scale.archive.phantom.cxr.skeleton import bones
from dira_scale.archive.phantom.cxr.view import Map, Torso, View

SHEATH = 1.3  # a vessel with wall and bronchus, relative to its blood


def body(chest: Torso, view: View) -> Map:
    """The body's total thickness in mm; smooth, so drawn on a coarse grid and enlarged."""
    view, size = replace(view, size=-(-view.size // 4)), view.size
    (x, y), fat = view.grid, chest.anatomy.fat
    trunk = np.clip((y + 45) / 140, 0, 1)
    half = (chest.width + 30 + 1.1 * fat) * (0.55 + 0.45 * np.sqrt(trunk * (2 - trunk)))
    half += chest.waist * np.clip((y - 150) / 200, 0, 1)
    deep = (chest.anatomy.depth + 50 + fat) * (0.55 + 0.45 * trunk)
    body = np.where(y > -45, deep * np.sqrt(np.maximum(1 - (x / half) ** 4, 0)), 0).astype(np.float32)
    breast = np.zeros_like(body)
    ellipsoid(view, (0, -95, -10), (chest.neck + 0.3 * fat, 120, 66), 0, body)
    lift, b = chest.state.shrug - 2 * (chest.shoulder - 17), chest.anatomy.breast
    for side in (-1, 1):
        # trapezius and shoulder, deltoid, arm
        ellipsoid(view, (side * 95, -8 - 0.5 * lift, -25), (118, 46 + 0.4 * fat, 78), chest.shoulder * side, body)
        ellipsoid(view, (side * (chest.width + 48), 14 - lift, -10), (54 + 0.5 * fat, 58, 70), 0, body)
        away = side * (chest.width + 48 + chest.arms)
        ellipsoid(view, (away, 150 - lift, -20), (40 + 0.6 * fat, 160, 64), (16 - chest.arms) * side, body)
        if b:
            axes = (46 + 0.6 * b, 44 + 0.6 * b, 0.8 * b)
            ellipsoid(view, (side * (chest.width - 62), 150 + chest.sag, 70), axes, 8 * side, breast)
    breast *= np.clip((y - 95 - chest.sag) / 110, 0, 1)  # hangs: thin above, full below
    whole = ndimage.gaussian_filter(body, 4 / view.spacing) + ndimage.gaussian_filter(breast, 3 / view.spacing)
    return ndimage.zoom(whole, size / view.size, order=1, mode="nearest", grid_mode=True)


@dataclass
class Radiograph:
    """A finished image: 12-bit presentation values (dense = bright), lungs, boxes (y, x, h, w) in pixels."""

    pixels: np.ndarray  # uint16 [size, size]
    lungs: np.ndarray  # bool [size, size]
    boxes: list[tuple[str, tuple[float, float, float, float]]]
    view: View


def take(anatomy: Anatomy, findings: list[Finding], size: int, rng: np.random.Generator) -> Radiograph:
    """Take one radiograph of `anatomy` with `findings`; rng draws everything else (pose, breath, exposure)."""
    view, state, exposure = _pose(anatomy, size, rng)
    for finding in findings:
        state = prepare(finding, state)
    chest = Torso(anatomy, state)
    cavity, dome = organs.lungs(chest, view)
    heart, mediastinum = organs.mediastinum(chest, view)
    air = np.maximum(cavity - dome - np.hypot(heart, mediastinum), 0)
    blood = organs.vessels(chest, view, np.random.default_rng(anatomy.seed)) * np.minimum(air / 15, 1)
    zero = np.zeros_like(air)
    lungs = Lungs(view, chest, air, blood, heart, zero.copy(), zero.copy(), zero.copy())
    boxes = [(f.label, paint(f, lungs)) for f in findings]
    light = projection.detect(_line(lungs, rng), view.spacing, exposure, rng)
    pixels = projection.display(light, view.spacing, exposure)
    inside = (cavity > 12) & (air > 0.7 * cavity)  # except where heart or dome fill most of the depth
    return Radiograph(pixels, inside, [(label, box) for label, box in boxes if box], view)


def _pose(anatomy: Anatomy, size: int, rng: np.random.Generator) -> tuple[View, StudyState, Exposure]:
    """Most are taken standing, PA; the rest supine, AP: less breath, less precise positioning."""
    lying = rng.random() < 0.3
    care = 1.8 if lying else 1.0
    breath = float(rng.gamma(2.0, 8.0 if lying else 3.0))
    field, yaw = float(rng.uniform(385, 430)), float(rng.normal(0, 0.028 * care))
    pitch = float(rng.normal(0.08 if lying else 0, 0.03)) + Torso(anatomy, StudyState()).kyphosis
    roll = float(rng.normal(0, 0.016 * care))
    shift = float(rng.normal(0, 6 * care)), float(anatomy.height * 0.6 + rng.normal(0, 8))
    view = View(size, field, yaw, pitch, roll, shift, front=not lying)
    domes, shrug = (breath, breath + float(rng.normal(0, 3))), float(rng.normal(0, 4) + (8 if lying else 0))
    state = StudyState(domes, heart=1 + 0.002 * breath, shrug=shrug)
    photons = float(8e4 * np.exp(rng.normal(0, 0.45))) * (0.6 if lying else 1)
    scatter, blur = float(rng.uniform(0.2, 0.5)) * (1.4 if lying else 1), float(rng.uniform(0.35, 0.6))
    looks = (float(rng.uniform(*span)) for span in ((0.1, 0.4), (0.4, 0.9), (0.7, 1.3), (0.9, 1.0)))
    exposure = Exposure(photons, scatter, blur, *looks)
    return view, state, exposure


def _line(lungs: Lungs, rng: np.random.Generator) -> Map:
    """Line integrals of attenuation, [size, size]."""
    view, chest = lungs.view, lungs.chest
    thick = body(chest, view)
    details = np.random.default_rng(chest.anatomy.seed + 1)
    tissue = LUNG * (1 + 0.05 * projection.grain(view.size, details)) * (1 - lungs.emptied)
    aerated = lungs.air * (1 - lungs.filled)
    line = SOFT * (thick - aerated) + tissue * aerated - (SOFT - FAT) * np.minimum(thick, chest.anatomy.fat)
    line += SHEATH * (SOFT - LUNG) * lungs.vessels * (1 - lungs.filled) + (SOFT - LUNG) * lungs.solid
    line += (BONE - SOFT) * bones(chest, view, details)
    line -= SOFT * np.minimum(organs.gas(chest, view, float(rng.uniform(0.1, 1))), thick)
    return np.maximum(line, 0).astype(np.float32)
