"""Draw the crop, flip and distortion of each view of a sample: pure arithmetic on (seed, epoch, sample, view)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dira_scale.data import random
from dira_scale.data.geometry.crop import Geometry
from dira_scale.data.geometry.volume import VolumeCrop
from dira_scale.data.views import patches, warp
from dira_scale.data.views.spec import ViewSpec

CHANNEL_DROPOUT = "channel_dropout"  # among a distortion's ``corruptions``: the key of its random numbers [b]
COLOUR = "colour"  # likewise: what ``distort.colour`` applies
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbers
# Streams of random numbers.
_GEOMETRY, _INTENSITY, _PATCHES, _ROTATION, _ORIENTATIONS, _PARTNER, _LABELS, _TONE, _WARP, _NOISE, _PAIRS = range(11)
_CHANNELS, _COLOURS = 11, 12
_CORRUPTIONS = 16  # that of the first; those after it have the next ones


@dataclass(frozen=True)
class Distortion:
    """The parameters that ``distort`` applies to b images or volumes, of n dimensions; can be sliced along b.

    Attributes:
        brightness, contrast: float32 [b], factors; 1 = none.
        contrast_first: bool [b].
        sigma: float32 [b], of the blur, in pixels of this view; 0 = none.
        branch: uint8 [b], ``patches.CUTOUT``, ``INVERSE_CUTOUT``, ``SHUFFLE`` or ``NONE``.
        boxes: int16 [b, 10, 2 n], (y, x, h, w) of the first ``n_boxes`` uint8 [b] patches; 0 beyond them.
        swaps: int16 [b, 10, 3 n], (h, w, y1, x1, y2, x2); 0 where nothing is swapped.
        rotation: float32 [b], degrees, anticlockwise.
        orientations: uint8 [b, k, n + 1], k of the restoration target, for ``orientation.reorient``: a method applies
            them.
        tone: float32 [b, 3], a factor, what is added after it, and the power that follows; [b, 0] of views without.
        warp: float32 [b, 24], the columns of ``warp.Warps``; [b, 0] of views without.
        corruptions: of each of the spec's, by name, its parameters, whose first axis is b.
    """

    brightness: Tensor
    contrast: Tensor
    contrast_first: Tensor
    sigma: Tensor
    branch: Tensor
    boxes: Tensor
    n_boxes: Tensor
    swaps: Tensor
    rotation: Tensor
    orientations: Tensor
    tone: Tensor
    warp: Tensor
    corruptions: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Self:
        return self._each(lambda values: values.to(device, non_blocking=True))

    def __getitem__(self, samples: slice) -> Self:
        return self._each(lambda values: values[samples])

    def clone(self) -> Self:
        """Return it in memory of its own: another process gets these samples, not all that they were sliced from."""
        return self._each(Tensor.clone)

    def tensors(self) -> dict[str, Tensor]:
        """All parameters by name, those of a corruption by ``corruptions.NAME.PARAMETER``."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "corruptions"}
        nested = {
            f"corruptions.{name}.{key}": values
            for name, params in self.corruptions.items()
            for key, values in params.items()
        }
        return plain | nested

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        corruptions = {name: {key: change(v) for key, v in params.items()} for name, params in self.corruptions.items()}
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "corruptions"}
        return type(self)(**{name: change(values) for name, values in plain.items()}, corruptions=corruptions)


def draw(
    spec: ViewSpec,
    seed: int,
    epoch: int | np.ndarray,
    index: np.ndarray,
    occurrence: np.ndarray,
    view: int,
    *sides: np.ndarray,
    spacing: np.ndarray | None = None,
) -> tuple[Geometry, Distortion]:
    """Parameters of view number ``view`` of the samples ``index`` [b], independent of batching.

    ``epoch`` may differ by sample [b]; ``occurrence`` [b] numbers repetitions of a sample within it; ``sides`` [b], for
    each axis, are those of the stored images, in pixels: heights, widths; depths, heights, widths. ``spacing`` [b, n],
    of stored voxels in mm, has the same order; it matters to ``ViewSpec.spacing``.
    """
    assert len(sides) == spec.dimensions
    spec = spec.each[view]

    def uniform(n: int, stream: int) -> np.ndarray:
        return random.uniform(seed, epoch, index, occurrence, view, n, stream)

    stored = np.stack(sides, 1).astype(np.int64)
    geometry = _geometry(spec, seed, epoch, index, occurrence, view, stored, spec.step(spacing))
    intensity, damage = uniform(7, _INTENSITY), uniform(patches.numbers(spec), _PATCHES)
    axes = 1 + spec.dimensions
    rotation, orientations = _float32(np.zeros(len(index))), torch.zeros(len(index), 0, axes, dtype=torch.uint8)
    if spec.rotation:
        rotation = _float32(random.between(uniform(1, _ROTATION)[:, 0], -spec.rotation, spec.rotation))
    if spec.orientations:
        drawn = uniform(axes * spec.orientations, _ORIENTATIONS).reshape(len(index), spec.orientations, axes)
        orientations = torch.from_numpy(np.floor(drawn * (*(2,) * spec.dimensions, 4)).astype(np.uint8))
    branch, boxes, number, swaps = map(torch.from_numpy, patches.draw(spec, damage))
    tone = warped = torch.zeros(len(index), 0)
    if spec.tone.p:
        tone = _tone(spec, uniform(4, _TONE))
    if spec.warp.p:
        warped = torch.from_numpy(warp.draw(spec, uniform(warp.NUMBERS, _WARP), uniform(2, _NOISE)))
    corruptions = {}
    for stream, (name, corruption) in enumerate(spec.corruptions.items(), _CORRUPTIONS):
        params = corruption.draw(uniform(corruption.numbers(spec.sides), stream), spec.sides)
        corruptions[name] = {key: torch.from_numpy(values) for key, values in params.items()}
    if spec.channel_dropout:
        key = np.floor(uniform(1, _CHANNELS)[:, 0] * 2**24).astype(np.int64)
        corruptions[CHANNEL_DROPOUT] = {"key": torch.from_numpy(key)}
    if spec.coloured:
        corruptions[COLOUR] = _colour(spec, intensity, uniform(5, _COLOURS))
    return geometry, Distortion(
        *_intensity(spec, intensity), branch, boxes, number, swaps, rotation, orientations, tone, warped, corruptions
    )


