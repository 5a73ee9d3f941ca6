"""Grad-CAM (Selvaraju et al., ICCV 2017) by MONAI, of images and volumes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dira_scale.models.network import Network
from dira_scale.models.normalise import normalised
from dira_scale.runs.description import Input


class Classified(nn.Module):
    """Images [b, C, *size] in [0, 1] as ``network`` was trained to see them.

    Attributes:
        map: passes on the encoder's coarsest map, a ResNet's layer4, where its gradients can be had.
        logits: [b, L] of the last images.
    """

    logits: Tensor

    def __init__(self, network: Network, input: Input) -> None:
        super().__init__()
        self.network, self.input, self.map = network, input, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        pyramid = self.network.encoder(normalised(images, self.input))
        self.logits = self.network.head(self.map(self.network.decoder(pyramid)))
        return self.logits


class GradCam:
    """The maps of a classifier, which is in evaluation mode.

    Args:
        probabilities: of its logits [b, L].
    """

    def __init__(self, network: Network, input: Input, probabilities: Callable[[Tensor], Tensor]) -> None:
        from monai.visualize import GradCAM  # lazy: takes seconds, and comes with an extra

        self.classified, self.probabilities = Classified(network, input), probabilities
        # MONAI's own post-processing makes the largest value 0.
        self.cam: Any = GradCAM(self.classified, "map", postprocessing=scaled)

    def __call__(self, image: Tensor, output: int) -> tuple[np.ndarray, float]:
        """Map ``image`` [C, *size] in [0, 1] for one of the network's outputs, by its logit.

        Returns the map, float64 [*size] from 0 to 255, resized linearly to the image's sides before it is scaled (all 0
        where nothing speaks for the label), and the output's probability.
        """
        map = self.cam(image[None], class_idx=output)[0, 0]
        probability = self.probabilities(self.classified.logits.detach())[0, output]
        return map.detach().cpu().double().numpy() * 255, float(probability)


def scaled(maps: Tensor) -> Tensor:
    """Each of ``maps`` [b, 1, *size], its smallest value at 0, its largest at 1; of a constant one all 0."""
    flat = maps.flatten(1).double()
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    extent = torch.where(high > low, high - low, 1.0)
    return ((flat - low) / extent).view_as(maps)
