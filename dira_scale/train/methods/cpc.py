"""Contrastive predictive coding (van den Oord et al., 2018; volumes: Taleb et al., NeurIPS 2020, sec. 3.1): what comes
next?"""

from collections.abc import Sequence
from itertools import product
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.base.arguments import UNSHOWN, ArgumentError, AtLeast, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions import CropBlocks
from dira_scale.train.data.geometry.blocks import cut
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import gather, on_device, rank, world
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.restoration import check_single, patch_maps
from dira_scale.train.methods.shuffle import permutation
from dira_scale.train.models.heads import MLP
from dira_scale.train.models.network import Encoder

PATCHES = "patches"  # the corruption that cuts a view's patches


class CPC(Method):
    """A view is cut into patches, of which each has a code z. A recurrent network reads the codes of the first half
    along the last axis, a pyramid that ends at one patch; from its state c linear layers W_k predict the codes of the
    patches that follow that one. The prediction must tell them from those that follow another patch y':

        s(y) = mean_k <W_k c, z(y_k)> / dim,   L_di = -1/2 [log σ(s(y)) + log (1 - σ(s(y')))]

    the mean over all patches at the end of the first half, and the batch. The pyramid widens by one patch to each side
    with every step back, and is mirrored at the view's edges.

    As Taleb et al.'s code: one positive and one negative, a GRU, codes by a linear layer. Their formula (3) is InfoNCE
    over many. Otherwise than there, the negatives y' are a permutation of the batch's positives (there drawn with
    replacement), of a micro-batch of all processes; the encoder's maps are averaged over space (there flattened); the
    prediction goes along the last axis, the patient's left and right (there the first); and a volume is not cropped to
    95 % and padded before it is cut.

    Monitors: ``accuracy`` of telling y from y', and ``chance``, 1/2.

    Args:
        dim: of a code.
        context: width of the GRU.

    Raises ArgumentError unless there is one view, whose corruption ``patches`` cuts it into at least 2 on each axis,
    and an encoder that takes any size.
    """

    trained_by_di = ("code", "reader", "predictor")
    gradient_views = 0  # patches, no views
    launched = "other volumes are drawn on the host"
    corrupted = True
    lesson = "tell the patches that follow others from those that do not"

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        dim: Annotated[int, AtLeast(1)] = 1024,
        context: Annotated[int, AtLeast(1)] = 256,
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_single("cpc", views)
        patches = views.corruptions.get(PATCHES)
        if not isinstance(patches, CropBlocks):
            expected = "blocks that are patches, for CPC, as configs/views/cpc.yaml has"
            raise ArgumentError(f"views.corruptions.{PATCHES}", UNSHOWN, expected)
        self.counts = patches.counts(views.dimensions)
        if min(self.counts) < 2:
            raise ArgumentError(f"views.corruptions.{PATCHES}.blocks", self.counts, "2 or more on each axis, for CPC")
        sides = [side // count for side, count in zip(views.sides, self.counts, strict=True)]
        patch_maps("CPC", encoder, sides)
        before, following = sequences(self.counts)
        self.encoder, self.dim = encoder, dim
        self.register_buffer("before", torch.from_numpy(before), persistent=False)
        self.register_buffer("following", torch.from_numpy(following), persistent=False)
        self.code = MLP(encoder.channels[-1], dim)
        self.reader = nn.GRU(dim, context, batch_first=True)
        self.predictor = MLP(context, following.shape[1] * dim)

    before: Tensor
    following: Tensor

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        patches = cut(distorted[0], self.counts)
        pyramid = self.encoder(patches.flatten(0, 1))
        codes = self.code(pyramid[-1]).unflatten(0, patches.shape[:2])
        _, state = self.reader(codes[:, self.before].flatten(0, 1))
        predicted = at_least_float32(self.predictor(state[-1]))
        true = at_least_float32(codes[:, self.following]).flatten(0, 1).flatten(1)
        positive, negative = ((predicted * y).mean(1) for y in (true, self.others(true, batch.step)))
        loss = (F.softplus(-positive) + F.softplus(negative)).mean() / 2
        accuracy = ((positive.detach() > 0).float() + (negative.detach() <= 0).float()).mean() / 2
        monitors = {"accuracy": accuracy, "chance": torch.full_like(accuracy, 0.5)}
        return Terms({"di": loss}, monitors=monitors)

    def others(self, following: Tensor, step: int) -> Tensor:
        """Return ``following`` [n, …] in which no row is where it was: in training those of all processes, permuted; in
        evaluation those of the volume before, if there is one."""
        if not self.training:
            places = len(self.following)
            return following.roll(places if len(following) > places else 1, 0)
        count = len(following)
        order = permutation(count * world(), step, 0)
        another = np.empty_like(order)
        another[order] = np.roll(order, 1)  # one cycle through all rows
        local = slice(count * rank(), count * (rank() + 1))
        return gather(following)[on_device(another[local], following.device)]


def sequences(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the patches that are read, int64 [n, m], and of those that follow, int64 [n, k].

    n: the places across the last of the axes that are cut into ``counts`` patches, row by row; m: the pyramid, the
    farthest row first, each row by row; k: the second half of the last axis.
    """
    *across, along = counts
    numbers = np.arange(np.prod(counts)).reshape(counts)
    half, before, following = along // 2, [], []
    for place in np.ndindex(*across):
        read = []
        for row in range(half):
            reach = half - 1 - row
            for step in product(range(-reach, reach + 1), repeat=len(across)):
                cell = (mirrored(at + by, n) for at, by, n in zip(place, step, across, strict=True))
                read.append(numbers[(*cell, row)])
        before.append(read)
        following.append(numbers[place][half:])
    return np.array(before), np.array(following)


def mirrored(at: int, n: int) -> int:
    """Return the place ``at``, mirrored at the first and the last of ``n``."""
    at = abs(at) % (2 * n - 2)
    return min(at, 2 * n - 2 - at)
