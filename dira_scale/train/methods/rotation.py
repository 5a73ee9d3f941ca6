"""Rotation prediction (Gidaris et al., ICLR 2018, sec. 2; volumes: Taleb et al., NeurIPS 2020): which way is up?"""

import torch
from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions import Turn
from dira_scale.train.data.geometry.orientation import turned
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.classification import classified
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.restoration import check_single
from dira_scale.train.models.heads import MLP, WordHead
from dira_scale.train.models.network import Encoder

TURN = "turn"  # the corruption that turns a view, and its parameter


class Rotation(Method):
    """A view x is turned by g_y, one of K, and a linear classifier on the encoder's global average must tell which:
    L_di = -log p(y | g_y(x)), the mean over views and turns.

    Of images K = 4: 0, 90, 180 and 270 degrees. Of volumes K = 10: none, and 90, 180 and 270 degrees about each axis.
    Each view is seen in all K turns at once, as Gidaris et al. found better than drawing one (a batch of B images is
    4 B), unless the views have the corruption ``turn``: then in the one that it draws, as Taleb et al. do, also in
    stages that restore nothing.

    A base for DiRA, whose decoder returns the view as it was before it was turned, as in the authors' 3D script; where
    all turns are seen, of the one of 0 degrees.

    Different from the sources: they classify by layers of their own after the last convolution (Gidaris et al. a block
    of AlexNet, Taleb et al. fully connected ones), here the whole encoder is followed by one linear layer.

    Monitors: ``accuracy``, and ``chance``, which is 1 / K.

    Raises ArgumentError unless there is one view with equal sides, which is not turned by its own flips.
    """

    trained_by_di = ("classifier",)
    lesson = "tell by how many quarters an image or a volume was turned"

    def __init__(self, encoder: Encoder, views: ViewSpec) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_single("rotation", views)
        if len(set(views.sides)) > 1:
            expected = f"equal sides, such as {[min(views.sides)] * len(views.sides)}: views are turned by 90 degrees"
            raise ArgumentError("views.size", views.sides, expected)
        mirrored = views.flip if sum(p > 0 for p in views.entries[0].flips) > 1 else 0
        for name, value in {"flip": mirrored, "turns": views.turns, "transpose": views.transpose}.items():
            if value:
                expected = "0: a view that is mirrored along two axes, or turned, shows another turn than it is taught"
                raise ArgumentError(f"views.{name}", value, expected)
        turn = views.corruptions.get(TURN)
        self.encoder, self.corrupted = encoder, turn is not None
        self.turns = (turn if isinstance(turn, Turn) else Turn()).count(views.dimensions)
        self.classifier = self.new_classifier(encoder.channels[-1])

    def new_classifier(self, channels: int) -> nn.Module:
        """Return the classifier of the encoder's last maps."""
        return MLP(channels, self.turns)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        view = distorted[0]
        if self.corrupted:
            turns, copies = batch.distortions[0].corruptions[TURN][TURN][:, None], view
        else:  # the copies of a view stay together: BatchNorm's groups are of whole views
            turns = torch.arange(self.turns, device=view.device).expand(len(view), -1)
            copies = torch.stack([turned(view, turn) for turn in turns.unbind(1)], 1).flatten(0, 1)
        levels = [level.unflatten(0, turns.shape).unbind(1) for level in self.encoder(copies)]
        logits = self.classifier(torch.stack(levels[-1], 1).flatten(0, 1))
        loss, monitors = classified(logits, turns.flatten())
        return Terms({"di": loss}, monitors=monitors, pyramids=tuple(list(copy) for copy in zip(*levels, strict=True)))


class RotationReleased(Rotation):
    """Rotation as in DiRA's authors' 3D script. The classifier is that of jigsaw puzzles (``methods.jigsaw``), and
    ``preset=released`` gives the views its eight turns."""

    def new_classifier(self, channels: int) -> nn.Module:
        return WordHead("keras", channels, self.turns, self.views.dimensions)
