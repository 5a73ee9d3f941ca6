"""Means of metrics, summed on the device: one host synchronisation and one collective per row of metrics.jsonl."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dira_scale.distributed.collectives import reduce_mean


class Means:
    """Weighted means of named 0-dim tensors over steps, micro-batches and ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: dict[str, Tensor], weight: float = 1.0) -> None:
        """Add values to the means, without synchronisation."""
        for name, value in values.items():
            value = value.detach().float() * weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def values(self) -> dict[str, float]:
        """The means so far, equal on all ranks; all ranks must have added the same names."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        sums = torch.stack([self._sums[n] for n in names])
        weights = sums.new_tensor([self._weights[n] for n in names])
        shared_sums, shared_weights = reduce_mean(torch.stack([sums, weights]))
        return dict(zip(names, (shared_sums / shared_weights).tolist(), strict=True))

    def take(self) -> dict[str, float]:
        """:meth:`values` since the last call, then reset."""
        values = self.values()
        self._sums, self._weights = {}, {}
        return values


class Clock:
    """Seconds spent in named parts since the last :meth:`take`; the rest is ``step``.

    ``total`` has each part's seconds since the start.
    """

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self.total: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the body as part ``name``."""
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds measured elsewhere."""
        self._parts[name] = self._parts.get(name, 0.0) + seconds
        self.total[name] = self.total.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds by part, ``step`` being the rest; then reset."""
        now = time.perf_counter()
        parts, total = self._parts, now - self._start
        self._parts, self._start = {}, now
        return parts | {"step": max(0.0, total - sum(parts.values()))}
