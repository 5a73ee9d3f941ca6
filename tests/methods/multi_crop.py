"""A method of several kinds of crops, as somebody would write their own: a student's every crop against a teacher's."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.views import ViewSpec
from dira_scale.losses.cosine import negative_cosine
from dira_scale.methods.method import Method, Terms
from dira_scale.models.heads import MLP, global_average
from dira_scale.models.momentum import ema_update
from dira_scale.models.network import Encoder

TARGET = f"{__name__}.MultiCrop"
CROPS = "[{count: 2, scale: [0.4, 1]}, {size: 32, count: 3, scale: [0.05, 0.4], blur: {p: 0.1}, cutout: {p: 0.0}}]"


class MultiCrop(Method):
    """Embeddings of all crops must be those that the teacher, a moving average, gives the first kind's others."""

    momentum_encoder = "teacher"

    def __init__(self, encoder: Encoder, views: ViewSpec, dim: int = 16, momentum: float = 0.9) -> None:
        super().__init__(views, weights={"di": 1.0})
        self.encoder, self.momentum = encoder, momentum
        self.projector = MLP(encoder.channels[-1], dim, dim)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.teacher_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        embeddings, first = list[Tensor](), 0
        for kind in self.views.entries:
            embeddings += embedded(self.encoder, self.projector, distorted[first : first + kind.count])
            first += kind.count
        with torch.no_grad():
            targets = embedded(self.teacher, self.teacher_projector, distorted[: self.views.entries[0].count])
        pairs = [
            negative_cosine(embedding, target)
            for i, embedding in enumerate(embeddings)
            for j, target in enumerate(targets)
            if i != j
        ]
        return Terms({"di": torch.stack(pairs).mean()}, embeddings=tuple(x.detach() for x in embeddings[:2]))

    @torch.no_grad()
    def after_step(self) -> None:
        student = [*self.encoder.parameters(), *self.projector.parameters()]
        teacher = [*self.teacher.parameters(), *self.teacher_projector.parameters()]
        ema_update(teacher, student, 1 - self.momentum)


def embedded(encoder: Encoder, projector: MLP, crops: Sequence[Tensor]) -> list[Tensor]:
    """The embeddings [b, dim] of ``crops`` of one size, in one pass: a BatchNorm group has all crops of its samples."""
    found = encoder.tokens(torch.stack([*crops], 1).flatten(0, 1))
    pooled = global_average(found.maps[-1]) if found.class_token is None else found.class_token
    return [*projector(pooled).unflatten(0, (-1, len(crops))).unbind(1)]