def _geometry(
    spec: ViewSpec,
    seed: int,
    epoch: int | np.ndarray,
    index: np.ndarray,
    occurrence: np.ndarray,
    view: int,
    sides: np.ndarray,
    step: np.ndarray | None,
) -> Geometry:
    def uniform(view: int) -> np.ndarray:
        return random.uniform(seed, epoch, index, occurrence, view, rule.numbers, _GEOMETRY)

    def candidates(rows: np.ndarray, first: int, n: int) -> np.ndarray:  # of both views: from the numbers of the first
        return random.uniform(seed, epochs[rows], index[rows], occurrence[rows], 0, n, _PAIRS, first)

    rule = spec.crop
    if spec.fixed:
        return spec.fixed[view].of(sides, step)
    if not isinstance(rule, VolumeCrop):
        return rule.draw(uniform(view), sides)
    if spec.pairs is None:
        return rule.draw(uniform(view), sides, step)
    epochs = np.broadcast_to(epoch, index.shape)
    return spec.pairs.draw((uniform(0), uniform(1)), candidates, sides, step)[view]


def draw_partner(
    seed: int, epoch: int | np.ndarray, index: np.ndarray, occurrence: np.ndarray, view: int, others: np.ndarray
) -> np.ndarray:
    """For each of the samples ``index`` [b] one of ``others`` [b] > 0 possibilities: int64 [b], from 0."""
    u = random.uniform(seed, epoch, index, occurrence, view, 1, _PARTNER)[:, 0]
    return random.integers(u, 0, others - 1)


def draw_labels(seed: int, epoch: int, index: np.ndarray, occurrence: np.ndarray, labels: int) -> np.ndarray:
    """For each of the samples ``index`` [b] and each label a number in [0, 1): float64 [b, labels]."""
    return random.uniform(seed, epoch, index, occurrence, 0, labels, _LABELS)


def _intensity(spec: ViewSpec, u: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    jitter, blur = u[:, 0] < spec.jitter.p, u[:, 1] < spec.blur.p
    brightness = np.where(jitter, random.between(u[:, 2], 1 - spec.jitter.brightness, 1 + spec.jitter.brightness), 1.0)
    contrast = np.where(jitter, random.between(u[:, 3], 1 - spec.jitter.contrast, 1 + spec.jitter.contrast), 1.0)
    sigma = np.where(blur, random.between(u[:, 4], *spec.blur.sigma) * spec.blur_scale, 0.0)
    return _float32(brightness), _float32(contrast), torch.from_numpy(u[:, 5] < 0.5), _float32(sigma)


def _colour(spec: ViewSpec, intensity: np.ndarray, u: np.ndarray) -> dict[str, Tensor]:
    """Saturation factor and turn of the hue, float32 [b]; the ``order`` uint8 [b, 4] of the four; ``grey`` bool [b].

    All orders are alike, and brightness and contrast are in the order that views of grey images have.
    """
    jitter, saturation, hue = intensity[:, 0] < spec.jitter.p, spec.jitter.saturation, spec.jitter.hue
    number = np.ravel_multi_index((intensity[:, 5] < 0.5, *np.floor(u[:, 2:4] * (3, 4)).astype(int).T), (2, 3, 4))
    return {
        "saturation": _float32(np.where(jitter, random.between(u[:, 0], 1 - saturation, 1 + saturation), 1.0)),
        "hue": _float32(np.where(jitter, random.between(u[:, 1], -hue, hue), 0.0)),
        "order": torch.from_numpy(_ORDERS[number]),
        "grey": torch.from_numpy(u[:, 4] < spec.grey),
    }


def _order(contrast_first: int, saturation: int, hue: int) -> list[int]:
    """Return the order of changes with ``saturation`` at this place of the first three, then ``hue`` of all four."""
    order = [CONTRAST, BRIGHTNESS] if contrast_first else [BRIGHTNESS, CONTRAST]
    order.insert(saturation, SATURATION)
    order.insert(hue, HUE)
    return order


_ORDERS = np.array([_order(*places) for places in np.ndindex(2, 3, 4)], np.uint8)


def _tone(spec: ViewSpec, u: np.ndarray) -> Tensor:
    tone = spec.tone
    contrasted, powered = u[:, 0] < tone.p / 2, (u[:, 0] >= tone.p / 2) & (u[:, 0] < tone.p)
    factor = np.where(contrasted, random.between(u[:, 1], 1 - tone.contrast, 1 + tone.contrast), 1.0)
    added = np.where(contrasted, random.between(u[:, 2], -tone.brightness, tone.brightness), 0.0)
    power = np.where(powered, random.between(u[:, 3], *tone.gamma), 1.0)
    return _float32(np.stack((factor, added, power), 1))


def _float32(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))
