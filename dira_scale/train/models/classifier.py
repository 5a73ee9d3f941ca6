"""Classification over any encoder, in 2D and 3D: one output per class for a whole image."""

from torch import Tensor, nn

from dira_scale.train.models.heads import global_average
from dira_scale.train.models.network import Encoder, Network


class ClassificationHead(nn.Module):
    """Feature maps [b, C, *size] -> logits [b, classes]: the average over space, then a linear layer.

    Weights are drawn from N(0, 0.01), biases are 0 (BenchmarkTransferLearning).

    Args:
        norm: of the channels, where the backbone has one before its own linear layer (ConvNeXt, Swin).
        norm_first: whether it normalises each position before the average (Swin), else the average (ConvNeXt).
    """

    def __init__(self, channels: int, classes: int, norm: nn.LayerNorm | None = None, norm_first: bool = False) -> None:
        super().__init__()
        self.norm, self.norm_first = norm or nn.Identity(), norm_first
        self.fc = nn.Linear(channels, classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        pooled = global_average(x)
        return self.fc(pooled if self.norm_first else self.norm(pooled))


class CoarsestMap(nn.Module):
    """The coarsest map of a pyramid: a classifier's decoder, without parameters."""

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return pyramid[-1]


class Classifier(Network):
    """[b, 1 or C, *size] -> logits [b, classes]. Without a ``head``, the average and a linear layer."""

    head: ClassificationHead

    def __init__(self, encoder: Encoder, classes: int, head: ClassificationHead | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, CoarsestMap()
        self.head = head or ClassificationHead(encoder.channels[-1], classes)
