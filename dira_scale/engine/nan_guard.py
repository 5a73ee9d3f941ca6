"""What is no number: noticed on the device at the step in which it arises, kept from the weights, told by name.

A loss or a gradient that is NaN or infinite must cost neither the run nor, step by step, a host synchronisation. So the
device itself notes the first bad step of each, and clears the gradients from then on; the host reads the note when it
waits for the device anyway, and always before a checkpoint, which therefore is sound. Queue and BatchNorm statistics
may hold what is no number between the two; such a run ends before anybody uses them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dira_scale.distributed.collectives import gather, world
from dira_scale.runs.errors import RunEndedError

NEVER = 2**62
GRADIENT = "gradient"  # how the note of a module's gradient begins; all other notes are of losses


class NotFiniteError(RunEndedError):
    """Training cannot go on; the message, already said, is which term broke, when, and where its batch lies."""

    said = True


@dataclass(frozen=True)
class Finding:
    """The first step in which something was no number, the same on every rank."""

    step: int  # optimizer steps of the run before it
    terms: dict[str, list[int]]  # what broke first in it, and on which ranks; a gradient only where no loss did
    losses: list[dict[str, float]]  # this step's losses by rank

    @property
    def ranks(self) -> list[int]:
        """On which of them something broke."""
        return sorted({rank for found in self.terms.values() for rank in found})

    def row(self, rank: int) -> dict[str, Any]:
        """What ``batch.json`` of a rank tells of it."""
        return {"step": self.step + 1, "rank": rank, "broken": self.terms, "losses": self.losses[rank]}

    def __str__(self) -> str:
        where = f" on rank {', '.join(map(str, self.ranks))}" if len(self.ranks) < world() else ""
        what = ", ".join(self.terms)
        cause = ", though every loss is one" if all(term.startswith(GRADIENT) for term in self.terms) else ""
        return f"step {self.step + 1}: {what} is no number{where}{cause}"


class NaNGuard:
    """The note that a device keeps of what was no number."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._first: dict[tuple[str, ...], Tensor] = {}  # first bad step of each name, int64
        self._values: dict[tuple[str, ...], Tensor] = {}  # the values of the step in which the first broke
        self._broken = torch.zeros((), dtype=torch.bool, device=device)  # a gradient was; the same on all ranks

    def losses(self, step: int, losses: dict[str, Tensor]) -> Tensor:
        """Note losses (0-dim). The factor of their gradient: 1, or NaN where one of them is none.

        With it all ranks learn of a bad loss of one of them through the gradients that they average.
        """
        fine = self._note(step, losses)
        return torch.where(fine, 1.0, torch.nan)

    def gradients(self, step: int, gradients: Sequence[Tensor], norm: Tensor, name: str = GRADIENT) -> None:
        """Note the total ``norm`` of gradients, the same on all ranks, and clear them from the first bad one on.

        ``gradients``: the parts that this process holds, all on one device: this one, or the CPU if offloaded.
        """
        self._broken |= ~self._note(step, {name: norm})
        if gradients and self._must_clear():
            broken = self._broken.to(gradients[0].device)  # once: of offloaded ones each would wait for the device
            for gradient in gradients:
                gradient.masked_fill_(broken, 0.0)

    def _must_clear(self) -> bool:
        """A pass over all gradients costs a device nothing and a CPU 1-2 % of a step; there, looking first is free."""
        return self.device.type != "cpu" or bool(self._broken)

    def read(self) -> Finding | None:
        """What was found so far, over all ranks. Collective; waits for the device."""
        if not self._first:
            return None
        names = [name for group in self._first for name in group]
        notes = torch.stack([torch.cat([*self._first.values()]).double(), torch.cat([*self._values.values()]).double()])
        first, values = gather(notes[None]).cpu().unbind(1)  # [ranks, names]
        step = int(first.min())
        if step >= NEVER:
            return None
        broken = {name: (first[:, i] == step).nonzero()[:, 0].tolist() for i, name in enumerate(names)}
        # What broke first of what is computed in turn; of losses the terms, not the total that they spoil.
        cause = next(part for group in self._first if (part := {n: broken[n] for n in group if broken[n]}))
        terms = {name: ranks for name, ranks in cause.items() if name != "loss"} or cause
        losses = [dict(zip(names, row, strict=True)) for row in values.tolist()]
        return Finding(step, terms, losses)

    def _note(self, step: int, values: dict[str, Tensor]) -> Tensor:
        """Whether all of ``values`` are numbers, on the device."""
        group = tuple(values)
        seen = torch.stack([value.detach().float() for value in values.values()])
        fine = seen.isfinite()
        before = self._first.get(group)
        if before is None:
            before = torch.full((len(group),), NEVER, device=self.device)
            self._values[group] = seen
        self._values[group] = torch.where(self._broken | (before < NEVER).any(), self._values[group], seen)
        self._first[group] = torch.minimum(before, torch.where(fine, NEVER, step))
        return fine.all()


def unsound(tensors: dict[str, Tensor]) -> list[str]:
    """Names of those that hold something that is no number; one host synchronisation. Integers never do."""
    floats = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    if not floats:
        return []
    # The sum of a tensor is a number only if all of it is; where it is none (it may overflow), the parts are asked.
    device = next(iter(floats.values())).device
    sums = torch.stack([t.sum(dtype=torch.float32).to(device) for t in floats.values()]).isfinite().tolist()
    doubtful = [name for name, fine in zip(floats, sums, strict=True) if not fine]
    return [name for name in doubtful if not floats[name].isfinite().all()]
