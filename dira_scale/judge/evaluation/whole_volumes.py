"""Whole volumes in validation: their Dice, seen through overlapping windows, slab by slab."""

import math
import warnings
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.errors import UserError, counted
from dira_scale.dataset.pixels.boxes import Crop
from dira_scale.judge.evaluation.config import BY_VOLUMES
from dira_scale.judge.evaluation.inference import OVERLAP, Predicted, windowed
from dira_scale.judge.tasks.images import gathered
from dira_scale.judge.tasks.masks import Segmentation
from dira_scale.train.data.batch import unit_interval
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples

VALUES = 2**28  # float32 of a slab and what is predicted of it: 1 GiB


class WholeVolumes:
    """The Dice of some volumes of a split, in the voxels that the network sees.

    A volume whose probabilities take more than ``VALUES`` is seen in slabs of its depth, each with a margin of a window
    on both sides: every voxel is in the windows that it would be in of the whole volume.

    Args:
        size: of a window, which overlaps its neighbours by half; ``batch``: windows of a forward pass.
        most: volumes, spread over those of ``samples`` that have a mask; fewer where they have more than ``windows``.
        rank, ranks: this process sees every ``ranks``-th of them.

    Attributes:
        chosen: the numbers of the volumes; ``windows``: how many these have.

    Raises UserError for a first volume of more than ``windows``.
    """

    def __init__(
        self,
        samples: Samples,
        supervision: Segmentation,
        size: tuple[int, ...],
        most: int,
        windows: int,
        batch: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.reader, self.supervision, self.size, self.batch = SampleReader(samples), supervision, size, batch
        self.rank, self.ranks = rank, ranks
        have = [dataset.has_mask(rows) for dataset, rows in zip(samples.datasets, samples.rows, strict=True)]
        masked, windows_of = np.flatnonzero(np.concatenate(have)), cache(lambda sample: sum(self._windows(sample)))
        for count in range(min(most, len(masked)), 0, -1):
            self.chosen = masked[np.linspace(0, len(masked) - 1, count).astype(int)].tolist()
            self.windows = sum(map(windows_of, self.chosen))
            if self.windows <= windows:
                break
        else:
            sides = " x ".join(map(str, size))
            expected = "allow as many, use a larger data.size, or validate.volumes=null"
            raise UserError(f"validate.windows={windows}: a volume has {self.windows} windows of {sides}: {expected}")

    def __str__(self) -> str:
        volumes = f"{counted(len(self.chosen), 'whole volume')} through {counted(self.windows, 'window')}"
        return f"validation sees {volumes} of {' x '.join(map(str, self.size))}"

    def figures(self, network: Predicted, device: torch.device) -> dict[str, float]:
        """Return the mean over volumes of each class's Dice, but those in which neither mask has it, and over classes;
        1 of a class that is nowhere. So a network that finds nothing is worth nothing.

        Collective, as is ``network`` where it is sharded: all processes ask it equally often.
        """
        rows = list[tuple[np.ndarray, ...]]()
        for sample in self.chosen[self.rank :: self.ranks]:
            sums = torch.zeros(2, len(self.supervision.names), dtype=torch.float64)
            for whole, inner in self._slabs(sample):
                sums += self._sums(sample, whole, inner, network, device)
            overlap, extent = sums
            dice = torch.where(extent > 0, 2 * overlap / extent.clamp(min=1), torch.nan)
            rows.append((np.array([sample]), dice[None].numpy()))
        by_volume = [sum(-(-windows // self.batch) for windows in self._windows(sample)) for sample in self.chosen]
        passes = [sum(by_volume[rank :: self.ranks]) for rank in range(self.ranks)]
        nothing = torch.zeros(1, self.reader.samples.channels, *self.size, device=device)
        for _ in range(max(passes) - passes[self.rank]):
            network(nothing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a class that is nowhere
            by_class = np.nan_to_num(np.nanmean(gathered(rows)[1], 0), nan=1.0)
        named = zip(self.supervision.names, by_class, strict=True)
        each = {f"{BY_VOLUMES.metric}/{name}": float(value) for name, value in named} if len(by_class) > 1 else {}
        return {BY_VOLUMES.metric: float(by_class.mean())} | each

    def _grid(self, sample: int) -> tuple[tuple[int, ...], np.ndarray]:
        """Return the sides of a volume in voxels that the network sees, and the stored voxels to each."""
        index = np.array([sample])
        sides, views = np.stack(self.reader.samples.sides(index), 1)[0], self.reader.samples.views
        spacing = getattr(views, "spacing", None)
        step = np.ones(3) if spacing is None else (np.array(spacing) / self.reader.samples.spacing(index))[0]
        return tuple(np.floor(sides / step).astype(int).clip(1).tolist()), step

    def _slabs(self, sample: int) -> Iterator[tuple[range, range]]:
        """Yield the slices of each slab, and those of its inside, which it is seen for."""
        depth, *plane = self._grid(sample)[0]
        stride = int(self.size[0] * (1 - OVERLAP))
        margin = -(-self.size[0] // stride) * stride
        values = self.reader.samples.channels + len(self.supervision.outputs) + 1  # MONAI's weights
        most = VALUES // (values * math.prod(map(max, plane, self.size[1:])))
        inner = depth if depth <= most else max(1, (most - 2 * margin) // stride) * stride
        for first in range(0, depth, inner):
            last = min(first + inner, depth)
            yield range(max(0, first - margin), min(depth, last + margin)), range(first, last)

    def _windows(self, sample: int) -> list[int]:
        """Return how many windows each slab of a volume has."""
        shapes = [(len(whole), *self._grid(sample)[0][1:]) for whole, _ in self._slabs(sample)]
        stride = [int(window * (1 - OVERLAP)) for window in self.size]
        return [
            math.prod(
                1 - min(0, window - side) // by for side, window, by in zip(shape, self.size, stride, strict=True)
            )
            for shape in shapes
        ]

    def _sums(self, sample: int, whole: range, inner: range, network: Predicted, device: torch.device) -> Tensor:
        """Return of each class the voxels of its overlap and of both masks, [2, classes], inside a slab."""
        (_, height, width), step = self._grid(sample)
        samples = self.reader.samples
        image = np.empty((samples.channels, len(whole), height, width), np.int16)
        start, extent = whole.start * step[0], np.array(image.shape[1:]) * step
        self.reader.read(sample, [Crop((start, 0.0, 0.0, *extent.tolist()), (False,) * 3)], [image])
        low, high = map(torch.from_numpy, samples.range(np.array([sample])))
        view = unit_interval(torch.from_numpy(image)[None], low, high)
        outputs = len(self.supervision.outputs)
        seen = windowed(network, view, self.size, self.batch, device, outputs)[:, inner.start - whole.start :]
        at = [
            np.floor((np.array(of) + 0.5) * by).astype(int)
            for of, by in zip((inner, range(height), range(width)), step, strict=True)
        ]
        parts = self.reader.mask_parts(sample, [tuple(slice(int(of[0]), int(of[-1]) + 1) for of in at)])
        assert parts is not None, "of those with a mask"
        mask = torch.from_numpy(parts[0][np.ix_(*(of - of[0] for of in at))]).long()
        targets = self.supervision.numbers(mask[None])
        predicted, true = self.supervision.masks(seen[None, :, : len(inner)], targets)
        overlap, of_one, of_other = (each[0].flatten(1).sum(1) for each in (predicted & true, predicted, true))
        return torch.stack((overlap, of_one + of_other)).double()
