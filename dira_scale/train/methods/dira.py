"""DiRA: discriminative, restorative and adversarial learning in one network (Haghighi et al., CVPR 2022, sec. 3)."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dira_scale.base.arguments import UNSHOWN, ArgumentError, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.losses.restoration import RESTORATION_LOSSES, hidden_mean
from dira_scale.train.methods.method import Method, Terms, check_weights
from dira_scale.train.methods.restoration import MASK, hidden_voxels, mask_blocks, of_known
from dira_scale.train.models.network import Network

PAPER_WEIGHTS = MappingProxyType({"di": 1.0, "re": 10.0, "ad": 0.001})
RESTORED_VIEWS = MappingProxyType({"first": 1, "both": 2})


class DiRA(Method):
    """L = w_di L_di + w_re L_re + w_ad L_ad around any discriminative ``base`` that returns its feature pyramids.

    One encoder pass feeds both the base's head and the decoder. The decoder restores the first view, or both if the
    base learns from both: distorted in, clean (with the same flip) out. L_ad is the adversary's loss on
    ``Terms.restored``; the training loop adds it. L_di is the base's loss, or the sum of several by its own weights,
    which stay terms of their own: of DINOv2 also ``ibot`` and ``koleo``.

    With ``restoration=mask`` L_re is the mean over each sample's hidden voxels, then over samples (with ``both``, of
    each view by its own mask; 0 of a view without). The adversary judges the whole picture, as in inpainting (Iizuka et
    al., SIGGRAPH 2017): outside the blocks the decoder's output is untrained, and alone they do not show whether they
    fit their surroundings, which are those that the encoder saw in restored and clean pictures alike. Gradients reach
    hidden voxels only. Masks apply to all views, so MoCo's keys are of masked views, too, but not DINOv2's teacher,
    which sees the patches that a learnt token hides from its student.

    Around DINO and DINOv2, whose global views are restored, it is ours: no paper has it. The nearest, SMIT (Jiang et
    al., MICCAI 2022), adds the pixels of hidden patches to self-distillation, without an adversary.

    Where the paper leaves a choice: one encoder pass per view feeds head and decoder, as released. The momentum encoder
    has no decoder, as its output would not be used. Equation 6 compares SimSiam's head output with an encoder output;
    here the predictor's output is compared with the projector's, as in SimSiam's own equation.

    Different from the released code under every preset: the blur is a Gaussian with mirrored edges, theirs Pillow's
    three box filters, up to 22 of 255 grey levels apart at the edges. BatchNorm's running statistics move once a step;
    in the code of SimSiam and Barlow Twins they move once a view, so their momentum acts twice a step. All other
    arithmetic agreed when their functions were run on the same tensors.

    Args:
        weights: of the terms, at least 0; a term with weight 0 is computed but not learnt.
        restoration: distance between restored and clean: ``mse`` or ``l1``; or ``mask``: the squared error of what the
            views' mask hides; restored and clean are then the distorted view with that filled in.
        restore: ``first`` or ``both`` views; the losses of both are averaged.

    Raises ArgumentError for an unknown or missing weight, an unknown option, a base that restores views itself,
    ``both`` with a base of one view, or ``mask`` with views that have none.
    """

    decoder: nn.Module

    @checked
    def __init__(
        self,
        base: Method,
        network: Network,
        weights: Mapping[str, float] = PAPER_WEIGHTS,
        restoration: Literal["mse", "l1", "mask"] = "mse",
        restore: Literal["first", "both"] = "first",
    ) -> None:
        check_weights(weights, PAPER_WEIGHTS)
        own = {term: weight for term, weight in weights.items() if term != "di"}
        super().__init__(base.views, {term: weights["di"] * weight for term, weight in base.weights.items()} | own)
        if not base.gradient_views:
            expected = f"a method of whole views, which DiRA restores: {type(base).__name__} encodes patches"
            raise ArgumentError("base", UNSHOWN, expected)
        if not own.keys().isdisjoint(base.weights):
            expected = f"a method that restores nothing: {type(base).__name__} restores views itself"
            raise ArgumentError("base", UNSHOWN, expected)
        if RESTORED_VIEWS[restore] > base.gradient_views:
            expected = f"first, or a base of two views, such as SimSiam: {type(base).__name__} learns from one"
            raise ArgumentError("restore", restore, expected)
        if restoration == MASK:
            for view in base.views.each[: RESTORED_VIEWS[restore]]:
                mask_blocks(view, base.hides)
        assert network.encoder is base.encoder, "the decoder belongs to the base's encoder"
        self.base, self.corrupted, self.hides, self.repeating = base, base.corrupted, base.hides, base.repeating
        self.decoder, self.head = network.decoder, network.head
        self.restoration_loss = RESTORATION_LOSSES.get(restoration)
        self.restored_views = RESTORED_VIEWS[restore]
        base.finer = True

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        return self.base.encoder

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        self.base.enter_stage(self._of_base(terms))
        self.base.finer = self._restores
        self.decoder.requires_grad_(self._restores)
        self.head.requires_grad_(self._restores)

    def identity(self, groups: int, terms: Collection[str]) -> dict[str, Any]:
        return super().identity(groups, terms) if self._of_base(terms) else {}  # otherwise the base idles

    def remarks(self, batch: int, groups: int, terms: Collection[str]) -> list[str]:
        return super().remarks(batch, groups, terms) if self._of_base(terms) else []

    def _of_base(self, terms: Collection[str]) -> list[str]:
        return [term for term in terms if term in self.base.weights]

    @property
    def _restores(self) -> bool:
        return "re" in self.active or "ad" in self.active

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        if self._of_base(self.active):
            terms = self.base(clean, distorted, batch)
        else:
            terms = Terms({}, pyramids=self.base.pyramids(distorted[: self.restored_views], batch))
        if self._restores:
            self._restore(terms, clean, distorted, batch)
        return terms

    def _restore(self, terms: Terms, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> None:
        views, loss = range(self.restored_views), self.restoration_loss
        target = torch.cat(clean[: self.restored_views])
        logits = [self.head(self.decoder(terms.pyramids[view])) for view in views]
        restored = torch.sigmoid(torch.cat(logits).to(target.dtype))
        restored = of_known(restored, target, batch, self.restored_views)
        if loss is None:  # a mask
            hidden = torch.cat([hidden_voxels(batch, view, target.shape[2:]) for view in views])
            visible = torch.cat(distorted[: self.restored_views])
            restored, target = (torch.where(hidden, image, visible) for image in (restored, target))
        terms.restored, terms.target = restored, target
        if "re" in self.active:
            terms.losses["re"] = loss(restored, target) if loss else hidden_mean((restored - target).square(), hidden)

    def before_step(self) -> None:
        self.base.progress, self.base.steps = self.progress, self.steps
        if self._of_base(self.active):
            self.base.before_step()

    def after_step(self) -> None:
        if self._of_base(self.active):
            self.base.after_step()
