"""DINOv2 (Oquab et al. 2023, sec. 4): DINO with iBOT's masked patches (Zhou et al., ICLR 2022) and KoLeo."""

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from dira_scale.base.arguments import UNSHOWN, ArgumentError, AtLeast, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions import PatchMask
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import gather, rank
from dira_scale.train.losses.distillation import cross_entropy, koleo
from dira_scale.train.losses.gram import gram_loss, reduced
from dira_scale.train.methods.dino import DINO, GLOBAL, Centring, encoded, view_embedding
from dira_scale.train.methods.method import Terms, check_weights
from dira_scale.train.methods.pairs import check_accumulation
from dira_scale.train.methods.restoration import MASK, blocks_hidden
from dira_scale.train.models.dino_files import MASK_TOKEN
from dira_scale.train.models.momentum import ema_update, momentum_copy
from dira_scale.train.models.network import Encoder, Tokens

WEIGHTS: Mapping[str, float] = MappingProxyType({"di": 1.0, "ibot": 1.0, "koleo": 0.1})  # the released code's
GRAM = {"gram": 2.0}  # DINOv3, appendix C


class DINOv2(DINO):
    """DINO, whose student also tells what the teacher sees in patches that are hidden from the student.

    ``di``: DINO's loss. ``ibot``: a learnt token takes the
    places of hidden patches of the student's global views, and the student's token there must tell which prototypes the
    teacher sees in that patch: the mean of the cross-entropy over a view's hidden patches, then over views (0 of those
    without). ``koleo``: of the class tokens of each global view, the sum over both. Networks without a class token
    (``vit3d``) have the mean of their patch tokens in its place.
    ``gram``, with an ``anchor``: DINOv3's Gram anchor (Siméoni et al. 2025, sec. 4), in stages that name it. The cosine
    similarities of a student's patch tokens, hidden ones too, of each global view are held to those of the anchor, a
    copy of the encoder that is not trained. It sees the same view, or, where views repeat the global ones in another
    size (``ViewSpec.crops``, ``same_as``), these: crops of the same part of the stored image with more of its pixels.
    Its map is then reduced (sec. 4.3).

    The mask token decays as weights do, not as biases (released code). Different from that code: KoLeo, too, is over
    the whole batch, not within a process, so no term depends on the number of processes; prototypes keep their
    magnitude of 1 (theirs learn it); which views have hidden patches is drawn for each. As many patches of a process's
    views as the mask hides at most (``PatchMask.most``) go through the patches' head, of which those that are not
    hidden count for nothing: so no shape depends on what was drawn. At the defaults, where 15 % are hidden on average,
    these are 22 % of 256 views' patches, and 28 % of 64 views'.

    Args:
        weights: factors of the terms in the total.
        separate: whether patches have a head of their own (DINOv2, sec. 4: better at scale), or the class token's.
        anchor: ``start``: the network as it starts; ``teacher``: the teacher as it is at the first step of a stage with
            the term ``gram``, and again after every ``anchor_every`` steps of it; None: there is no such term.
        anchor_every: at least 1; None: the anchor stays.

    The other settings are DINO's.

    Raises ArgumentError also for a network without patches to hide, and for global views without a mask of these.
    """

    hides = True
    as_matrices = (MASK_TOKEN,)

    @checked
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
        centring: Centring = "sinkhorn",
        centre_momentum: float = 0.9,
        frozen: float = 0.01,
        frozen_encoder: float | None = None,
        batch_norm: bool = False,
        separate: bool = True,
        anchor: Literal["start", "teacher"] | None = None,
        anchor_every: Annotated[int, AtLeast(1)] | None = None,
    ) -> None:
        if encoder.patch is None:
            such = "vit3d" if views.dimensions == 3 else "vit_small_patch14_dinov2"
            expected = f"a vision transformer, such as {such}: {encoder.name} has no patches to hide"
            raise ArgumentError("encoder", UNSHOWN, expected)
        super().__init__(
            encoder, views, prototypes, hidden, bottleneck, student_temperature, teacher_temperature,
            first_temperature, warmup, momentum, centring, centre_momentum, frozen, frozen_encoder, batch_norm,
        )  # fmt: skip
        weights = GRAM | dict(weights)
        check_weights(weights, {**WEIGHTS, **GRAM})
        self.weights = {term: weight for term, weight in weights.items() if anchor or term not in GRAM}
        self.active = tuple(self.weights)
        self.anchor, self.anchored_to = momentum_copy(encoder) if anchor else None, anchor
        if anchor_every and anchor != "teacher":
            raise ArgumentError("anchor_every", anchor_every, "null: of anchors only teacher is renewed")
        self.anchor_every = anchor_every
        if anchor and views.drawn_as[-GLOBAL:] == tuple(range(GLOBAL)) and views.repeating == GLOBAL:
            self.repeating = GLOBAL
        masks = [view.corruptions.get(MASK) for view in views.each[:GLOBAL]]
        if not all(isinstance(mask, PatchMask) and mask.patch == encoder.patch for mask in masks):
            usual = f"configs/views/{'dinov2' if views.dimensions == 2 else 'dino3d'}.yaml"
            expected = f"of global views a mask of patches of {encoder.patch} pixels, those of {encoder.name}"
            raise ArgumentError("views.corruptions.mask", UNSHOWN, f"{expected}, as {usual} has")
        self.masks = [mask for mask in masks if isinstance(mask, PatchMask)]
        self.mask_token = nn.Parameter(torch.zeros(encoder.channels[-1]))
        if batch_norm and not separate:
            raise ArgumentError("separate", separate, "true: batch_norm is of the head of whole views alone")
        self.patch_head = self.new_head() if separate else None
        self.teacher_patch_head = momentum_copy(self.patch_head) if self.patch_head else None
        self.register_buffer("patch_centre", torch.zeros(prototypes) if centring == "softmax" else None)

    def identity(self, groups: int, terms: Collection[str]) -> dict[str, Any]:
        return super().identity(groups, terms) | {"mask_token_version": 2}  # it did not decay before

    def check(self, batch: int, accumulate: int) -> None:
        super().check(batch, accumulate)
        check_accumulation("DINOv2 with KoLeo", accumulate)
        if batch < 2:
            raise ArgumentError("batch", batch, "at least 2: KoLeo is of the distances between images")

    def enter_stage(self, terms: Sequence[str]) -> None:
        if "gram" in terms and self.anchor is None:
            raise ArgumentError("terms", [*terms], "terms without gram, or an anchor: start or teacher")
        super().enter_stage(terms)
        if self.patch_head:
            self.patch_head.requires_grad_("ibot" in self.active)
        else:
            self.head.requires_grad_(not {"di", "ibot"}.isdisjoint(self.active))

    def before_step(self) -> None:
        if self.anchor and self.anchored_to == "teacher" and "gram" in self.active:
            done = round(self.progress * self.steps)
            if done % (self.anchor_every or self.steps) == 0:
                ema_update(self.anchor.parameters(), self.teacher.parameters(), 1.0)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        seen = distorted[: len(distorted) - self.repeating]
        terms = super().forward(clean, seen, batch)
        if self.anchor and "gram" in self.active:
            views, size = distorted[len(seen) :] or seen[:GLOBAL], self._grid(seen[0])
            with torch.no_grad():
                anchors = encoded(self.anchor, views, finer=False)
            losses = []
            for features, anchor in zip(terms.features, anchors, strict=True):
                assert anchor.patches is not None
                of_student = features[:, :, -math.prod(size) :].mT
                losses.append(gram_loss(of_student, reduced(anchor.patches, self._grid(views[0]), size)))
            terms.losses["gram"] = torch.stack(losses).mean()
        return terms

    def _grid(self, view: Tensor) -> list[int]:
        assert self.encoder.patch is not None
        return [side // self.encoder.patch for side in view.shape[2:]]

    def hiding(self, batch: Batch, views: int) -> dict[str, Tensor]:
        masks = torch.stack([blocks_hidden(batch, view).flatten(1) for view in range(views)], 1)
        return {"hidden": masks.flatten(0, 1), "fill": self.mask_token}

    def distil(self, terms: Terms, student: Sequence[Tokens], teacher: Sequence[Tokens], batch: Batch) -> None:
        super().distil(terms, student, teacher, batch)
        if "ibot" in self.active:
            masks = torch.cat([blocks_hidden(batch, view).flatten(1) for view in range(GLOBAL)])
            terms.losses["ibot"] = self.of_patches(student, teacher, masks)
        if "koleo" in self.active:
            embeddings = [view_embedding(tokens) for tokens in student[:GLOBAL]]
            terms.losses["koleo"] = torch.stack([self.spread(of_view) for of_view in embeddings]).sum()
        terms.losses = {term: loss for term, loss in terms.losses.items() if term in self.active}

    def of_patches(self, student: Sequence[Tokens], teacher: Sequence[Tokens], mask: Tensor) -> Tensor:
        """iBOT's loss of the global views' hidden patches; ``mask``: bool [2 b, n], one view after the other."""
        slots = max(drawn.most(student[0].maps[0].shape[2:], len(mask)) for drawn in self.masks)
        rows = mask.flatten().to(torch.uint8).argsort(descending=True, stable=True)[:slots]  # hidden patches first
        of_student, of_teacher = (
            torch.cat([tokens.patches for tokens in views[:GLOBAL]]).flatten(0, 1)[rows]  # type: ignore[misc]
            for views in (student, teacher)
        )
        head = self.patch_head or self.head
        with torch.no_grad():
            _, logits = (self.teacher_patch_head or self.teacher_head)(of_teacher)
            targets = self.targets(logits, mask.flatten()[rows], "patch_centre")
        losses = cross_entropy(targets, head(of_student)[1], self.student_temperature)
        share = mask.to(losses.dtype) / mask.sum(1, keepdim=True).clamp(min=1)  # of a patch in its view's mean
        return (losses * share.flatten()[rows]).sum() / len(mask)

    def spread(self, features: Tensor) -> Tensor:
        """KoLeo of a view's ``features`` [b, dim] among those of all processes, in training."""
        if not self.training:
            return koleo(features) if len(features) > 1 else features.sum() * 0
        return koleo(features, gather(features), rank() * len(features))

    @property
    def averaged(self) -> list[tuple[nn.Module, nn.Module]]:
        more = [(self.patch_head, self.teacher_patch_head)] if self.patch_head and self.teacher_patch_head else []
        return super().averaged + more
