"""What a stage minimises on one micro-batch: L = Σ λ·L_term (DiRA, equation 4)."""

import copy
from typing import Self

import torch
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.distort import Distort
from dira_scale.data.views import ViewSpec
from dira_scale.engine import parallel
from dira_scale.engine.watchdog import alive
from dira_scale.methods.adversary import Adversary
from dira_scale.methods.method import Method, Terms
from dira_scale.pretraining.stages import Stage


def restores(stage: Stage) -> bool:
    """Whether a stage restores views: for the restoration loss, or for the adversary to judge."""
    return not {"re", "ad"}.isdisjoint(stage.terms)


class Objective:
    """Distorts the views on the device, runs the method and, where the stage has it, the adversary's judgement."""

    def __init__(
        self, method: Method, adversary: Adversary, views: ViewSpec, device: torch.device, precision: str
    ) -> None:
        self.method, self.adversary, self.device, self.precision = method, adversary, device, precision
        self.distort, self.target_flip = Distort(views).to(device), views.target_flip

    def of(self, method: Method) -> Self:
        """The same of another copy of the method."""
        other = copy.copy(self)
        other.method = method
        return other

    def __call__(self, engine: nn.Module, batch: Batch, stage: Stage) -> tuple[Terms, dict[str, Tensor]]:
        """Terms and losses by name, 0-dim; ``loss`` is the weighted sum. ``engine`` is the method, wrapped or not."""
        terms = self.forward(engine, batch, self.distorted(batch, stage))
        losses = dict(terms.losses)
        if "ad" in stage.terms:
            assert terms.restored is not None
            losses["ad"] = self.adversary.generator_loss(terms.restored)
        weighted = [self.method.weights[term] * loss.float() for term, loss in losses.items()]
        return terms, {"loss": torch.stack(weighted).sum()} | {f"loss/{term}": loss for term, loss in losses.items()}

    def forward(self, engine: nn.Module, batch: Batch, distorted: tuple[Tensor, ...]) -> Terms:
        """The method on a batch that is on the device."""
        alive()
        with parallel.autocast(self.device, self.precision):
            terms: Terms = engine(self.upright(batch.views, batch), distorted, batch)
        return terms

    def upright(self, views: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, ...]:
        """``views`` of the batch as the restoration target lies: mirrored back where ``views.target_flip`` says so."""
        if self.target_flip == "with_input":
            return views
        pairs = zip(views, batch.flips, strict=True)
        return tuple(torch.where(flip.view(-1, 1, 1, 1), view.flip(-1), view) for view, flip in pairs)

    def distorted(self, batch: Batch, stage: Stage, corrupt: bool = True) -> tuple[Tensor, ...]:
        """T(.) of every view; no cutout and shuffling where nothing is restored (the released code's mode `di`)."""
        corrupt = corrupt and restores(stage)
        pairs = zip(batch.views, batch.distortions, strict=True)
        return tuple(self.distort(view, parameters, corrupt) for view, parameters in pairs)
