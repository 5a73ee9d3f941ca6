"""Heads on the encoder's last feature map."""

from torch import Tensor, nn


class Projector(nn.Module):
    """Pooled features -> embedding: [b, C, h, w] -> [b, dim] by average pooling and Linear-ReLU-Linear.

    MoCo-v2's head: hidden width = C, no normalisation. ``batch_norm`` puts a BatchNorm behind the hidden
    layer; short runs on small batches learn with it and not without.
    """

    def __init__(self, channels: int, dim: int, batch_norm: bool = False) -> None:
        super().__init__()
        hidden: list[nn.Module] = [nn.Linear(channels, channels, bias=not batch_norm)]
        if batch_norm:
            hidden.append(nn.BatchNorm1d(channels))
        self.layers = nn.Sequential(*hidden, nn.ReLU(inplace=True), nn.Linear(channels, dim))

    def forward(self, features: Tensor) -> Tensor:
        embedding: Tensor = self.layers(features.mean(dim=(2, 3)))
        return embedding
