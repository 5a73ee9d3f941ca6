"""DINOv2 (Oquab et al. 2023, sec. 4): DINO with iBOT's masked patches (Zhou et al., ICLR 2022) and KoLeo."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.distort.corruptions import BlockwiseMask
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.collectives import gather, rank
from dira_scale.errors import UserError
from dira_scale.losses.distillation import cross_entropy, koleo
from dira_scale.losses.restoration import hidden_mean
from dira_scale.methods.dino import DINO, GLOBAL, encoded, pyramid
from dira_scale.methods.method import Terms, check_weights
from dira_scale.methods.restoration import MASK, blocks_hidden
from dira_scale.models.momentum import momentum_copy
from dira_scale.models.network import Encoder, Tokens, taken
from dira_scale.models.vit import PlainEncoder

WEIGHTS: Mapping[str, float] = MappingProxyType({"di": 1.0, "ibot": 1.0, "koleo": 0.1})  # the released code's


class DINOv2(DINO):
    """DINO, whose student also tells what the teacher sees in patches that are hidden from the student.

    ``di``: DINO's loss; the teacher's class tokens are balanced by Sinkhorn-Knopp. ``ibot``: a learnt token takes the
    places of hidden patches of the student's global views, and the student's token there must tell which prototypes the
    teacher sees in that patch: the mean of the cross-entropy over a view's hidden patches, then over views (0 of those
    without). ``koleo``: of the class tokens of each global view, the sum over both.

    Different from the released code: KoLeo, too, is over the whole batch, not within a process, so no term depends on
    the number of processes; prototypes keep their magnitude of 1 (theirs learn it); which views have hidden patches is
    drawn for each. As many patches of each view as the mask hides at most go through the heads, of which those that are
    not hidden count for nothing: so no shape depends on what was drawn. At the defaults these are half of all patches
    where 15 % are hidden on average, so the patches' heads and targets cost 3.3 times as much as they must.

    Args:
        weights: factors of the terms in the total.
        separate: whether patches have a head of their own (DINOv2, sec. 4: better at scale), or the class token's.

    The other settings are DINO's.

    Raises ``UserError`` also for a network without class and patch tokens, and for global views without a mask of its
    patches.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        weights: Mapping[str, float] = WEIGHTS,
        prototypes: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        first_temperature: float = 0.04,
        warmup: float = 0.3,
        momentum: float = 0.992,
        frozen: float = 0.01,
        frozen_encoder: float | None = None,
        separate: bool = True,
    ) -> None:
        if not (isinstance(encoder, PlainEncoder) and encoder.has_class_token):
            raise UserError(
                f"DINOv2: {encoder.name} has no class token and patches to hide; use a vision transformer, such as "
                "model.encoder=vit_small_patch14_dinov2"
            )
        super().__init__(
            encoder, views, prototypes, hidden, bottleneck, student_temperature, teacher_temperature,
            first_temperature, warmup, momentum, "sinkhorn", frozen=frozen,
            frozen_encoder=frozen_encoder,
        )  # fmt: skip
        check_weights(weights, WEIGHTS)
        self.weights, self.active = dict(weights), tuple(weights)
        masks = [each.corruptions.get(MASK) for each in views.each[:GLOBAL]]
        if not all(isinstance(mask, BlockwiseMask) and mask.patch == encoder.patch for mask in masks):
            raise UserError(
                f"DINOv2: the global views need a BlockwiseMask of patches of {encoder.patch} pixels, those of "
                f"{encoder.name}; use views=dinov2 views.corruptions.mask.patch={encoder.patch}"
            )
        self.most = max(mask.most(views.sides) for mask in masks if isinstance(mask, BlockwiseMask))
        self.mask_token = nn.Parameter(torch.zeros(encoder.channels[-1]))
        self.patch_head = self.new_head() if separate else None
        self.teacher_patch_head = momentum_copy(self.patch_head) if self.patch_head else None

    def check(self, batch: int, accumulate: int) -> None:
        super().check(batch, accumulate)
        if batch < 2:
            raise UserError(f"data.batch={batch}: KoLeo is of the distances between images; use at least 2")

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        self.mask_token.requires_grad_("ibot" in self.active)
        if self.patch_head:
            self.patch_head.requires_grad_("ibot" in self.active)
        else:
            self.head.requires_grad_(not {"di", "ibot"}.isdisjoint(self.active))

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        masks = torch.stack([blocks_hidden(batch, view).flatten(1) for view in range(GLOBAL)], 1).flatten(0, 1)
        hidden = {"hidden": masks, "fill": self.mask_token} if "ibot" in self.active else {}
        student = encoded(self.encoder, distorted, **hidden)
        maps, student[:GLOBAL] = zip(*map(as_one, student[:GLOBAL]), strict=True)
        with torch.no_grad():
            teacher = encoded(self.teacher, distorted[:GLOBAL])
        terms = Terms({}, pyramids=tuple(map(pyramid, student[:GLOBAL])))
        self.distil(terms, student, teacher)
        terms.features = maps
        if "ibot" in self.active:
            terms.losses["ibot"] = self.of_patches(student, teacher, masks.unflatten(0, (-1, GLOBAL)).unbind(1))
        if "koleo" in self.active:
            terms.losses["koleo"] = torch.stack([self.spread(tokens) for tokens in student[:GLOBAL]]).sum()
        terms.losses = {term: loss for term, loss in terms.losses.items() if term in self.active}
        return terms

    def of_patches(self, student: Sequence[Tokens], teacher: Sequence[Tokens], masks: Sequence[Tensor]) -> Tensor:
        """iBOT's loss of the global views' hidden patches; ``masks``: bool [b, n] of each."""
        mask = torch.cat([*masks])
        slots = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : self.most]
        present = mask.gather(1, slots)
        seen, shown = (
            taken(torch.cat([tokens.patches for tokens in views[:GLOBAL]]), slots).flatten(0, 1)  # type: ignore[misc]
            for views in (student, teacher)
        )
        head = self.patch_head or self.head
        with torch.no_grad():
            targets = self.targets((self.teacher_patch_head or self.teacher_head)(shown)[1], present.flatten())
        losses = cross_entropy(targets, head(seen)[1], self.student_temperature)
        return hidden_mean(losses.view(present.shape)[:, None], present[:, None])

    def spread(self, tokens: Tokens) -> Tensor:
        """KoLeo of a view's class tokens among those of all processes, in training."""
        features = tokens.class_token
        assert features is not None
        if not self.training:
            return koleo(features) if len(features) > 1 else features.sum() * 0
        return koleo(features, gather(features), rank() * len(features))

    @property
    def averaged(self) -> list[tuple[nn.Module, nn.Module]]:
        more = [(self.patch_head, self.teacher_patch_head)] if self.patch_head and self.teacher_patch_head else []
        return super().averaged + more


def as_one(tokens: Tokens) -> tuple[Tensor, Tokens]:
    """Class and patch tokens as one map [b, dim, 1 + n], and the tokens as parts of it: where monitors compare the
    gradients of all terms."""
    assert tokens.class_token is not None and tokens.patches is not None
    joined = torch.cat([tokens.class_token[:, :, None], tokens.patches.mT], 2)
    return joined, replace(tokens, class_token=joined[:, :, 0], patches=joined[:, :, 1:].mT)
