"""Paint each finding on the lungs' maps: replace air by tissue, or tissue by air."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dira_scale.archive.phantom.cxr.findings import DIFFUSE, Finding, Lungs
from dira_scale.archive.phantom.cxr.primitives import TubeLayer, ellipsoid
from dira_scale.archive.phantom.cxr.projection import grain
from dira_scale.archive.phantom.cxr.view import Map


def paint(finding: Finding, lungs: Lungs) -> tuple[float, float, float, float] | None:
    """Draw the finding and return its box (y, x, h, w) in pixels, None if it is not localised."""
    rng = np.random.default_rng(finding.seed)
    extent = PAINTERS[finding.label](finding, lungs, rng)
    if finding.label in DIFFUSE:
        return None
    visible = extent > 0.35 * float(extent.max()) if extent.max() > 0 else extent > 0
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if not len(rows):
        return None
    return float(rows[0]), float(columns[0]), float(rows[-1] - rows[0] + 1), float(columns[-1] - columns[0] + 1)


def _blob(lungs: Lungs, x: float, y: float, width: float, height: float, edge: float = 1.0) -> Map:
    """A round area that fades over `edge` of its radius, 1 in the middle."""
    gx, gy = lungs.view.grid
    distance = np.hypot((gx - np.float32(x)) / np.float32(width), (gy - np.float32(y)) / np.float32(height))
    t = np.clip((1 - distance) / np.float32(edge), 0, 1)
    return t * t * (3 - 2 * t)


def _fill(lungs: Lungs, share: NDArray) -> Map:
    """Replace a share of the air by tissue. Returns the added tissue in mm."""
    share = np.clip(share, 0, 0.97).astype(np.float32)
    lungs.filled = 1 - (1 - lungs.filled) * (1 - share)
    return share * lungs.air


def _solid(lungs: Lungs, thickness: Map) -> Map:
    thickness = np.minimum(thickness, lungs.air)
    lungs.solid += thickness
    return thickness


def _nodule(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.position(f)
    axes = f.scale * (5 + 9 * f.severity) * rng.uniform(0.85, 1.15, 3)
    return _solid(lungs, ellipsoid(lungs.view, (x, y, rng.uniform(-40, 40)), tuple(axes), rng.uniform(0, 90)))


def _mass(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.position(f)
    radius, shape, depth = f.scale * (17 + 17 * f.severity), np.zeros_like(lungs.air), rng.uniform(-30, 20)
    for _ in range(5):  # lobes
        dx, dy = rng.normal(0, 0.35, 2) * radius
        axes = radius * rng.uniform(0.55, 0.95, 3)
        ellipsoid(lungs.view, (x + dx, y + dy, depth), tuple(axes), rng.uniform(0, 90), shape)
    return _solid(lungs, ndimage.gaussian_filter(shape, 0.8 / lungs.view.spacing, truncate=2.0))


def _effusion(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.view.grid
    (_, centre, _), (_, rise, _) = lungs.chest.dome(f.side)
    top = centre + 12 - f.severity * (rise + 30)
    wall = lungs.chest.width
    meniscus = np.float32(top) - np.float32(34 + 22 * f.severity) * np.clip(np.abs(x) / np.float32(wall), 0, 1) ** 5
    depth = np.clip((y - meniscus) / np.float32(24), 0, 1)  # a wedge: thin at its upper edge
    return _fill(lungs, 0.97 * depth * (2 - depth) * lungs.half(f.side))


def _outer(lungs: Lungs, y: Map) -> Map:
    """Inner face of the rib cage at the heights of a map, |x|."""
    line = np.arange(-60, 420, 0.5)
    return lungs.chest.lateral(line).astype(np.float32)[np.clip((y + 60) * 2, 0, len(line) - 1).astype(np.intp)]


def _pneumothorax(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.view.grid
    gap = np.float32(9 + 34 * f.severity) * (1 - np.float32(0.75) * np.clip(y / lungs.chest.anatomy.height, 0, 1))
    beyond = np.maximum(np.abs(x) - _outer(lungs, y - gap) + gap, gap - y)  # mm outside the visceral pleura
    free = np.clip(beyond + np.float32(0.5), 0, 1) * lungs.half(f.side)
    lungs.vessels *= 1 - free
    lungs.emptied = np.maximum(lungs.emptied, free)
    pleura = np.exp(-np.square(beyond / np.float32(0.9))) * np.float32(13) * lungs.half(f.side)
    lungs.solid += np.minimum(pleura, lungs.air * np.float32(0.5))
    _fill(lungs, np.float32(0.05 + 0.1 * f.severity) * (1 - free) * lungs.half(f.side))
    return free * (lungs.air > 8)


def _consolidation(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.position(f)
    size = f.scale * (32 + 22 * f.severity)
    area = _blob(lungs, x, y, size * rng.uniform(0.9, 1.3), size, 0.6)
    gx, gy = lungs.view.grid
    fissure = gy - np.float32(y - 0.5 * size) - np.float32(rng.normal(0, 0.12)) * (gx - np.float32(x))
    fissure = np.clip(fissure / 4, 0, 1)  # bounded by the lobe
    grey = 0.42 + 0.35 * f.severity + 0.1 * grain(lungs.view.size, rng)
    return _fill(lungs, area * fissure * grey)


def _pneumonia(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.position(f)
    area = np.zeros_like(lungs.air)
    for _ in range(5):
        dx, dy = f.scale * rng.normal(0, 17, 2)
        area += 0.5 * _blob(lungs, x + dx, y + dy, f.scale * rng.uniform(20, 34), f.scale * rng.uniform(20, 34))
    patchy = np.clip(0.5 + 0.3 * grain(lungs.view.size, rng), 0.05, 1.2)
    return _fill(lungs, np.minimum(area, 1) * patchy * np.float32(0.45 + 0.4 * f.severity))


def _infiltration(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.position(f)
    area = _blob(lungs, x, y, f.scale * rng.uniform(38, 55), f.scale * rng.uniform(45, 65), 1.0)
    streaky = np.exp(-np.square(grain(lungs.view.size, rng) / 0.9))
    return _fill(lungs, area * (0.5 + 0.5 * streaky) * np.float32(0.2 + 0.22 * f.severity))


def _atelectasis(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    (x, top, _), (_, rise, _) = lungs.chest.dome(f.side)
    layer, s = TubeLayer(lungs.view), np.linspace(-0.5, 0.5, 9)
    for number in range(1 + int(2 * f.severity)):  # plates above the raised dome
        length, bend, tilt = rng.uniform(45, 80), rng.normal(0, 5), rng.normal(0, 0.12)
        y = top - rise - 12 - 14 * number + length * s * tilt + bend * (4 * s * s)
        points = np.stack([x + f.side * rng.uniform(-8, 8) + length * s, y, 0 * s], -1)
        layer.add(points[None], (1.6 + 2.2 * f.severity) * np.sqrt(1.02 - 4 * s * s)[None], flat=5.0)
    return _solid(lungs, layer.thickness())


def _edema(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    down = float(lungs.chest.vertebra(6.8)) + 12
    area = np.maximum(_blob(lungs, -58, down, 74, 92), _blob(lungs, 58, down, 74, 92))  # batwing pattern
    cloudy = np.clip(0.75 + 0.25 * grain(lungs.view.size, rng), 0, 1.3)
    return _fill(lungs, area * cloudy * np.float32(0.25 + 0.35 * f.severity))


def _emphysema(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    upper = np.clip(1.1 - lungs.view.grid[1] / np.float32(1.4 * lungs.chest.anatomy.height), 0, 1)
    lost = np.float32(0.35 + 0.3 * f.severity) * np.clip(upper + 0.1 * grain(lungs.view.size, rng), 0, 1)
    lungs.emptied = np.maximum(lungs.emptied, lost)
    return lungs.air


def _fibrosis(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.view.grid
    low = np.clip(y / np.float32(lungs.chest.anatomy.height) * 1.6 - 0.55, 0.08, 1)
    rim = np.clip(np.abs(x) / np.float32(lungs.chest.width) * 1.3 - 0.2, 0.2, 1)
    net = np.exp(-np.square(grain(lungs.view.size, rng) / np.float32(0.4)))  # interlobular lines
    net = ndimage.gaussian_filter(net, 1.3 / lungs.view.spacing, truncate=2.0)
    return _fill(lungs, low * rim * net * np.float32(0.2 + 0.3 * f.severity))


def _pleural_thickening(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    x, y = lungs.view.grid
    thick = np.float32(4 + 7 * f.severity) * (1 + np.float32(0.25) * np.sin(y / 13))
    along = np.exp(-np.square((y - np.float32(f.down * lungs.chest.anatomy.height)) / np.float32(48)))
    inwards = np.maximum(_outer(lungs, y) - np.abs(x), 0)
    rind = np.exp(-np.square(inwards / (thick * (0.3 + 0.7 * along)))) * along
    return _fill(lungs, np.float32(0.95) * rind * lungs.half(f.side) * (lungs.air > 1))


def _hernia(f: Finding, lungs: Lungs, rng: np.random.Generator) -> Map:
    radius = 26 + 16 * f.severity
    centre = (f.side * 10.0, lungs.chest.anatomy.height - 22 - 0.3 * radius, -45.0)
    return _solid(lungs, ellipsoid(lungs.view, centre, (1.15 * radius, radius, radius)))


PAINTERS: dict[str, Callable[[Finding, Lungs, np.random.Generator], Map]] = {
    "Atelectasis": _atelectasis, "Cardiomegaly": lambda _, lungs, __: lungs.heart, "Consolidation": _consolidation,
    "Edema": _edema, "Effusion": _effusion, "Emphysema": _emphysema, "Fibrosis": _fibrosis, "Hernia": _hernia,
    "Infiltration": _infiltration, "Mass": _mass, "Nodule": _nodule, "Pleural_Thickening": _pleural_thickening,
    "Pneumonia": _pneumonia, "Pneumothorax": _pneumothorax,
}  # fmt: skip
