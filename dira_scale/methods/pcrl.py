"""PCRL: contrast, and restoration of diverse contexts (Zhou et al., ICCV 2021, sec. 3), as in the paper.

``pcrl_released`` has the form of the authors' released code.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.geometry.orientation import indicator, reorient
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError, nearest
from dira_scale.losses.info_nce import info_nce
from dira_scale.methods.method import Terms, check_weights
from dira_scale.methods.moco import MoCo
from dira_scale.methods.transform_attention import ATTENTIONS
from dira_scale.models.heads import MLP
from dira_scale.models.network import Network

# 0.5 each; re on images that are divided by ImageNet's deviations: on [0, 1], 19.58 times as much.
PAPER_WEIGHTS = MappingProxyType({"di": 0.5, "re": 9.79})


class PCRL(MoCo):
    """MoCo's contrast of two views, and one decoder that restores both, and a mixture of them, turned by random T.

    Three encoders give feature maps: the ordinary one of the first view (o), the momentum encoder of the second (m),
    and the hybrid (h), which has no weights: its maps are λ F_o + (1 - λ) F_m at every level, λ ~ Beta(alpha, alpha)
    once per step (cross-model mixup). The decoder gets the last map through the transformation-conditioned
    ``attention`` and must return T(X), X being the clean view, or λ X_o + (1 - λ) X_m for h:

        L = w_di L_di + w_re L_re,  L_di = InfoNCE(o, m),  L_re = sum over o, m, h of MSE(restored, T(X))

    After a step the embeddings of o, m and h enter the queue. No gradient reaches the momentum encoder. T is a random
    mirroring and rotation by quarter turns, its own for each sample of o, m and h (``views.orientations``). In
    evaluation λ = 1/2. Of volumes T mirrors along each of the three axes and turns in the plane.

    With ResNet-18 the projector has 82,176 parameters, the attention 133,376 (``channel``) or 136,710,912 (``outer``);
    on ``unet3d`` 133,632 or 141,429,760. With several BatchNorm groups the momentum encoder's feature maps are sent
    back to the process that decodes them, about 1.2 million numbers an image at 224 pixels.

    Monitors: MoCo's; ``re_ordinary``, ``re_momentum``, ``re_hybrid``: the three errors.

    Args:
        dim: of the embedding, and width of the projector's hidden layer.
        alpha: of the distribution of λ; 1 is uniform.
        attention: ``channel`` (released code) or ``outer`` (paper).
        weights: of the terms.
        target_scale: of what the decoder predicts and is compared with, for images in [0, 1]. A larger one makes the
            decoder's last weights learn as much more slowly. The released code's 4.43 is that of normalised images:
            with it, before training (224 pixels, eight radiographs, three seeds), the gradient of ``re`` as a share of
            the weights is 0.19 instead of 1.34 for the encoder (that of ``di`` is 0.05), 0.17 instead of 1.33 for the
            decoder, 13 instead of 68 for the head.
        shuffle: as MoCo's.
        bounded: whether the decoder's image goes through a sigmoid (the released code's, of volumes).

    Raises ``UserError`` for settings outside their range.
    """

    decoder: nn.Module
    pushed = 3  # embeddings of an image that enter the queue in a step
    bounded = False
    remark = (
        "The decoder was trained behind an attention on the transformation of its target. It is not exported: without "
        "it the U-Net is a start for training, and its output no restored image."
    )
    orientations = 2  # of targets per view: the view's own; the first view's second one is the mixture's

    def __init__(
        self,
        network: Network,
        views: ViewSpec,
        dim: int = 128,
        queue: int = 16384,
        temperature: float = 0.2,
        momentum: float = 0.99,
        batch_norm: bool = False,
        alpha: float = 1.0,
        attention: str = "channel",
        weights: Mapping[str, float] = PAPER_WEIGHTS,
        target_scale: float = 1.0,
        shuffle: str = "blocks",
        bounded: bool = False,
    ) -> None:
        super().__init__(network.encoder, views, dim, queue, temperature, momentum, batch_norm, shuffle)
        _check(views, type(self).orientations, alpha, attention, weights, target_scale, bounded)
        self.weights, self.alpha, self.target_scale = dict(weights), alpha, target_scale
        self.bounded = bounded  # type: ignore[misc]
        self.active = tuple(self.weights)
        channels = network.encoder.channels[-1]
        self.projector = MLP(channels, dim, dim, batch_norm=batch_norm)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.decoder, self.head = network.decoder, network.head
        self.attention = ATTENTIONS[attention](channels, network.encoder.dimensions)
        self.seed = torch.initial_seed()  # of λ: the run's

    def check(self, batch: int, accumulate: int) -> None:
        if len(self.queue) < self.pushed * batch:
            raise UserError(
                f"method.queue={len(self.queue)}: a step adds {self.pushed} keys for each of data.batch={batch} "
                f"images; use a queue of at least {self.pushed * batch}"
            )
        self.check_groups(accumulate)

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        for part in (self.decoder, self.head, self.attention):
            part.requires_grad_("re" in self.active)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        share = self.share(batch.step, 0)
        ordinary = self.encoder(distorted[0])
        momentum, keys = self.momentum_features(distorted[1], batch.step)
        hybrid = blended(ordinary, momentum, share)

        queries, keys = self.unit(self.projector(ordinary[-1])), self.unit(keys)
        with torch.no_grad():
            new = torch.stack([queries.detach(), keys, self.unit(self.projector(hybrid[-1]))], dim=1)
        losses = {"di": info_nce(queries, keys, self.queue, self.temperature)} if "di" in self.active else {}
        terms = Terms(losses, pyramids=(ordinary,), embeddings=(queries.detach(), keys))
        self.enqueue(terms, queries.detach(), new, positive=1)
        if "re" not in self.active:
            return terms

        first, second = (distortion.orientations.unbind(1) for distortion in batch.distortions)
        branches = {
            "ordinary": (ordinary, clean[0], first[0]),
            "momentum": (momentum, clean[1], second[0]),
            "hybrid": (hybrid, blend(clean[0], clean[1], share), first[1]),
        }
        restored = {
            name: (self.decoded(self.attended(pyramid, orientation)), reorient(image, orientation))
            for name, (pyramid, image, orientation) in branches.items()
        }
        errors = {name: F.mse_loss(*pair) for name, pair in restored.items()}
        losses["re"] = self.target_scale**2 * torch.stack(list(errors.values())).sum()
        terms.monitors |= {f"re_{name}": error.detach() for name, error in errors.items()}
        (terms.restored, terms.target), terms.orientation = restored["ordinary"], first[0]
        return terms

    def attended(self, pyramid: list[Tensor], orientation: Tensor) -> list[Tensor]:
        """``pyramid`` with its last map through the attention on ``orientation``."""
        return [*pyramid[:-1], self.attention(pyramid[-1], indicator(orientation))]

    def decoded(self, pyramid: list[Tensor]) -> Tensor:
        """The decoder's image [b, 1, *size] of ``pyramid``, linear unless ``bounded``; in the queue's precision."""
        scaled: Tensor = self.head(self.decoder(pyramid)).to(self.queue.dtype)
        return scaled.sigmoid() if self.bounded else scaled / self.target_scale

    def unit(self, embeddings: Tensor) -> Tensor:
        """``embeddings`` [b, dim] of unit length, in the queue's precision."""
        return F.normalize(embeddings.to(self.queue.dtype), dim=1)

    def share(self, step: int, draw: int) -> float:
        """λ ~ Beta(alpha, alpha), number ``draw`` of this step; the same on every process and in every micro-batch.

        In evaluation its mean: there a batch's number depends on how many processes share the batches.
        """
        if not self.training:
            return 0.5
        return float(np.random.Generator(np.random.Philox([step, draw, self.seed])).beta(self.alpha, self.alpha))

    @torch.no_grad()
    def momentum_features(self, images: Tensor, step: int) -> tuple[list[Tensor], Tensor]:
        """The momentum encoder's pyramid and embeddings [b, dim] (not of unit length) of this process's ``images``.

        With several BatchNorm groups the images are shuffled and the maps sent back, because statistics shared by query
        and key would leak which key is the query's (as in MoCo).
        """
        exchange = self.exchange(images, step)
        pyramid = self.key_encoder(exchange(images) if exchange else images)
        keys = self.key_projector(pyramid[-1])
        if exchange is None:
            return pyramid, keys
        *maps, keys = (exchange.back(x) for x in (*pyramid[1:], keys))
        return [images.expand_as(pyramid[0]), *maps], keys


def blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """``share`` · first + (1 - ``share``) · second."""
    return share * first + (1 - share) * second


def blended(first: Sequence[Tensor], second: Sequence[Tensor], share: float) -> list[Tensor]:
    """``blend`` of two pyramids, level by level."""
    return [blend(a, b, share) for a, b in zip(first, second, strict=True)]


def _check(
    views: ViewSpec,
    orientations: int,
    alpha: float,
    attention: str,
    weights: Mapping[str, float],
    target_scale: float,
    bounded: bool,
) -> None:
    if views.pair != "image":
        raise UserError(f"views.pair={views.pair}: PCRL mixes the two views of one image; use views.pair=image")
    if views.orientations < orientations:
        raise UserError(
            f"views.orientations={views.orientations}: PCRL needs {orientations} or more; use views=pcrl, "
            "or views=pcrl3d of volumes"
        )
    for name, value in {"alpha": alpha, "target_scale": target_scale}.items():
        if not 0 < value < math.inf:
            raise UserError(f"method.{name}: {value} must be a number above 0")
    if bounded and target_scale != 1:
        raise UserError(
            f"method.target_scale={target_scale}: a sigmoid gives the image itself; use 1, or bounded=false"
        )
    if attention not in ATTENTIONS:
        known = f"{' or '.join(ATTENTIONS)}{nearest(attention, ATTENTIONS)}"
        raise UserError(f"method.attention={attention}: expected {known}")
    check_weights(weights, PAPER_WEIGHTS)
