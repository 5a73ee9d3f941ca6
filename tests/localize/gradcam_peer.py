"""``python gradcam_peer.py DIMENSIONS FILE``: maps by pytorch-grad-cam, in an environment that has it and torch."""

import sys

import numpy as np
import torch
from torch import Tensor, nn

OUTPUTS = 3


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(2).mean(2).tanh())


class Plain(nn.Module):
    """Images to a map of an eighth of their sides; volumes to one of their own size."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dimensions == 2 else (nn.Conv3d, nn.BatchNorm3d)
        stride, layers, width = (2 if dimensions == 2 else 1), [], 1
        for channels in (8, 16, 24):
            layers += [convolution(width, channels, 3, stride, 1), norm(channels), nn.ReLU()]
            width = channels
        self.features, self.head = nn.Sequential(*layers), Head(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def network(dimensions: int) -> Plain:
    torch.manual_seed(0)
    return Plain(dimensions).eval()


def images(dimensions: int) -> Tensor:
    size = (56, 72) if dimensions == 2 else (8, 9, 10)
    return torch.from_numpy(np.random.default_rng(0).random((4, 1, *size), np.float32))


if __name__ == "__main__":
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    dimensions = int(sys.argv[1])
    plain, batch = network(dimensions), images(dimensions)
    cam = GradCAM(plain, [plain.features[-1]])
    made = [cam(batch, [ClassifierOutputTarget(output)] * len(batch)) for output in range(OUTPUTS)]
    np.savez(sys.argv[2], maps=np.stack(made, 1))
