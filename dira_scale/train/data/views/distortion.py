"""The random numbers of a view, and the parameters of its distortion that are drawn by them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dira_scale.train.data import random
from dira_scale.train.data.views.parts import NONE

CHANNEL_DROPOUT = "channel_dropout"  # among a distortion's ``corruptions``: the key of its random numbers [b]
COLOUR = "colour"  # likewise: what ``distort.colour`` applies


class Stream(IntEnum):
    """The purposes of random numbers. Each has a stream of its own, so that no setting changes what others draw."""

    GEOMETRY, INTENSITY, PATCHES, ROTATION, ORIENTATIONS, PARTNER, LABELS = range(7)
    TONE, WARP, NOISE, PAIRS, CHANNELS, COLOURS, FOREGROUND = range(7, 14)


CORRUPTIONS = 16  # the stream of the first; those after it have the next ones


@dataclass(frozen=True)
class ViewNumbers:
    """The random numbers of ``view`` of b samples, whatever is drawn beside; arguments as ``draw`` has them."""

    seed: int
    epoch: int | np.ndarray
    index: np.ndarray
    occurrence: np.ndarray
    view: int

    def __call__(self, n: int, stream: int, first: int = 0) -> np.ndarray:
        """Return ``n`` numbers of a stream from number ``first`` on, uniform in [0, 1): float64 [b, n]."""
        return random.uniform(self.seed, self.epoch, self.index, self.occurrence, self.view, n, stream, first)

    def __getitem__(self, samples: np.ndarray) -> Self:
        epoch = np.broadcast_to(self.epoch, self.index.shape)[samples]
        return replace(self, epoch=epoch, index=self.index[samples], occurrence=self.occurrence[samples])


@dataclass(frozen=True)
class Distortion:
    """The parameters that ``distort`` applies to b images or volumes, of n dimensions; can be sliced along b.

    Attributes:
        brightness, contrast: float32 [b], factors; 1 = none.
        contrast_first: bool [b].
        sigma: float32 [b], of the blur, in pixels of this view; 0 = none.
        branch: uint8 [b], ``CUTOUT``, ``INVERSE_CUTOUT``, ``SHUFFLE`` or ``NONE``.
        boxes: int16 [b, 10, 4], (y, x, h, w) of the first ``n_boxes`` uint8 [b] patches, 0 beyond them; [b, 0, 6] of
            volumes.
        swaps: int16 [b, 10, 6], (h, w, y1, x1, y2, x2), 0 where nothing is swapped; [b, 0, 9] of volumes.
        rotation: float32 [b], degrees, anticlockwise.
        orientations: uint8 [b, k, n + 1], k of the restoration target, for ``orientation.reorient``: a method applies
            them.
        tone: float32 [b, 3], a factor, what is added after it, and the power that follows; [b, 0] of views without.
        warp: float32 [b, 24], the columns of ``parts.Warps``; [b, 0] of views without.
        corruptions: of each of the views', by name, its parameters, whose first axis is b.
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

    @classmethod
    def of(cls, sides: np.ndarray, corruptions: Mapping[str, Mapping[str, np.ndarray]], **drawn: np.ndarray) -> Self:
        """The parameters ``drawn`` for images with ``sides`` [b, n], brightness and contrast among them; others change
        nothing."""
        b, n = sides.shape
        plain = {
            "sigma": np.zeros(b, np.float32), "branch": np.full(b, NONE, np.uint8), "n_boxes": np.zeros(b, np.uint8),
            "boxes": np.zeros((b, 0, 2 * n), np.int16), "swaps": np.zeros((b, 0, 3 * n), np.int16),
            "rotation": np.zeros(b, np.float32), "orientations": np.zeros((b, 0, n + 1), np.uint8),
            "tone": np.zeros((b, 0), np.float32), "warp": np.zeros((b, 0), np.float32),
        }  # fmt: skip
        nested = {
            name: {key: torch.from_numpy(values) for key, values in params.items()}
            for name, params in corruptions.items()
        }
        tensors: dict[str, Any] = {name: torch.from_numpy(values) for name, values in (plain | drawn).items()}
        return cls(**tensors, corruptions=nested)

    def to(self, device: torch.device | str) -> Self:
        return self.each(lambda values: values.to(device, non_blocking=True))

    def __getitem__(self, samples: slice) -> Self:
        return self.each(lambda values: values[samples])

    def tensors(self) -> dict[str, Tensor]:
        """All parameters by name, those of a corruption by ``corruptions.NAME.PARAMETER``."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "corruptions"}
        nested = {
            f"corruptions.{name}.{key}": values
            for name, params in self.corruptions.items()
            for key, values in params.items()
        }
        return plain | nested

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return it with each tensor changed."""
        corruptions = {name: {key: change(v) for key, v in params.items()} for name, params in self.corruptions.items()}
        plain: dict[str, Any] = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.name != "corruptions"}
        return replace(self, **plain, corruptions=corruptions)
