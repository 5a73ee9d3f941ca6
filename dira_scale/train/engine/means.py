"""Means of metrics, summed on the device: one collective and one copy to the host per row of metrics.jsonl."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from dira_scale.train.distributed.collectives import reduce_mean


class Means:
    """Weighted means of named 0-dim tensors over steps, micro-batches and ranks."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # of values that are added together
        self._weights: dict[tuple[str, ...], float] = {}

    def add(self, values: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Add values to the means, without synchronisation."""
        if names := tuple(values):
            row = torch.stack([value.detach().float() for value in values.values()]) * weight
            self._sums[names] = self._sums[names] + row if names in self._sums else row
            self._weights[names] = self._weights.get(names, 0.0) + weight

    def shared(self) -> tuple[list[str], Tensor]:
        """Names, and on the device the means so far, equal on all ranks, which must all have added the same names.
        Collective."""
        by_name, weight = dict[str, Tensor](), defaultdict[str, float](float)
        for group, row in self._sums.items():
            for name, value in zip(group, row.unbind(), strict=True):
                by_name[name] = by_name[name] + value if name in by_name else value
                weight[name] += self._weights[group]
        names = sorted(by_name)
        if not names:
            return [], torch.zeros(0)
        sums = torch.stack([by_name[n] for n in names])
        weights = torch.tensor([weight[n] for n in names]).to(sums.device, non_blocking=True)
        shared_sums, shared_weights = reduce_mean(torch.stack([sums, weights]))
        return names, shared_sums / shared_weights

    def take(self) -> dict[str, float]:
        """The means since the last call by name. Collective; waits for the device."""
        names, means = self.shared()
        self.reset()
        return dict(zip(names, means.tolist(), strict=True))

    def reset(self) -> None:
        self._sums, self._weights = {}, {}


class HostCopy:
    """A copy of tensors to the host that is begun, but not waited for: on a GPU, to pinned memory."""

    def __init__(self, *tensors: Tensor) -> None:
        flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors])  # exact, also of steps
        self._shapes = [tensor.shape for tensor in tensors]
        self._host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=flat.is_cuda)
        self._host.copy_(flat, non_blocking=True)
        self._done = torch.cuda.current_stream(flat.device).record_event() if flat.is_cuda else None

    def arrives(self, within: float) -> bool:
        """Wait for the copy for at most ``within`` seconds, and return whether it is there."""
        end = time.monotonic() + within
        while self._done is not None and not self._done.query():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def read(self) -> list[Tensor]:
        """The tensors on the host, in double precision; waits for them."""
        if self._done is not None:
            self._done.synchronize()
        parts = self._host.split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]


class Clock:
    """Seconds spent in named parts since the last :meth:`take`; the rest is ``step``."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self._parts[name] = self._parts.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Seconds by part, ``step`` being the rest; then reset."""
        now = time.perf_counter()
        parts, total = self._parts, now - self._start
        self._parts, self._start = {}, now
        return parts | {"step": max(0.0, total - sum(parts.values()))}
