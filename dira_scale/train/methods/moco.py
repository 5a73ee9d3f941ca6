"""Momentum contrast (He et al., CVPR 2020), version 2: DiRA's discrimination task (eq. 5)."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Within, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import Exchange, Gathering, rank, world
from dira_scale.train.losses.info_nce import info_nce
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.pairs import check_pair, top1
from dira_scale.train.methods.shuffle import VERSION, KeyShuffle, ShuffleKind, leak_line
from dira_scale.train.models import norm
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.momentum import ema_update, momentum_copy
from dira_scale.train.models.network import Encoder

EMPTY = 2**30  # steps


class MoCo(Method):
    """A view must find the other view of its image among the views of many other images.

    The query is the first view's embedding, its positive key the second view's by the key encoder. Negatives are keys
    of earlier batches in a first-in-first-out ``queue`` [K, dim]. Gradients reach the query encoder only; the key
    encoder is an exponential moving average of its parameters, fp32. There is no decoder.

    Monitors: ``top1``, the share of queries whose best match among the keys of this (micro-)batch, in training of all
    processes, is their own; ``chance``; ``queue_fresh``, the share of keys younger than 1 / (1 - momentum) steps, in
    which the key encoder drifts: older keys mislead. (At the paper's settings all are younger after 256 steps; of
    65,536 keys and batches of 16 a quarter is.) The loss misleads at first: it falls while the queue is random, then
    rises towards ln(K + 1) as keys replace it.

    Args:
        dim: the embedding's length, at least 1.
        queue: keys kept, K: a multiple of the global batch.
        temperature: of the softmax over similarities, above 0.
        momentum: of the key encoder, 0 to 1.
        batch_norm: whether the projector's hidden layer, as wide as the encoder's last map, has BatchNorm: short runs
            on small batches need it to learn.
        shuffle: of the images before the key encoder, if there are several BatchNorm groups: within ``blocks`` of 8
            groups, or over the whole ``batch`` (``dira_scale.train.methods.shuffle``).
    """

    trained_by_di: ClassVar[tuple[str, ...]] = ("projector",)
    momentum_encoder = "key_encoder"
    queue: Tensor
    queue_pointer: Tensor
    queue_age: Tensor
    projector: MLP
    key_projector: MLP

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: Annotated[int, AtLeast(1)] = 128,
        queue: Annotated[int, AtLeast(1)] = 65536,
        temperature: Annotated[float, Above(0)] = 0.2,
        momentum: Annotated[float, Within(0, 1)] = 0.999,
        batch_norm: bool = False,
        shuffle: ShuffleKind = "blocks",
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_pair("MoCo", views)
        self.temperature, self.momentum, self.shuffle = temperature, momentum, KeyShuffle(shuffle)
        self.launched = "shuffle=batch draws on the host" if shuffle == "batch" else ""
        self.encoder = encoder
        self.projector = self.new_projector(encoder.channels[-1], dim, batch_norm)
        self.key_encoder, self.key_projector = momentum_copy(self.encoder), momentum_copy(self.projector)
        self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=1))
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.long))
        # Age of each key in steps, for the monitor; the initial random keys are older than any.
        self.register_buffer("queue_age", torch.full((queue,), EMPTY, dtype=torch.int32))
        # Keys of this step's micro-batches, each [W·b, n, dim] with n keys of an image.
        self._waiting: list[Gathering] = []

    def new_projector(self, channels: int, dim: int, batch_norm: bool) -> MLP:
        """Return the head on the encoder's ``channels``."""
        return MLP(channels, channels, dim, batch_norm=batch_norm)

    def check(self, batch: int, accumulate: int) -> None:
        if len(self.queue) % batch:
            multiple = max(1, round(len(self.queue) / batch)) * batch
            expected = f"a multiple of the batch of {batch}, such as {multiple}, or a batch that divides it"
            raise ArgumentError("queue", len(self.queue), expected)
        self.check_groups(accumulate)

    def check_groups(self, accumulate: int) -> None:
        """Raise ArgumentError if a micro-batch is a single one of several BatchNorm groups."""
        groups = norm.groups(self)
        if groups > 1 and groups // accumulate < 2:
            raise ArgumentError("accumulate", accumulate, f"at most {groups // 2}, or bn_groups of at least "
                                f"{2 * accumulate}: a micro-batch would be one of {groups} BatchNorm groups, whose "
                                "statistics leak a query's key")  # fmt: skip

    def identity(self, groups: int, terms: Collection[str]) -> dict[str, Any]:
        blocks = self.shuffle.kind == "blocks" and groups > 1 and norm.first_layer(self)
        return {"shuffle_version": VERSION} if blocks else {}

    def remarks(self, batch: int, groups: int, terms: Collection[str]) -> list[str]:
        if norm.first_layer(self) is None:
            return []
        lines = [leak_line(self.shuffle.kind, batch, groups)]
        if groups < world() <= batch // 2:  # what norm.spanning_lines names
            lines.append(f"with groups on one process, {leak_line(self.shuffle.kind, batch, world())}")
        return lines

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        self.shuffle.enter_stage()

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        pyramid = self.encoder(distorted[0])
        queries = self.unit(self.projector(pyramid[-1]))
        keys = self.unit(self.keys(distorted[1], batch.step))
        losses = {"di": info_nce(queries, keys, self.queue, self.temperature)}
        terms = Terms(losses, pyramids=(pyramid,), embeddings=(queries.detach(), keys))
        self.enqueue(terms, queries.detach(), keys[:, None])
        return terms

    @torch.no_grad()
    def after_step(self) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q; then this step's keys replace the oldest, in global-batch order."""
        assert self.training and self._waiting, "after_step follows a training step"
        query = [*self.encoder.parameters(), *self.projector.parameters()]
        key = [*self.key_encoder.parameters(), *self.key_projector.parameters()]
        ema_update(key, query, 1.0 - self.momentum)
        # A rank's part of the global batch is its micro-batches one after another.
        parts = [waiting.wait().unflatten(0, (world(), -1)) for waiting in self._waiting]
        keys = torch.cat(parts, dim=1).flatten(0, 1).transpose(0, 1).flatten(0, 1)
        self._waiting.clear()
        slots = (self.queue_pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[slots] = keys
        self.queue_age += 1
        self.queue_age.index_fill_(0, slots, 0)  # assigning 0 would copy it from the host and synchronise
        self.queue_pointer.copy_((self.queue_pointer + len(keys)) % len(self.queue))

    def enqueue(self, terms: Terms, queries: Tensor, keys: Tensor, positive: int = 0) -> None:
        """Send ``keys`` [b, n, dim] to all processes' queues, in training, and add the monitors to ``terms``.

        Args:
            positive: which of the n is that of the query.
        """
        terms.monitors["queue_fresh"] = (self.queue_age < min(1 / max(1 - self.momentum, 1e-9), EMPTY)).float().mean()
        if not self.training:
            terms.monitors |= top1(queries, keys[:, positive], 0)
            return
        all_keys, start = Gathering(keys), rank() * len(queries)
        self._waiting.append(all_keys)
        terms.deferred.append(lambda: top1(queries, all_keys.wait()[:, positive], start))

    @torch.no_grad()
    def keys(self, images: Tensor, step: int) -> Tensor:
        """The keys [b, dim] of ``images`` [b, 1, *size], not of unit length.

        With several BatchNorm groups, a query and its key must not be normalised among the same images, because the
        statistics would leak the answer: images are shuffled first, and their keys sent back.
        """
        exchange = self.exchange(images, step)
        embedded: Tensor = self.key_projector(self.key_encoder(exchange(images) if exchange else images)[-1])
        return exchange.back(embedded) if exchange else embedded

    def exchange(self, images: Tensor, step: int) -> Exchange | None:
        """Return the shuffle of ``images`` before the key encoder; None if they are not shuffled, as in evaluation."""
        if not self.training or norm.groups(self) == 1:
            return None
        groups = norm.groups_at_once(self)
        return self.shuffle.exchange(len(images), groups, images.device, step, len(self._waiting))

    def unit(self, embeddings: Tensor) -> Tensor:
        """``embeddings`` [b, dim] of unit length, in the queue's precision."""
        return F.normalize(embeddings.to(self.queue.dtype), dim=1)
