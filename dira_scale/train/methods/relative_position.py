"""Relative position (Doersch et al., ICCV 2015, sec. 3; volumes: Taleb et al., NeurIPS 2020): where is a patch?"""

import torch
from torch import Tensor

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions import PatchPair
from dira_scale.train.data.geometry.blocks import window
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.classification import classified
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.restoration import check_single, patch_maps
from dira_scale.train.models.heads import MLP, global_average
from dira_scale.train.models.network import Encoder

PATCHES = "patches"  # the corruption that draws a view's two patches


class RelativePosition(Method):
    """Two patches of a view, the middle x_1 of a grid of 3 on each axis and x_2, one of its K neighbours y, go through
    one encoder f, and a classifier of both must tell which neighbour it is: L_di = -log p(y | f(x_1), f(x_2)), the mean
    over the batch.

    Of images K = 8, of volumes K = 26. Gaps and jitter between patches (``views.corruptions.patches``) hide edges that
    go on from one into the other. f is the encoder's global average; the two are concatenated, and two hidden layers
    follow.

    Where the sources leave a choice: Doersch et al. learn a layer (fc6) of each patch before these two (fc7, fc8), and
    residual networks have none; Taleb et al. flatten maps instead of averaging them. In both, as here, f is shared and
    the patches meet after it.

    Different from the sources: a batch has one pair of each view, Doersch et al. take all pairs of four grids. Patches
    keep their intensities and resolution, as the encoder will see images afterwards; Doersch et al. drop colours, which
    radiographs do not have, subtract the mean, and enlarge some patches of as few as 100 pixels.

    Monitors: ``accuracy``, and ``chance``, which is 1 / K.

    Args:
        hidden: width of the classifier's hidden layers.

    Raises ArgumentError unless there is one view, whose corruption ``patches`` draws two patches, and an encoder that
    takes any size.
    """

    trained_by_di = ("classifier",)
    gradient_views = 0  # patches, no views
    lesson = "tell where a patch of an image or a volume lies beside another"

    def __init__(self, encoder: Encoder, views: ViewSpec, hidden: int = 4096) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_single("relative position", views)
        pair = views.corruptions.get(PATCHES)
        if not isinstance(pair, PatchPair):
            usual = f"configs/views/relative_position{'3d' if views.dimensions == 3 else ''}.yaml"
            raise ArgumentError(f"views.corruptions.{PATCHES}", UNSHOWN, f"a pair of patches, as {usual} has")
        self.encoder, self.sides = encoder, pair.sides(views.dimensions)
        patch_maps("relative position", encoder, self.sides)
        self.classifier = MLP(2 * encoder.channels[-1], hidden, hidden, 3**views.dimensions - 1)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        drawn = batch.distortions[0].corruptions[PATCHES]
        patches = torch.stack([window(distorted[0], corners, self.sides) for corners in drawn["corners"].unbind(1)], 1)
        # A view's patches stay together: BatchNorm's groups are of whole views.
        levels = [level.unflatten(0, (-1, 2)).unbind(1) for level in self.encoder(patches.flatten(0, 1))]
        logits = self.classifier(torch.cat([global_average(level) for level in levels[-1]], 1))
        loss, monitors = classified(logits, drawn["neighbour"])
        return Terms({"di": loss}, monitors=monitors, pyramids=tuple(map(list, zip(*levels, strict=True))))
