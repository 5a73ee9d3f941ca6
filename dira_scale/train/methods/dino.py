"""Self-distillation with no labels (DINO: Caron et al., ICCV 2021), by convolutional networks and transformers."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.base.arguments import UNSHOWN, Above, ArgumentError, AtLeast, Within, checked
from dira_scale.base.machine.graphs import launch, number
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import Gathering, reduce_sum
from dira_scale.train.losses.distillation import centred_softmax, cross_entropy, one_process, sinkhorn_knopp
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.losses.prototypes import Targets
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_accumulation, note_matches
from dira_scale.train.models.heads import PrototypeHead, global_average
from dira_scale.train.models.momentum import ema_update, momentum_copy, rising
from dira_scale.train.models.network import Encoder, Tokens

GLOBAL = 2  # the first views, which the teacher sees; all others are local
UnitInterval = Annotated[float, Within(0, 1)]
Width = Annotated[int, AtLeast(1)]
Temperature = Annotated[float, Above(0)]
Centring = Literal["softmax", "sinkhorn"]


class DINO(Method):
    """From every crop a student must tell which prototypes a teacher sees in another, global crop of the same image.

    L = the mean over pairs of a global view and another view, of which the teacher sees the first and the student the
    second, of the cross-entropy between their softmaxes over prototypes (eq. 3; 2 V - 2 pairs of V views). The teacher
    is an exponential moving average of the student; its momentum grows from ``momentum`` to 1 by half a cosine over the
    stage. Against collapse its logits are centred by a moving average over batches and sharpened by a low temperature
    (sec. 3.1), or balanced over the batch by Sinkhorn-Knopp. What a view is as a whole is a transformer's class token,
    or the mean of the last map.

    Different from the released code: the centre moves once per optimizer step, whatever the micro-batches; while
    prototypes are frozen the optimizer sees their gradients, at a rate of 0 (as DINOv2's code).

    Monitors: ``teacher_entropy``, of a teacher's softmax, as a share of ln K: 1 if it says nothing; ``prototypes``,
    beside a first one, the share that is the teacher's first choice for a global view of the batch, of as many as could
    be: 0 if all views have the same; both tell collapse. ``centre_norm``, of softmax centring; ``top1`` and ``chance``
    of the student's embeddings of the two global views. Of held-out images, for transformers, ``patch_top1``
    (:func:`found_again`): whether features of patches keep their place, which those of DINOv3 lost as those of whole
    images became better (Siméoni et al. 2025, sec. 4.1).

    Args:
        prototypes: K, at least 2.
        hidden, bottleneck: widths of the head's hidden layers and of its embedding, at least 1.
        student_temperature: above 0.
        teacher_temperature: above 0, after a linear rise from ``first_temperature`` over the share ``warmup`` of the
            stage.
        momentum: of the teacher at the stage's start, 0 to 1.
        centring: ``softmax`` or ``sinkhorn``.
        centre_momentum: of the centre, 0 to 1.
        frozen: share of the stage at whose beginning the prototypes are not trained.
        frozen_encoder: share of the stage at whose beginning the heads alone are trained; None: 0.
        batch_norm: whether the head of whole views has BatchNorm, over all views of a group's samples.
        rises: how many temperatures that rise has, at least 2, from the first to the last; None: one at each step.

    Raises ArgumentError for settings outside their range, and unless there are two global views of one size.
    """

    trained_by_di = ("head",)
    gradient_views, resizes = GLOBAL, True
    momentum_encoder = exported = "teacher"  # the better one (sec. 5.2)
    encoder: Encoder
    teacher: Encoder
    centre: Tensor | None

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        prototypes: Annotated[int, AtLeast(2)] = 65536,
        hidden: Width = 2048,
        bottleneck: Width = 256,
        student_temperature: Temperature = 0.1,
        teacher_temperature: Temperature = 0.07,
        first_temperature: Temperature = 0.04,
        warmup: UnitInterval = 0.1,
        momentum: UnitInterval = 0.996,
        centring: Centring = "softmax",
        centre_momentum: UnitInterval = 0.9,
        frozen: UnitInterval = 0.0033,
        frozen_encoder: UnitInterval | None = None,
        batch_norm: bool = False,
        rises: Annotated[int, AtLeast(2)] | None = None,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_global(type(self).__name__, views)
        self.student_temperature = student_temperature
        self.temperatures, self.warmup, self.rises = (first_temperature, teacher_temperature), warmup, rises
        self.momentum = momentum
        self.centring, self.centre_momentum = centring, centre_momentum
        self.encoder, self.frozen_encoder = encoder, frozen_encoder or 0.0
        self.new_head = partial(PrototypeHead, encoder.channels[-1], hidden, bottleneck, prototypes, frozen)
        self.head = self.new_head(batch_norm)
        self.teacher, self.teacher_head = momentum_copy(self.encoder), momentum_copy(self.head)
        self.register_buffer("centre", torch.zeros(prototypes) if centring == "softmax" else None)
        # Of the teacher's logits in this step, by centre: sum and number [K + 1] of each micro-batch.
        self._logit_sums: dict[str, list[Tensor]] = {}

    def check(self, batch: int, accumulate: int) -> None:
        if self.centring == "sinkhorn":
            check_accumulation(f"{type(self).__name__} with Sinkhorn-Knopp", accumulate)

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        for layer in (self, *self.encoder.modules()):  # itself: a mask token
            vars(layer)["frozen_share"] = self.frozen_encoder if terms else 0.0  # for the optimizer's groups

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        student = encoded(self.encoder, distorted, self.finer, **self.hiding(batch, GLOBAL))
        features, student[:GLOBAL] = zip(*(as_single_map(self.encoder, view) for view in student[:GLOBAL]), strict=True)
        with torch.no_grad():
            teacher = encoded(self.teacher, distorted[:GLOBAL], finer=False)
        terms = Terms({}, pyramids=tuple(tokens.maps for tokens in student[:GLOBAL]), features=features)
        self.distil(terms, student, teacher, batch)
        alike = self.views.dimensions == 2 and self.views.target_flip == "with_input"  # both are mirrored
        if not self.training and alike and self.encoder.patch and clean[0].shape[2] > self.encoder.patch:
            terms.monitors["patch_top1"] = found_again(self.teacher, clean[0], distorted[0])
        return terms

    def pyramids(self, distorted: tuple[Tensor, ...], batch: Batch) -> tuple[list[Tensor], ...]:
        return tuple(map(pyramid, encoded(self.encoder, distorted, True, **self.hiding(batch, len(distorted)))))

    def hiding(self, batch: Batch, views: int) -> dict[str, Tensor]:
        """Return the arguments of the student's ``tokens`` that hide patches of the first ``views`` from it."""
        return {}

    def distil(self, terms: Terms, student: Sequence[Tokens], teacher: Sequence[Tokens], batch: Batch) -> None:
        """Add to ``terms`` the loss ``di`` of the student's views, and of the teacher's global ones, and the
        monitors."""
        embeddings, logits = self.head(view_embeddings(student))
        with torch.no_grad():
            _, teacher_logits = self.teacher_head(view_embeddings(teacher))
            targets = self.targets(teacher_logits).probabilities()  # few rows, each a target of several students'
        by_student = by_view(logits, len(student))
        terms.losses["di"] = across_views(by_view(targets, GLOBAL), by_student, self.student_temperature)
        first, second, *_ = by_view(embeddings, len(student))
        note_matches(terms, first, second, self.training)
        self.note_teacher(terms, targets)

    def targets(self, logits: Tensor, present: Tensor | None = None, name: str = "centre") -> Targets:
        """The teacher's probabilities by its ``logits`` [n, K], of which the rows that are ``present`` count: for the
        buffer ``name``, their centre, or, with Sinkhorn-Knopp, among those of all processes in training."""
        centre: Tensor | None = getattr(self, name)
        temperature = number(lambda: self.temperature, logits.device)
        if centre is None:
            return sinkhorn_knopp(logits, temperature, present, reduce_sum if self.training else one_process)
        if self.training:
            kept = logits if present is None else logits.masked_fill(~present[:, None], 0.0)
            count = centre.new_full((1,), len(logits)) if present is None else present.sum()[None].to(centre)
            self._logit_sums.setdefault(name, []).append(torch.cat([kept.sum(0, dtype=centre.dtype), count]))
        return centred_softmax(logits, centre, temperature)

    @torch.no_grad()
    def note_teacher(self, terms: Terms, targets: Tensor) -> None:
        """Add to the monitors what ``targets`` [n, K] say of collapse."""
        count = targets.shape[1]
        terms.monitors["teacher_entropy"] = torch.special.entr(targets).sum(1).mean() / math.log(count)
        if self.centre is not None:
            terms.monitors["centre_norm"] = self.centre.norm()
        note_prototypes(terms, targets, self.training)

    @torch.no_grad()
    def after_step(self) -> None:
        """teacher <- m teacher + (1 - m) student; centre <- c centre + (1 - c) mean of the teacher's logits."""
        assert self.training, "after_step follows a training step"
        student, teacher = (
            [p for part in parts for p in part.parameters()] for parts in zip(*self.averaged, strict=True)
        )
        launch(lambda: ema_update(teacher, student, 1.0 - rising(self.momentum, self.progress)))
        for name, sums in self._logit_sums.items():
            total, centre = reduce_sum(torch.stack(sums).sum(0)), self.get_buffer(name)
            mean = torch.where(total[-1] > 0, total[:-1] / total[-1], centre)
            centre.lerp_(mean.to(centre.dtype), 1 - self.centre_momentum)
        self._logit_sums.clear()

    @property
    def averaged(self) -> list[tuple[nn.Module, nn.Module]]:
        """Parts of the student, each with that of the teacher."""
        return [(self.encoder, self.teacher), (self.head, self.teacher_head)]

    @property
    def temperature(self) -> float:
        """The temperature of the teacher's softmax at this ``progress``."""
        first, last = self.temperatures
        if self.progress >= self.warmup:
            return last
        share = self.progress / self.warmup
        if self.rises:  # rounding must not hold an epoch's first step back
            share = math.floor(share * self.rises + 1e-6) / (self.rises - 1)
        return first + (last - first) * min(share, 1.0)


@torch.no_grad()
def found_again(encoder: Encoder, clean: Tensor, distorted: Tensor) -> Tensor:
    """Return the share of a ``clean`` view's patches that are found again by their tokens in the ``distorted`` one,
    moved by a quarter of its sides, with nothing where it was: of all patches there the nearest by cosine is the same.

    Args:
        clean, distorted: [b, 1, S, S], of at least 2 patches a side.
    """
    patch = encoder.patch
    assert patch is not None
    grid = clean.shape[2] // patch
    shift = max(1, grid // 4)
    moved = F.pad(distorted[:, :, shift * patch :, shift * patch :], (0, shift * patch, 0, shift * patch))
    tokens = [encoder.tokens(view, finer=False).patches for view in (clean, moved)]
    here, there = (F.normalize(at_least_float32(patches), dim=2) for patches in tokens if patches is not None)
    here = here.unflatten(1, (grid, grid))[:, shift:, shift:].flatten(1, 2)
    same = torch.arange(grid**2, device=clean.device).view(grid, grid)[:-shift, :-shift].flatten()
    return ((here @ there.mT).argmax(2) == same).float().mean()


def check_global(method: str, views: ViewSpec) -> None:
    """Raise ArgumentError unless ``method`` gets two global views, of one size, before others."""
    if views.count < GLOBAL or len({view.sides for view in views.each[:GLOBAL]}) > 1:
        expected = f"{GLOBAL} global crops of one size first, and local ones after, for {method}"
        raise ArgumentError("views", UNSHOWN, f"{expected}, as configs/views/dino.yaml has")


def encoded(encoder: Encoder, crops: Sequence[Tensor], finer: bool = True, **hidden: Tensor) -> list[Tokens]:
    """Encode each of ``crops`` [b, 1, *size]. Those of one size share a pass, global ones apart, sample by sample: a
    BatchNorm group has all crops of its samples. ``finer`` maps and ``hidden``, further arguments of the pass, are for
    global ones only.
    """
    by_crop: list[Tokens] = []
    for (is_global, _), numbers in groupby(range(len(crops)), lambda i: (i < GLOBAL, crops[i].shape[2:])):
        group = [crops[i] for i in numbers]
        stacked = torch.stack(group, 1).flatten(0, 1)
        tokens = encoder.tokens(stacked, finer=finer and is_global, **(hidden if is_global else {}))
        by_crop += split(tokens, len(group))
    return by_crop


def split(tokens: Tokens, count: int) -> list[Tokens]:
    """The tokens of each of ``count`` crops, of which every sample has all, one after another."""

    def parts(x: Tensor | None) -> list[Tensor | None]:
        return [None] * count if x is None else [*x.unflatten(0, (-1, count)).unbind(1)]

    maps = zip(*(parts(level) for level in tokens.maps), strict=True)
    rest = (parts(x) for x in (tokens.class_token, tokens.registers, tokens.patches))
    return [Tokens([*levels], *others) for levels, *others in zip(maps, *rest, strict=True)]


def pyramid(tokens: Tokens) -> list[Tensor]:
    """The maps as tensors of their own: FSDP2 warns of views that a module returns."""
    return [level.clone() if level.requires_grad else level for level in tokens.maps]


def as_single_map(encoder: Encoder, tokens: Tokens) -> tuple[Tensor, Tokens]:
    """Return the encoder's output for a view as one map, where monitors compare the gradients of all terms: class and
    patch tokens [b, dim, 1 + n], or the last of the maps. Also return ``tokens``, taken from that map."""
    *finer, last = pyramid(tokens)
    if tokens.patches is None:
        return last, replace(tokens, maps=[*finer, last])
    first = [] if tokens.class_token is None else [tokens.class_token[:, :, None]]
    joined = torch.cat([*first, tokens.patches.mT], 2)
    patches = joined[:, :, len(first) :].mT
    maps = [*finer, encoder.coarsest(patches, finer[0].shape[2:]).clone()]
    return joined, replace(tokens, maps=maps, class_token=joined[:, :, 0] if first else None, patches=patches)


def view_embedding(tokens: Tokens) -> Tensor:
    """Return the embedding of the complete view [b, dim]: the class token, or the mean of the last map."""
    return global_average(tokens.maps[-1]) if tokens.class_token is None else tokens.class_token


def view_embeddings(views: Sequence[Tokens]) -> Tensor:
    """Return the embeddings of ``views``, [b V, dim], sample by sample: a BatchNorm group has all of its samples'."""
    return torch.stack([view_embedding(tokens) for tokens in views], 1).flatten(0, 1)


def projected(encoder: Encoder, projector: nn.Module, crops: Sequence[Tensor], finer: bool) -> tuple[Terms, Tensor]:
    """Return terms with the global crops' maps, and the embeddings of all V ``crops`` [V, b, dim], by ``projector``."""
    views = encoded(encoder, crops, finer)
    features, views[:GLOBAL] = zip(*(as_single_map(encoder, view) for view in views[:GLOBAL]), strict=True)
    embeddings = at_least_float32(projector(view_embeddings(views))).unflatten(0, (-1, len(views))).transpose(0, 1)
    return Terms({}, pyramids=tuple(view.maps for view in views[:GLOBAL]), features=features), embeddings


def by_view(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """The rows of each of ``count`` views: undoes :func:`view_embeddings`."""
    return x.unflatten(0, (-1, count)).unbind(1)


def across_views(targets: Sequence[Tensor], logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the mean, over pairs of a view with a target [b, K] and another view with logits [b, K], of their
    cross-entropy. It is linear in its target, so a view's targets are added up first."""
    losses = []
    for view, of_view in enumerate(logits):
        others = [target for other, target in enumerate(targets) if other != view]
        losses.append(cross_entropy(sum(others[1:], others[0]), of_view, temperature).mean())
    return torch.stack(losses).sum() / (len(targets) * (len(logits) - 1))


@torch.no_grad()
def note_prototypes(terms: Terms, targets: Tensor, training: bool) -> None:
    """Add to the monitors ``prototypes``: the :func:`share_used` by ``targets`` [n, K], in training of all
    processes."""
    chosen, count = targets.argmax(1), targets.shape[1]
    if not training:
        terms.monitors["prototypes"] = share_used(chosen, count)
        return
    all_chosen = Gathering(chosen)
    terms.deferred.append(lambda: {"prototypes": share_used(all_chosen.wait(), count)})


def share_used(chosen: Tensor, count: int) -> Tensor:
    """Return how many of ``count`` prototypes are among ``chosen`` int64 [n] beside a first one, of as many as could
    be: 0 if all are one, whatever n."""
    used = torch.zeros(count, device=chosen.device).index_fill_(0, chosen, 1.0)
    return (used.sum() - 1) / max(1, min(count, len(chosen)) - 1)
