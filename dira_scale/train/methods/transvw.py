"""TransVW's self-classification (Haghighi et al., TMI 2021, sec. II): which visual word is seen."""

from typing import Annotated, Literal

from torch import Tensor

from dira_scale.base.arguments import AtLeast, checked
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.labels import class_numbers
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.classification import classified
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.methods.restoration import check_single
from dira_scale.train.models.heads import WordHead
from dira_scale.train.models.network import Encoder


class TransVW(Method):
    """A deformed cube f(x) shows the visual word y, one of C, and a classifier on the encoder must tell which: L_di =
    -log p(y | f(x)), the mean over the batch.

    Words are labels of the dataset, found without annotation: the same place in patients who look alike. The cube's
    restoration is DiRA's, around this class: TransVW's total is 0.01 L_di + L_re (``method=transvw``), DiRA's 3D
    experiments have L_di + 100 L_re + L_ad (``method=dira_transvw``). As in the authors' code, cubes are deformed in
    stages without restoration, too.

    Different from that code: the cross-entropy is of logits (theirs takes a softmax's logarithm for logits, which is
    equal); BatchNorm is evaluated with running statistics, theirs with the batch's.

    Args:
        label: of the dataset: one of several classes.
        classes: of it.
        classifier: ``pytorch`` or ``keras``, as :class:`dira_scale.train.models.heads.WordHead`.

    Raises ArgumentError unless there is one view, for fewer than two classes and an unknown ``classifier``.
    """

    trained_by_di = ("classifier",)
    labelled = True
    corrupted = True
    lesson = "tell which visual word a deformed volume shows"

    @checked
    def __init__(
        self,
        encoder: Encoder,
        views: ViewSpec,
        label: str,
        classes: Annotated[int, AtLeast(2)],
        classifier: Literal["pytorch", "keras"] = "pytorch",
    ) -> None:
        super().__init__(views, weights={"di": 1.0})
        check_single("TransVW", views)
        self.encoder, self.classes = encoder, classes
        self.classifier = WordHead(classifier, encoder.channels[-1], classes, encoder.dimensions)

    def forward(self, clean: tuple[Tensor, ...], distorted: tuple[Tensor, ...], batch: Batch) -> Terms:
        assert batch.labels is not None, "checked before training"
        pyramid = self.encoder(distorted[0])
        loss, monitors = classified(self.classifier(pyramid[-1]), class_numbers(batch.labels))
        return Terms({"di": loss}, monitors=monitors, pyramids=(pyramid,))
