"""Losses and gradients that are not finite: detected on the device at their step, named, and kept out of the weights.

This must not cost a host synchronisation per step. So the device itself records the first bad step of each value. From
then on torch's fused optimizers skip their steps, and the gradients of others are cleared. The host reads the record
with each row of metrics, and always before a checkpoint, which is therefore finite. Queue and BatchNorm statistics may
be non-finite in between; such a run ends before anything uses them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dira_scale.base.machine.graphs import recording
from dira_scale.train.distributed.collectives import gather, world
from dira_scale.train.distributed.control import RunEndedError
from dira_scale.train.engine import optim

NO_STEP = 2**62
GRADIENT = "gradient"  # prefix of the names of gradient norms; all other names are of losses


class NotFiniteError(RunEndedError):
    """Training cannot continue. The message, already reported, names the term, the step and the saved batch."""

    reported = True


@dataclass(frozen=True)
class NotFinite:
    """The first step with a value that is not finite, the same on every rank."""

    step: int  # optimizer steps of the run before it
    terms: dict[str, list[int]]  # what broke first, by its ranks; a gradient only if every loss is finite
    losses: list[dict[str, float]]  # of this step by rank

    @property
    def ranks(self) -> list[int]:
        return sorted({rank for ranks in self.terms.values() for rank in ranks})

    def row(self, rank: int) -> dict[str, Any]:
        """The finding as written to a rank's ``batch.json``."""
        return {"step": self.step + 1, "rank": rank, "broken": self.terms, "losses": self.losses[rank]}

    def __str__(self) -> str:
        where = f" on rank {', '.join(map(str, self.ranks))}" if len(self.ranks) < world() else ""
        what = ", ".join(self.terms)
        cause = ", though every loss is finite" if all(term.startswith(GRADIENT) for term in self.terms) else ""
        return f"step {self.step + 1}: {what} is not finite{where}{cause}"


class NaNGuard:
    """The record, kept on ``device``, of values that are not finite."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._first: dict[tuple[str, ...], Tensor] = {}  # first bad step of each name, int64
        self._values: dict[tuple[str, ...], Tensor] = {}  # the values of the step in which the first broke
        self._broken = torch.zeros((), dtype=torch.bool, device=device)  # a gradient was bad; the same on all ranks
        self._skips: dict[str, Tensor] = {}  # 1 for an optimizer from then on, by the name of its norm

    def losses(self, step: int | Tensor, losses: dict[str, Tensor]) -> Tensor:
        """Record losses (0-dim). Returns a factor for the loss: 1, or NaN if one of them is not finite.

        Through the averaged gradients, it tells all ranks of a bad loss on one of them.
        """
        return torch.where(self._note(step, losses), 1.0, torch.nan)

    def gradients(
        self,
        step: int | Tensor,
        gradients: Sequence[Tensor],
        norm: Tensor,
        optimizer: Optimizer | None = None,
        name: str = GRADIENT,
    ) -> None:
        """Record the total ``norm`` of gradients, the same on all ranks; from the first bad one on, keep them out.

        ``gradients``: the parts that this process holds, all on one device: the guard's, or the CPU if offloaded.
        ``optimizer``: their own, if it is torch's; where it is fused it skips the step on the device, so that weights
        and states stay as they are, and gradients too. Otherwise, gradients are cleared: a kernel for each.
        """
        self._broken |= ~self._note(step, {name: norm})
        if optimizer is not None and optim.is_fused(optimizer):
            skips = self._skips.setdefault(name, torch.zeros((), device=self.device))
            optimizer.found_inf = skips.copy_(self._broken)  # type: ignore[attr-defined]
        elif gradients and self._must_clear():
            broken = self._broken.to(gradients[0].device)  # once: each offloaded gradient would wait for the device
            for gradient in gradients:
                gradient.masked_fill_(broken, 0.0)

    def _must_clear(self) -> bool:
        """Masking all gradients costs nothing on a GPU, but 1-2 % of a step on a CPU, where checking first is free."""
        return self.device.type != "cpu" or recording() or bool(self._broken)

    def read(self) -> NotFinite | None:
        """The first bad step so far over all ranks, if any. Collective; waits for the device."""
        return self.finding(self.shared().cpu())

    def shared(self) -> Tensor:
        """The record so far of all ranks, on the device, for :meth:`finding`: [ranks, 2, names]. Collective."""
        if not self._first:
            return torch.zeros(1, 2, 0, device=self.device)
        notes = torch.stack([torch.cat([*self._first.values()]).double(), torch.cat([*self._values.values()]).double()])
        return gather(notes[None])

    def finding(self, record: Tensor) -> NotFinite | None:
        """The first bad step in a ``record``, which is on the host; names that came after it do not count."""
        names, groups = list[str](), list[tuple[str, ...]]()
        for group in self._first:
            if len(names) < record.shape[-1]:
                names, groups = [*names, *group], [*groups, group]
        first, values = record.unbind(1)  # [ranks, names]
        if not names or (step := int(first.min())) >= NO_STEP:
            return None
        broken = {name: (first[:, i] == step).nonzero()[:, 0].tolist() for i, name in enumerate(names)}
        # The earliest in order of computation. Of the losses, the terms rather than their total.
        cause = next(part for group in groups if (part := {n: broken[n] for n in group if broken[n]}))
        terms = {name: ranks for name, ranks in cause.items() if name != "loss"} or cause
        losses = [dict(zip(names, row, strict=True)) for row in values.tolist()]
        return NotFinite(step, terms, losses)

    def _note(self, step: int | Tensor, values: dict[str, Tensor]) -> Tensor:
        """Record ``values``, in place; returns, on the device, whether all of them are finite."""
        group = tuple(values)
        numbers = torch.stack([value.detach().float() for value in values.values()])
        fine = numbers.isfinite()
        if group not in self._first:
            if recording():
                raise RuntimeError(f"losses or gradients that no step before had: {', '.join(group)}")
            self._first[group] = torch.full((len(group),), NO_STEP, device=self.device)
            self._values[group] = numbers.clone()
        first, kept = self._first[group], self._values[group]
        kept.copy_(torch.where(self._broken | (first < NO_STEP).any(), kept, numbers))
        first.copy_(torch.minimum(first, torch.where(fine, NO_STEP, step)))
        return fine.all()


def nonfinite_names(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the floating-point tensors with a value that is not finite; one host synchronisation."""
    floats = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not floats:
        return []
    # A tensor with a finite sum is finite. A sum may also overflow, so the others are checked by element.
    device = next(iter(floats.values())).device
    sums = torch.stack([t.sum(dtype=torch.float32).to(device) for t in floats.values()]).isfinite().tolist()
    doubtful = [name for name, fine in zip(floats, sums, strict=True) if not fine]
    return [name for name in doubtful if not floats[name].isfinite().all()]
