"""Comparing to Learn, C2L (Zhou et al., MICCAI 2020): contrast of images, of their mixtures, and of mixed features."""

from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import Above, ArgumentError, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import Exchange, reduce_mean, world
from dira_scale.train.losses.info_nce import exponentials, nce
from dira_scale.train.methods.method import Terms
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.methods.shuffle import ShuffleKind, permutation
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.network import Encoder

MIXUP = 2**20  # added to a micro-batch's number: mixup and the shuffling of keys are different permutations
QueryKeyPairs = tuple[tuple[Tensor, Tensor], ...]  # queries and keys [b, dim]


class C2L(MoCo):
    """An image must find its other view, and a mixture of two images that of their other views, at two levels.

    A student f sees the first views, its momentum copy, the teacher g, the second ones. Once per step μ ~ Beta(alpha,
    alpha), folded to at least 1/2, and a permutation of the batch mix the images x of either view with those of others,
    x', to x° = μ x + (1 - μ) x', and likewise the teacher's embeddings:

        L_di = 1/3 [ NCE(f(x1), g(x2)) + NCE(f(x1°), g(x2°)) + NCE(f(x1°), μ g(x2) + (1 - μ) g(x2')) ]

    All embeddings are then of unit length. Each term's keys enter the queue before the next term: three of an image in
    a step. NCE is binary (:func:`dira_scale.train.losses.info_nce.nce`); its normaliser is that of the first batch. In
    evaluation no image is mixed in. With several micro-batches a step, images are mixed within a micro-batch of all
    processes. Monitors: MoCo's.

    The figures are those of the authors' code, whose order of terms and keys this is. Otherwise than there, images have
    one channel in [0, 1] and cutouts are black, BatchNorm's running statistics move once a step, and what
    :class:`dira_scale.train.methods.pcrl.PCRLReleased` says of NCE and of the first queue is so here.

    Args:
        alpha: of the distribution of μ; 1 is uniform.
        batch_norm: whether the projector has a hidden layer, with BatchNorm; otherwise it is linear.

    All others are MoCo's.
    """

    corrupted = True  # cutouts are a part of its views
    normaliser: Tensor
    pushed = 3  # embeddings of an image that enter the queue in a step
    normalised: ClassVar[bool] = True  # whether the contrast has a normaliser

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: int = 128,
        queue: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.999,
        batch_norm: bool = False,
        alpha: Annotated[float, Above(0)] = 1.0,
        shuffle: ShuffleKind = "blocks",
    ) -> None:
        super().__init__(encoder, views, dim, queue, temperature, momentum, batch_norm, shuffle)
        self.alpha, self.seed = alpha, torch.initial_seed()  # of shares: the run's
        self.launched = "shares of mixtures are drawn on the host"
        # Mean of exp(similarity / temperature) over the first training batch and the queue; 0: not yet known.
        self.register_buffer("normaliser", torch.zeros(()) if self.normalised else None)

    def new_projector(self, channels: int, dim: int, batch_norm: bool) -> MLP:
        return super().new_projector(channels, dim, batch_norm) if batch_norm else MLP(channels, dim)

    def check(self, batch: int, accumulate: int) -> None:
        if len(self.queue) < self.pushed * batch:
            least = f"at least {self.pushed * batch}: a step adds {self.pushed} keys for each of {batch} images"
            raise ArgumentError("queue", len(self.queue), least)
        self.check_groups(accumulate)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        step, (x1, x2) = batch.step, distorted
        pyramid, raw_keys = self.encoder(x1), self.keys(x2, step)
        queries, keys = self.unit(self.projector(pyramid[-1])), self.unit(raw_keys)

        images, mixed_keys = self.mixup(torch.cat([x1, x2], dim=1), raw_keys, step)
        mixed_x1, mixed_x2 = images.chunk(2, dim=1)
        mixed, new_keys = self.encoder(mixed_x1), self.keys(mixed_x2, step)
        mixed_queries = self.unit(self.projector(mixed[-1]))
        pairs = (queries, keys), (mixed_queries, self.unit(new_keys)), (mixed_queries, self.unit(mixed_keys))

        terms = Terms({}, pyramids=(pyramid, mixed), embeddings=(queries.detach(), keys))
        self.enqueue(terms, queries.detach(), torch.stack([k for _, k in pairs], dim=1))
        terms.losses["di"] = self.contrast(pairs)
        return terms

    def share(self, step: int, draw: int) -> float:
        """A share ~ Beta(alpha, alpha), number ``draw`` of this step; the same on every process and in every
        micro-batch.

        In evaluation its mean: there a batch's number depends on how many processes share the batches.
        """
        if not self.training:
            return 0.5
        return float(np.random.Generator(np.random.Philox([step, draw, self.seed])).beta(self.alpha, self.alpha))

    def folded(self, step: int, draw: int) -> float:
        """The larger of :meth:`share` and what it leaves."""
        share = self.share(step, draw)
        return max(share, 1 - share)

    def mixup(self, images: Tensor, keys: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Each of ``images`` [b, n, *size] and ``keys`` [b, dim] mixed with those of another image of the batch."""
        if not self.training:
            return images, keys
        share = self.folded(step, 1)
        order = permutation(world() * len(images), step, MIXUP + len(self._waiting))
        other = Exchange(order, images.device)
        return blend(images, other(images), share), blend(keys, other(keys), share)

    def contrast(self, pairs: QueryKeyPairs) -> Tensor:
        """The mean of the NCE of all ``pairs``; keys enter the queue one after another."""
        queue, losses = self.queue, []
        for number, (queries, keys) in enumerate(pairs):
            scores = exponentials(queries, keys, queue, self.temperature)
            if number == 0:
                normaliser = self._normaliser(scores)
            losses.append(nce(scores / normaliser))
            if self.training:
                new = self._waiting[-1].wait()[:, number]
                slots = self.queue_pointer + number * len(new) + torch.arange(len(new), device=new.device)
                queue = queue.index_copy(0, slots % len(queue), new)
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _normaliser(self, scores: Tensor) -> Tensor:
        mean = reduce_mean(scores.mean()) if self.training else scores.mean()
        normaliser = torch.where(self.normaliser > 0, self.normaliser, mean)
        if self.training:
            self.normaliser.copy_(normaliser)
        return normaliser


def blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """``share`` · first + (1 - ``share``) · second."""
    return share * first + (1 - share) * second
