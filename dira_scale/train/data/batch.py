"""The batch that a loader hands to the training loop."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from operator import itemgetter
from types import NoneType
from typing import Any, Self, cast

import torch
from torch import Tensor

from dira_scale.train.data.views import Distortion

UNITS = {2: "images", 3: "volumes"}  # by a view's dimensions: what samples are called
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of a tensor's dimensions


@dataclass(frozen=True)
class Batch:
    """One rank's samples of one step: cropped, resized and flipped, but not yet distorted.

    Attributes:
        views: per view a tensor [b, C, *size], of an image or a volume, with a size that may be the view's own: the
            stored integers until ``to``, then float32.
        distortions: per view its parameters.
        index: int64 [b], samples counted over all datasets (``order.StepSamples``).
        low, high: float32 [b, V], the stored values of each view's image that become 0 and 1; [b, V, C] where channels
            have their own, NaN of one that the image lacks.
        step, epoch: of the order.
        labels: float32 [b, L] as stored, NaN = unknown, -1 = uncertain (or what ``Labels.smooth`` drew): those asked
            for (``labels.Columns``, which makes targets of them), else all; None unless all datasets have the same.
        mask: int16 [b, V, *size], of views of one size: the images' masks (0 to 255) cropped and flipped with the
            views, ``IGNORE`` where there is none; None unless asked for. Views are rotated on the device, and masks
            then, too (``turned_mask`` of ``distort``).
        flips: per view bool [b, n]: along which axes samples are mirrored, before the last two may change places.
        images: int64 [b, V], whose image each view shows (``views.pair``); None: each sample's own.
    """

    views: tuple[Tensor, ...]
    distortions: tuple[Distortion, ...]
    index: Tensor
    low: Tensor
    high: Tensor
    step: int
    epoch: int
    labels: Tensor | None = None
    mask: Tensor | None = None
    flips: tuple[Tensor, ...] = ()
    images: Tensor | None = None

    def copy_to(self, device: torch.device | str) -> Self:
        return self._each(lambda x: x.to(device, non_blocking=True), lambda distortion: distortion.to(device))

    def to(self, device: torch.device | str) -> Self:
        """On ``device``, channels last, as float32 clipped to [0, 1]; ``low`` and ``high`` become 0 and 1."""
        batch = self.copy_to(device)

        def scaled(view: Tensor, low: Tensor, high: Tensor) -> Tensor:
            return unit_interval(view, low, high).contiguous(memory_format=CHANNELS_LAST[view.dim()])

        return replace(
            batch,
            views=tuple(map(scaled, batch.views, batch.low.unbind(1), batch.high.unbind(1))),
            low=batch.low * 0,  # stays NaN
            high=batch.high * 0 + 1,
        )

    def lacking(self, first: int, views: int = 1) -> Tensor | None:
        """bool [v·b, C]: which channels the images of so many views lack, from the ``first``; None where all channels
        have one range."""
        return self.low[:, first : first + views].isnan().transpose(0, 1).flatten(0, 1) if self.low.dim() == 3 else None

    def split(self, n: int) -> list[Self]:
        size, rest = divmod(len(self.index), n)
        assert rest == 0, f"{len(self.index)} samples cannot be cut into {n} equal micro-batches"
        if n == 1:
            return [self]  # nothing to cut: some twenty slices less in every step
        parts = (itemgetter(slice(i * size, (i + 1) * size)) for i in range(n))
        return [self._each(part, part) for part in parts]

    def each_tensor(self, change: Callable[[Tensor], Tensor], **others: Any) -> Self:
        """Return the batch with each tensor changed, always in one order, and with ``others``."""
        return replace(self._each(change, lambda distortion: distortion.each(change)), **others)

    def held(self, device: torch.device) -> Self:
        """Return a copy with memory of its own on ``device``, also of step and epoch, for others to :meth:`fill`."""
        numbers: Any = {name: torch.tensor(getattr(self, name), device=device) for name in ("step", "epoch")}
        return self.each_tensor(lambda x: x.to(device, copy=True), **numbers)

    def fill(self, batch: Self) -> None:
        """Make this one, which is ``held``, another ``batch`` of the same shapes."""
        for mine, other in zip(replace(self, step=0, epoch=0).tensors(), batch.tensors(), strict=True):
            mine.copy_(other, non_blocking=True)
        cast(Tensor, self.step).fill_(batch.step)
        cast(Tensor, self.epoch).fill_(batch.epoch)

    def tensors(self) -> list[Tensor]:
        """All tensors, in that order."""
        found: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.each_tensor(keep)
        return found

    def _each(self, tensor: Callable[[Tensor], Tensor], distortion: Callable[[Distortion], Distortion]) -> Self:
        """Return the batch with each tensor and each distortion changed by these."""

        def changed(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(changed, value))
            return tensor(value) if isinstance(value, Tensor) else distortion(value)

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = (int, NoneType)  # step and epoch, and what there is not
        return replace(self, **{name: changed(value) for name, value in values.items() if not isinstance(value, kept)})


def unit_interval(stored: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``stored`` integers [b, C, …] as float32, in which each sample's ``low`` and ``high`` are 0 and 1, clipped.

    They are [b], or [b, C] of each channel, NaN of one that the sample lacks, which becomes 0.
    """
    values = stored.to(torch.float32)
    darkest, brightest = per_sample(low, values), per_sample(high, values)
    scaled = ((values - darkest) / (brightest - darkest)).clamp_(0, 1)
    return scaled if low.dim() == 1 else scaled.nan_to_num_(nan=0.0)


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """``values`` [b] as [b, 1, 1, …], broadcastable to ``x`` [b, …]; [b, C] as [b, C, 1, …]."""
    return values.view(*values.shape, *(1,) * (x.dim() - values.dim()))
