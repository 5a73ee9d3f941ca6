"""Heads on the encoder's last feature map, or on another head."""

from copy import deepcopy
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.train.models.network import CONVOLUTIONS

BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}  # by an image's dimensions


def global_average(x: Tensor) -> Tensor:
    """Feature maps [b, C, *size] averaged over all spatial axes: [b, C]."""
    return x.mean(dim=tuple(range(2, x.dim())))


class MLP(nn.Module):
    """Fully connected layers of ``widths``, the input's first: [b, widths[0]] -> [b, widths[-1]].

    Feature maps [b, C, *size] are averaged over space first. ReLU follows all layers but the last; ``batch_norm``
    puts a BatchNorm before each ReLU and drops the bias before it, which would have no effect. The last layer is
    linear: with ``bias``, without, or ``normalised`` by a BatchNorm without weights.
    """

    def __init__(self, *widths: int, batch_norm: bool = True, bias: bool = True, normalised: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            layers.append(nn.Linear(inputs, outputs, bias=not batch_norm))
            layers += [nn.BatchNorm1d(outputs)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Linear(widths[-2], widths[-1], bias=bias and not normalised))
        layers += [nn.BatchNorm1d(widths[-1], affine=False)] if normalised else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(global_average(x) if x.dim() > 2 else x)


class WordHead(nn.Sequential):
    """TransVW's classifier: feature maps [b, C, *size] -> logits [b, classes].

    A convolution with BatchNorm and ReLU, the mean over space, linear layers. ``pytorch``, as the authors' code of that
    name: the convolution doubles the channels, one linear layer follows. ``keras``: it keeps them, and a hidden layer
    of 2 C with ReLU follows. Of 512 channels and 44 classes 14,203,948 and 7,649,836 parameters.
    """

    def __init__(self, form: str, channels: int, classes: int, dimensions: int) -> None:
        wide, narrow = 2 * channels, form == "keras"
        middle = channels if narrow else wide
        super().__init__(
            CONVOLUTIONS[dimensions](channels, middle, kernel_size=3, padding=1),
            BATCH_NORMS[dimensions](middle),
            nn.ReLU(inplace=True),
            *([MLP(middle, wide, classes, batch_norm=False)] if narrow else [MLP(middle, classes)]),
        )


class PrototypeHead(nn.Module):
    """DINO's head (Caron et al., ICCV 2021, sec. 3.1 and appendix C): [n, C] -> an embedding [n, bottleneck] of unit
    length, and its logits [n, prototypes].

    Three linear layers with GELU between, then the cosines with prototypes: a linear layer without bias whose weights'
    magnitude is 1 (weight normalisation). ``batch_norm`` follows the first two, as an option of the released code.

    Attributes:
        frozen_share: of a stage, at whose beginning the optimizer's rate is 0 for the prototypes.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        frozen_share: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.frozen_share = frozen_share
        first, second, third = nn.Linear(channels, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)
        for layer in (first, second, third):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
        self.layers = nn.Sequential(first, *norm, nn.GELU(), second, *deepcopy(norm), nn.GELU(), third)
        self.prototypes = nn.Parameter(nn.Linear(bottleneck, prototypes, bias=False).weight.detach())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = F.normalize(self.layers(x).to(self.prototypes.dtype), dim=1)
        return embedding, F.linear(embedding, F.normalize(self.prototypes, dim=1))
