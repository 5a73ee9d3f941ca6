"""PCRL as in its authors' released code, an "improved version" of the paper by its README.

``preset=released`` takes its settings. Losses, gradients, weights, momentum encoder and queue were compared with the
authors' own functions on the same tensors (``tests/methods/test_pcrl_authors.py``): in float64 they agree to 3e-12 over
three steps, in float32 to 6e-6 in the first; of volumes losses to 3e-12, gradients and weights to 1e-12.

What differs from that code all the same:

* Images have one channel in [0, 1]; theirs three, normalised by ImageNet's mean and deviation. Cutouts are black here,
  ImageNet's mean there. Theirs has three outputs, each with a third of the error: the head's weights learn three times
  faster here.
* A cutout's corner has 225 possible places along a side, theirs 224. Brightness and contrast come before the blur, in
  floating point; theirs after it, in 8 bits. Rotation is bilinear; theirs takes the nearest pixel.
* Their NCE divides by n Z, see :func:`dira_scale.losses.info_nce.nce`. The paper's equation 7 sums over the queue only;
  InfoNCE's denominator here contains the positive.
* The queue starts with random directions of unit length, theirs with uniform numbers of about unit length.
* BatchNorm's running statistics move once a step, and are those of all groups; theirs move once a pass, and on several
  GPUs the first one's alone are kept. Every epoch is of whole batches; theirs ends with a short one, and their loop
  runs for 241 epochs.

Of volumes, besides:

* Every epoch draws new pairs of crops; theirs are cut once, 16 of a scan. In a volume too narrow for the distance of 70
  voxels (15 in depth) from the edges, the distance is smaller here, and theirs cut smaller crops; shorter scans than a
  crop are padded on both sides at random, where theirs fail. Theirs are drawn anew where more than so many of their
  64 x 64 x 32 resized voxels are denser than -150 HU: 15 % of the number of voxels before resizing, so crops of
  32 x 32 x 16 must be nearly all air.
* Theirs have three more slices than they keep: a view shows 32 of 35 resized slices. Crops larger than a view are
  resized with antialiasing, theirs without: ours are some 20 HU softer at edges.
* Both views of theirs are painted, or neither, and both in- or both out-painted; here each has its own draw.

Pairs at the released settings, in a volume of 200 x 320 x 320 voxels, without the refusal of dense crops: IoU 0.368 ±
0.099 (ours, 5,000 pairs) and 0.369 ± 0.103 (theirs, 250), Kolmogorov-Smirnov p = 0.95. Of 500 views of a phantom CT
(theirs with torchio 1.2.1) the clean one's mean intensity is 0.396 and 0.394, its deviation 0.209 and 0.211; the
input's mean 0.443 and 0.441, its deviation 0.253 and 0.254; painted are 0.501 and 0.506 of the voxels, shuffled 0.397
and 0.411.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.geometry.orientation import reorient
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.collectives import Exchange, reduce_mean, world
from dira_scale.losses.info_nce import exponentials, nce
from dira_scale.methods.method import Terms
from dira_scale.methods.pcrl import PCRL, blend, blended
from dira_scale.methods.shuffle import permutation
from dira_scale.models.network import Network

RELEASED_WEIGHTS = MappingProxyType({"di": 1.0, "re": 1.0})
# Targets are normalised: the root of the mean of 1 / deviation² over ImageNet's three, .229, .224 and .225.
NORMALISED = 4.425
MIXUP = 2**20  # added to a micro-batch's number: mixup and the shuffling of keys are different permutations


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
    """

    remark = ""  # its second pass restores without attention
    orientations = 1
    normaliser: Tensor

    def __init__(
        self,
        network: Network,
        views: ViewSpec,
        dim: int = 128,
        queue: int = 16384,
        temperature: float = 0.2,
        momentum: float = 0.999,
        batch_norm: bool = False,
        alpha: float = 1.0,
        attention: str = "channel",
        weights: Mapping[str, float] = RELEASED_WEIGHTS,
        target_scale: float = NORMALISED,
        shuffle: str = "batch",
        bounded: bool = False,
    ) -> None:
        super().__init__(
            network, views, dim, queue, temperature, momentum, batch_norm, alpha, attention, weights, target_scale,
            shuffle, bounded,
        )  # fmt: skip
        # Mean of exp(similarity / temperature) over the first training batch and the queue; 0: not yet known.
        self.register_buffer("normaliser", torch.zeros(()))

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        step, (x1, x2) = batch.step, distorted
        ordinary = self.encoder(x1)
        momentum, raw_keys = self.momentum_features(x2, step)
        queries, keys = self.unit(self.projector(ordinary[-1])), self.unit(raw_keys)

        images, mixed_keys = self._mixup(torch.cat([x1, x2, *clean], dim=1), raw_keys, step)
        mixed_x1, mixed_x2, mixed_clean1, mixed_clean2 = images.chunk(4, dim=1)
        mixed = self.encoder(mixed_x1)
        mixed_momentum, new_keys = self.momentum_features(mixed_x2, step)
        mixed_queries = self.unit(self.projector(mixed[-1]))
        pairs = (queries, keys), (mixed_queries, self.unit(new_keys)), (mixed_queries, self.unit(mixed_keys))

        terms = Terms({}, pyramids=(ordinary, mixed), embeddings=(queries.detach(), keys))
        self.enqueue(terms, queries.detach(), torch.stack([k for _, k in pairs], dim=1))
        if "di" in self.active:
            terms.losses["di"] = self._contrast(pairs)
        if "re" not in self.active:
            return terms

        orientation1, orientation2 = (distortion.orientations[:, 0] for distortion in batch.distortions)
        input1, input2 = reorient(x1, orientation1), reorient(x2, orientation2)
        attended1, attended2 = self.attended(ordinary, orientation1), self.attended(momentum, orientation2)
        share, mixed_share = self._folded(step, 0), self._folded(step, 2)
        restored = {
            "ordinary": (self.decoded(attended1), input1),
            "hybrid": (self.decoded(blended(attended1, attended2, share)), blend(input1, input2, share)),
            "mixed": (self.decoded(mixed), mixed_clean1),
            "mixed_hybrid": (
                self.decoded(blended(mixed, mixed_momentum, mixed_share)),
                blend(mixed_clean1, mixed_clean2, mixed_share),
            ),
        }
        errors = {name: F.mse_loss(*pair) for name, pair in restored.items()}
        terms.losses["re"] = self.target_scale**2 * torch.stack(list(errors.values())).mean()
        terms.monitors |= {f"re_{name}": error.detach() for name, error in errors.items()}
        terms.restored, terms.target = restored["mixed"]
        return terms

    def _folded(self, step: int, draw: int) -> float:
        share = self.share(step, draw)
        return max(share, 1 - share)

    def _mixup(self, images: Tensor, keys: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Each of ``images`` [b, n, *size] and ``keys`` [b, dim] mixed with those of another image of the batch."""
        if not self.training:
            return images, keys
        share = self._folded(step, 1)
        order = permutation(world() * len(images), step, MIXUP + len(self._waiting))
        other = Exchange(order, images.device)
        return blend(images, other(images), share), blend(keys, other(keys), share)

    def _contrast(self, pairs: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
        """The mean of the NCE of all ``pairs`` of queries and keys [b, dim]; keys enter the queue one after another."""
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
