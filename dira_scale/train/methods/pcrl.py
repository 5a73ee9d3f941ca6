"""PCRL: contrast, and restoration of diverse contexts (Zhou et al., ICCV 2021, sec. 3), in two forms.

``PCRL`` is the paper's, ``PCRLReleased`` that of its authors' released code, which ``preset=released`` chooses.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.base.arguments import Above, ArgumentError, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.geometry.orientation import indicator, reorient
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.info_nce import info_nce
from dira_scale.train.methods.c2l import C2L, blend
from dira_scale.train.methods.method import Terms, check_weights
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.methods.restoration import of_known
from dira_scale.train.methods.shuffle import ShuffleKind
from dira_scale.train.methods.transform_attention import ATTENTIONS
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.momentum import momentum_copy
from dira_scale.train.models.network import Network

# 0.5 each; re on images that are divided by ImageNet's deviations: on [0, 1], 19.58 times as much.
PAPER_WEIGHTS = MappingProxyType({"di": 0.5, "re": 9.79})
RestoredPairs = Mapping[str, tuple[Tensor, Tensor]]  # by branch: the restored image and its target, [b, 1, *size]


class PCRL(C2L):
    """MoCo's contrast of two views, and one decoder that restores both, and a mixture of them, turned by random T.

    Three encoders give feature maps: the ordinary one of the first view (o), the momentum encoder of the second (m),
    and the hybrid (h), which has no weights: its maps are λ F_o + (1 - λ) F_m at every level, λ ~ Beta(alpha, alpha)
    once per step (cross-model mixup). The decoder gets the last map through the transformation-conditioned
    ``attention`` and must return T(X), X being the clean view, or λ X_o + (1 - λ) X_m for h:

        L = w_di L_di + w_re L_re,  L_di = InfoNCE(o, m),  L_re = sum over o, m, h of MSE(restored, T(X))

    After a step the embeddings of o, m and h enter the queue. No gradient reaches the momentum encoder. T is a random
    mirroring and rotation by quarter turns, its own for each sample of o, m and h (``views.orientations``). In
    evaluation λ = 1/2. Of volumes T mirrors along each of the three axes and turns in the plane.

    The rows of the paper's tables 1 and 2: ``transform=none mixture=false`` is "Self-Recons.", with ``transform=flip``
    "TransAtt (Flip)", with ``all`` "TransAtt"; ``transform=none`` alone is "CrossMix"; ``mixture=false`` in stages
    without ``re`` is "ContraLoss", of ``PCRLRotation`` "ContraLoss + RotNet". The paper does not say from which maps
    the view is restored without CrossMix; here from those of o and of m, each its own.

    With ResNet-18 the projector has 82,176 parameters, the attention 133,376 (``channel``) or 136,710,912 (``outer``);
    on ``unet3d`` 133,632 or 141,429,760. With several BatchNorm groups the momentum encoder's feature maps are sent
    back to the process that decodes them, about 1.2 million numbers an image at 224 pixels.

    Monitors: MoCo's; ``re_ordinary``, ``re_momentum``, ``re_hybrid``: the three errors.

    Args:
        dim: of the embedding, and width of the projector's hidden layer.
        alpha: of the distribution of λ; 1 is uniform.
        attention: ``channel`` (released code) or ``outer`` (paper).
        transform: what T does: ``all``; ``flip``, no turns; ``none``, without attention.
        mixture: whether h is restored, and its embeddings enter the queue.
        weights: of the terms.
        target_scale: of what the decoder predicts and is compared with, for images in [0, 1]. A larger one makes the
            decoder's last weights learn as much more slowly. The released code's 4.43 is that of normalised images.
        shuffle: as MoCo's.
        bounded: whether the decoder's image goes through a sigmoid (the released code's, of volumes).
    """

    corrupted = False
    new_projector = MoCo.new_projector  # drawn before the queue and replaced below: seeds keep their weights
    decoder: nn.Module
    bounded = False
    remark = (
        "The decoder was trained behind an attention on the transformation of its target. It is not exported: without "
        "it the U-Net is a start for training, and its output no restored image."
    )
    orientations = 2  # of targets per view: the view's own; the first view's second one is the mixture's
    normalised: ClassVar[bool] = False

    @checked
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
        attention: Literal["channel", "outer"] = "channel",
        transform: Literal["all", "flip", "none"] = "all",
        mixture: bool = True,
        weights: Mapping[str, float] = PAPER_WEIGHTS,
        target_scale: Annotated[float, Above(0)] = 1.0,
        shuffle: ShuffleKind = "blocks",
        bounded: bool = False,
    ) -> None:
        super().__init__(network.encoder, views, dim, queue, temperature, momentum, batch_norm, alpha, shuffle)
        if views.pair != "image":
            raise ArgumentError("views.pair", views.pair, "image: PCRL mixes the two views of one image")
        if views.orientations < self.orientations:
            usual = f"as configs/views/pcrl{'3d' if views.dimensions == 3 else ''}.yaml has"
            raise ArgumentError("views.orientations", views.orientations, f"{self.orientations} or more, {usual}")
        if bounded and target_scale != 1:
            raise ArgumentError("target_scale", target_scale, "1: a sigmoid gives the image itself")
        if self.normalised and (transform != "all" or not mixture):
            name, value, only = ("mixture", mixture, "true") if transform == "all" else ("transform", transform, "all")
            raise ArgumentError(name, value, f"{only}: PCRL alone leaves parts out, as the paper's tables do")
        check_weights(weights, PAPER_WEIGHTS)
        self.weights, self.target_scale = dict(weights), target_scale
        self.bounded = bounded  # type: ignore[misc]
        self.active = tuple(self.weights)
        channels = network.encoder.channels[-1]
        self.projector = MLP(channels, dim, dim, batch_norm=batch_norm)
        self.key_projector = momentum_copy(self.projector)
        self.decoder, self.head = network.decoder, network.head
        self.transform, self.pushed = transform, 3 if mixture else 2
        self.attention = None if transform == "none" else ATTENTIONS[attention](channels, network.encoder.dimensions)

    def enter_stage(self, terms: Sequence[str]) -> None:
        super().enter_stage(terms)
        for part in filter(None, (self.decoder, self.head, self.attention)):
            part.requires_grad_("re" in self.active)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        share = self.share(batch.step, 0)
        ordinary = self.encoder(distorted[0])
        momentum, keys = self.momentum_features(distorted[1], batch.step)
        hybrid = blended(ordinary, momentum, share) if self.pushed == 3 else []

        queries, keys = self.unit(self.projector(ordinary[-1])), self.unit(keys)
        with torch.no_grad():
            mixed = [self.unit(self.projector(hybrid[-1]))] if hybrid else []
            new = torch.stack([queries.detach(), keys, *mixed], dim=1)
        losses = {"di": info_nce(queries, keys, self.queue, self.temperature)} if "di" in self.active else {}
        terms = Terms(losses, pyramids=(ordinary,), embeddings=(queries.detach(), keys))
        self.enqueue(terms, queries.detach(), new, positive=1)
        if "re" not in self.active:
            return terms

        first, second = (self.oriented(distortion.orientations).unbind(1) for distortion in batch.distortions)
        branches = {"ordinary": (ordinary, clean[0], first[0]), "momentum": (momentum, clean[1], second[0])}
        if hybrid:
            branches["hybrid"] = hybrid, blend(clean[0], clean[1], share), first[1]
        errors = self.compare({
            name: (self.decoded(self.attended(pyramid, orientation)), reorient(image, orientation))
            for name, (pyramid, image, orientation) in branches.items()
        }, terms, "ordinary", batch)  # fmt: skip
        losses["re"] = self.target_scale**2 * errors.sum()
        terms.orientation = first[0]
        return terms

    def compare(self, restored: RestoredPairs, terms: Terms, judged: str, batch: Batch) -> Tensor:
        """The mean squared errors of all branches, which are monitored. ``judged``: the branch whose image is handed
        on."""
        pairs = {name: (of_known(image, target, batch), target) for name, (image, target) in restored.items()}
        errors = {name: F.mse_loss(*pair) for name, pair in pairs.items()}
        terms.monitors |= {f"re_{name}": error.detach() for name, error in errors.items()}
        terms.restored, terms.target = pairs[judged]
        return torch.stack(list(errors.values()))

    def oriented(self, orientations: Tensor) -> Tensor:
        """``orientations`` uint8 [b, …, n + 1], of which T does what ``transform`` says."""
        if self.transform == "flip":
            return torch.cat([orientations[..., :-1], torch.zeros_like(orientations[..., -1:])], -1)
        return orientations if self.transform == "all" else torch.zeros_like(orientations)

    def attended(self, pyramid: list[Tensor], orientation: Tensor) -> list[Tensor]:
        """``pyramid`` with its last map through the attention on ``orientation``, if there is one."""
        if self.attention is None:
            return pyramid
        return [*pyramid[:-1], self.attention(pyramid[-1], indicator(orientation))]

    def decoded(self, pyramid: list[Tensor]) -> Tensor:
        """The decoder's image [b, 1, *size] of ``pyramid``, linear unless ``bounded``; in the queue's precision."""
        scaled: Tensor = self.head(self.decoder(pyramid)).to(self.queue.dtype)
        return scaled.sigmoid() if self.bounded else scaled / self.target_scale

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


class PCRLReleased(PCRL):
    """Two passes a step: on the views with attention, then on a mixup of the batch's images without.

    * First pass, on the distorted views x: o restores T1(x1); h, of feature maps that went through the attention with
      their own T1 and T2, restores λ T1(x1) + (1 - λ) T2(x2). Targets are the distorted views.
    * Second pass, on x' = μ x + (1 - μ) x of another image of the batch: o' and h' restore the mixtures of the clean
      views. There is no attention and no T.
    * L_re is the mean of these four errors, L_di the mean of three binary NCE terms: (q, k), (q', k') and q' with the
      mixture of both images' k. Each of the three keys enters the queue before the next term.

    λ, μ >= 1/2. ``Terms.restored`` is o', of clean images. In evaluation λ = 1/2 and μ = 1: no image is mixed in.
    Nothing enters the queue there. With several micro-batches a step, images are mixed within a micro-batch of all
    processes.

    Losses, gradients, weights, momentum encoder and queue were compared with the authors' own functions on the same
    tensors (tests/train/methods/test_pcrl_authors.py at commit e47e8cad): in float64 they agreed to 3e-12 over three
    steps. What differs from that code all the same:

    * Restored images have one channel in [0, 1], and cutouts are black; theirs have three colours, normalised by
      ImageNet's mean and deviation as what encoders see (``normalise``, ``target_scale``), of which each output has a
      third of the error. Rotation is bilinear, theirs takes the nearest pixel; the blur comes last, in floating point.
    * Their NCE divides by n Z (:func:`dira_scale.train.losses.info_nce.nce`). The queue starts with random directions
      of unit length, theirs with uniform numbers of about unit length.
    * BatchNorm's running statistics move once a step and are those of all groups; theirs move once a pass, and on
      several GPUs the first one's are kept. Every epoch is of whole batches; theirs ends with a short one, and their
      loop runs for 241 epochs.
    * Of volumes every epoch draws new pairs of crops, and each view its own paint; theirs are cut once, 16 of a scan,
      anew where they are dense, and both views are painted, or neither. The distance of crops from the edges is
      smaller in a narrow volume, where theirs are smaller, and resizing has antialiasing.
    """

    remark = ""  # its second pass restores without attention
    orientations = 1
    normalised = True

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        step, (x1, x2) = batch.step, distorted
        ordinary = self.encoder(x1)
        momentum, raw_keys = self.momentum_features(x2, step)
        queries, keys = self.unit(self.projector(ordinary[-1])), self.unit(raw_keys)

        images, mixed_keys = self.mixup(torch.cat([x1, x2, *clean], dim=1), raw_keys, step)
        mixed_x1, mixed_x2, mixed_clean1, mixed_clean2 = images.chunk(4, dim=1)
        mixed = self.encoder(mixed_x1)
        mixed_momentum, new_keys = self.momentum_features(mixed_x2, step)
        mixed_queries = self.unit(self.projector(mixed[-1]))
        pairs = (queries, keys), (mixed_queries, self.unit(new_keys)), (mixed_queries, self.unit(mixed_keys))

        terms = Terms({}, pyramids=(ordinary, mixed), embeddings=(queries.detach(), keys))
        self.enqueue(terms, queries.detach(), torch.stack([k for _, k in pairs], dim=1))
        if "di" in self.active:
            terms.losses["di"] = self.contrast(pairs)
        if "re" not in self.active:
            return terms

        orientation1, orientation2 = (distortion.orientations[:, 0] for distortion in batch.distortions)
        input1, input2 = reorient(x1, orientation1), reorient(x2, orientation2)
        attended1, attended2 = self.attended(ordinary, orientation1), self.attended(momentum, orientation2)
        share, mixed_share = self.folded(step, 0), self.folded(step, 2)
        restored = {
            "ordinary": (self.decoded(attended1), input1),
            "hybrid": (self.decoded(blended(attended1, attended2, share)), blend(input1, input2, share)),
            "mixed": (self.decoded(mixed), mixed_clean1),
            "mixed_hybrid": (
                self.decoded(blended(mixed, mixed_momentum, mixed_share)),
                blend(mixed_clean1, mixed_clean2, mixed_share),
            ),
        }
        terms.losses["re"] = self.target_scale**2 * self.compare(restored, terms, "mixed", batch).mean()
        return terms


def blended(first: Sequence[Tensor], second: Sequence[Tensor], share: float) -> list[Tensor]:
    """``blend`` of two pyramids, level by level."""
    return [blend(a, b, share) for a, b in zip(first, second, strict=True)]
