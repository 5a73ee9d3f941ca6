"""DiRA: discriminative, restorative and adversarial learning in one network (Haghighi et al., CVPR 2022, sec. 3)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.errors import UserError
from dira_scale.methods.method import Method, Terms
from dira_scale.methods.restoration import restoration_loss
from dira_scale.models.unet import UNet

PAPER_WEIGHTS = MappingProxyType({"di": 1.0, "re": 10.0, "ad": 0.001})


class DiRA(Method):
    """L = w_di L_di + w_re L_re + w_ad L_ad around any discriminative ``base`` that shows its feature pyramid.

    One encoder pass feeds both the base's head and the decoder, which restores the first view: distorted in, clean (and
    flipped alike) out. L_ad is the adversary's judgement of ``Terms.restored``; the loop adds it.

    Raises ``UserError`` for an unknown or a missing weight.
    """

    decoder: nn.Module

    def __init__(self, base: Method, unet: UNet, weights: Mapping[str, float] = PAPER_WEIGHTS) -> None:
        super().__init__(base.views, dict(weights))
        if set(weights) != set(PAPER_WEIGHTS):
            raise UserError(f"method.weights: needs di, re and ad, got {', '.join(weights) or 'nothing'}")
        assert unet.encoder is base.encoder, "the decoder belongs to the base's encoder"
        self.base = base
        self.decoder, self.head = unet.decoder, unet.head

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        return self.base.encoder

    def check(self, batch: int, accumulate: int) -> None:
        self.base.check(batch, accumulate)

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        self.base.enter_stage(["di"] if self._discriminates else [])
        self.decoder.requires_grad_(self._restores)
        self.head.requires_grad_(self._restores)

    @property
    def _discriminates(self) -> bool:
        return "di" in self.active

    @property
    def _restores(self) -> bool:
        return "re" in self.active or "ad" in self.active

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        if self._discriminates:
            terms = self.base(clean, distorted, batch)
        else:
            terms = Terms({}, pyramids=(self.encoder(distorted[0]),))
        if self._restores:
            terms.target = clean[0]
            terms.restored = torch.sigmoid(self.head(self.decoder(terms.pyramids[0])).to(terms.target.dtype))
        if "re" in self.active:
            terms.losses["re"] = restoration_loss(terms.restored, terms.target)
        return terms

    def after_step(self) -> None:
        if self._discriminates:
            self.base.after_step()
