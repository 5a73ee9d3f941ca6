"""Jigsaw puzzles (Noroozi and Favaro, ECCV 2016; volumes: Taleb et al., NeurIPS 2020): what lies where?"""

from torch import Tensor

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort.corruptions import ShuffleBlocks
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.classification import classified
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.restoration import check_single
from dira_scale.train.models.heads import WordHead
from dira_scale.train.models.network import Encoder

ORDER = "order"  # the corruption that moves a view's blocks, and its parameter


class Jigsaw(Method):
    """The blocks of a view x have changed places, by one of K permutations y, and a classifier on the encoder must
    tell by which: L_di = -log p(y | x), the mean over the batch.

    As in DiRA's authors' 3D script, the encoder sees the whole puzzle, and the classifier is TransVW's: a convolution,
    the mean over space, two linear layers. As a base of DiRA its decoder puts the blocks back.

    Different from the sources: Noroozi and Favaro, and Taleb et al., encode each block alone. The script zeroes five
    voxels where the blocks meet before it moves them, so that the zeroed faces of a block show where it comes from;
    here all faces are zeroed alike (``views.corruptions.order.margin``).

    Monitors: ``accuracy``, and ``chance``, which is 1 / K.

    Raises ArgumentError unless there is one view, whose corruption ``order`` moves its blocks.
    """

    trained_by_di = ("classifier",)
    corrupted = True
    lesson = "tell in which order the blocks of an image or a volume lie"

    def __init__(self, encoder: Encoder, views: ViewSpec) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_single("jigsaw", views)
        self.encoder = encoder
        permutations = moved_blocks(views, "Jigsaw", "jigsaw").permutations
        self.classifier = WordHead("keras", encoder.channels[-1], permutations, views.dimensions)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        pyramid = self.encoder(distorted[0])
        order = batch.distortions[0].corruptions[ORDER][ORDER]
        loss, monitors = classified(self.classifier(pyramid[-1]), order)
        return Terms({"di": loss}, monitors=monitors, pyramids=(pyramid,))


def moved_blocks(views: ViewSpec, method: str, config: str) -> ShuffleBlocks:
    """Return the views' corruption ``order``; raise ArgumentError for ``method`` unless it moves blocks and is the
    last, as in the views of ``config``."""
    corruption = views.corruptions.get(ORDER)
    if not isinstance(corruption, ShuffleBlocks):
        expected = f"blocks that change places, for {method}, as configs/views/{config}.yaml has"
        raise ArgumentError(f"views.corruptions.{ORDER}", UNSHOWN, expected)
    if (last := [*views.corruptions][-1]) != ORDER:
        raise ArgumentError("views.corruptions", UNSHOWN, f"{ORDER} last: {last} after it would act across blocks")
    return corruption
