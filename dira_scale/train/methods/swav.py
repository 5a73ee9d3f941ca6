"""SwAV (Caron et al., NeurIPS 2020), a base that is not in DiRA's paper: clusters of one view predicted from others."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Within, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import Gathering, rank, reduce_sum, world
from dira_scale.train.losses.distillation import one_process, sinkhorn_knopp
from dira_scale.train.methods.dino import (
    GLOBAL,
    across_views,
    check_global,
    encoded,
    note_prototypes,
    projected,
    pyramid,
)
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_accumulation, note_matches
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.momentum import local_shard
from dira_scale.train.models.network import Encoder


class SwAV(Method):
    """Every view must tell to which prototypes another, global view of its image is assigned.

    L = the mean over pairs of a global view s and another view t of -sum_k q_sk log softmax(z_t·c / temperature)_k: z
    is a view's embedding, c_k a trained prototype, all of unit length (eqs. 1, 2 and 6; 2 V - 2 pairs of V views). The
    assignments q_s of all images are exp(z_s·c / epsilon) balanced by Sinkhorn-Knopp, so that no prototype takes all
    (eqs. 3 to 5): over the **global** batch in training, in evaluation over the current one. So steps cannot accumulate
    micro-batches, and validation losses compare at the same ``validate.batch`` only.

    A batch of fewer images than prototypes cannot be divided among them. Then a queue helps, of the embeddings of the
    global views of the last batches: they are assigned with this one's, but predicted no more (sec. 3.1).

    Different from the released code: while prototypes are frozen the optimizer sees their gradients, at a rate of 0.

    Monitors: ``prototypes``, as DINO's; ``top1`` and ``chance`` of the embeddings of the two global views.

    Args:
        prototypes: K, at least 2.
        dim: the embedding's length, at least 1; ``hidden``: width of the projector's hidden layer.
        temperature: of the softmax, above 0.
        epsilon: of the assignments, above 0: the lower, the less they are spread over prototypes.
        queue: embeddings kept of each global view, a multiple of the global batch; None: none.
        queue_start: share of the stage after which the queue is filled; it counts once it is full.
        frozen: share of the stage at whose beginning the prototypes are not trained.

    Raises ArgumentError for settings outside their range, and unless there are two global views of one size.
    """

    trained_by_di = ("projector", "prototypes")
    gradient_views = GLOBAL
    sets_parameters = True
    encoder: Encoder
    queue: Tensor | None

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        prototypes: Annotated[int, AtLeast(2)] = 3000,
        dim: Annotated[int, AtLeast(1)] = 128,
        hidden: Annotated[int, AtLeast(1)] = 2048,
        temperature: Annotated[float, Above(0)] = 0.1,
        epsilon: Annotated[float, Above(0)] = 0.05,
        queue: Annotated[int, AtLeast(1)] | None = None,
        queue_start: Annotated[float, Within(0, 1)] = 0.0375,
        frozen: Annotated[float, Within(0, 1)] = 0.0025,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_global("SwAV", views)
        self.temperature, self.epsilon, self.queue_start = temperature, epsilon, queue_start
        self.launched = "SwAV's queue begins within a stage" if queue else ""
        self.encoder = encoder
        self.projector = MLP(encoder.channels[-1], hidden, dim)
        self.prototypes = nn.Parameter(F.normalize(nn.Linear(dim, prototypes, bias=False).weight.detach(), dim=1))
        self.frozen_share = frozen  # of the parameters that are its own, for the optimizer's groups
        # The newest first; rows of 0 are not filled yet.
        self.register_buffer("queue", torch.zeros(GLOBAL, queue, dim) if queue else None)
        self._new: Gathering | None = None  # this step's, [B, 2, dim]

    def check(self, batch: int, accumulate: int) -> None:
        check_accumulation("SwAV", accumulate)
        if self.queue is not None and (length := self.queue.shape[1]) % batch:
            expected = f"a multiple of the batch of {batch}, such as {max(1, round(length / batch)) * batch}, or null"
            raise ArgumentError("queue", length, expected)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        terms, embeddings = projected(self.encoder, self.projector, distorted, self.finer)
        with torch.autocast(embeddings.device.type, enabled=False):
            z = F.normalize(embeddings, dim=2)
            logits = (z @ self.prototypes.T).unbind()
            assigned = [self.assignments(view, logits[view]) for view in range(GLOBAL)]
            terms.losses["di"] = across_views(assigned, logits, self.temperature)
        first, second = z[:GLOBAL].detach().unbind()
        if self._queues:
            self._new = Gathering(z[:GLOBAL].transpose(0, 1))
        note_matches(terms, first, second, self.training)
        note_prototypes(terms, torch.cat(assigned), self.training)
        return terms

    @property
    def _queues(self) -> bool:
        return self.training and self.queue is not None and self.progress >= self.queue_start

    @torch.no_grad()
    def assignments(self, view: int, logits: Tensor) -> Tensor:
        """The q of a global ``view`` whose ``logits`` [b, K] are cosines: [b, K], each row a probability."""
        rows, counted = logits, None
        if self._queues:
            assert self.queue is not None
            kept = self.queue[view].chunk(world())[rank()]  # each process has a part, as of the batch
            rows = torch.cat([kept @ self.prototypes.T, logits])
            full = self.queue[view, -1].any()
            counted = torch.cat([full.expand(len(kept)), full.new_ones(len(logits))])
        total = reduce_sum if self.training else one_process
        return sinkhorn_knopp(rows, self.epsilon, counted, total).probabilities()[-len(logits) :]

    def pyramids(self, distorted: tuple[Tensor, ...], batch: Batch) -> tuple[list[Tensor], ...]:
        return tuple(map(pyramid, encoded(self.encoder, distorted)))

    @torch.no_grad()
    def after_step(self) -> None:
        """Prototypes become of unit length again; then this step's embeddings replace the queue's oldest."""
        assert self.training, "after_step follows a training step"
        own = local_shard(self.prototypes)  # of whole prototypes
        own.copy_(F.normalize(own, dim=1))
        if self.queue is not None and self._new is not None:
            new = self._new.wait().transpose(0, 1)
            self.queue.copy_(torch.cat([new, self.queue[:, : -new.shape[1]]], 1))
            self._new = None
