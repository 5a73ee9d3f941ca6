"""An encoder of dira_scale as a backbone of kaiko-ai's eva; ../../how-to/challenges.md."""

import torch
from eva import models
from torch import Tensor, nn

from dira_scale import api


class DiraScale(models.BaseModel[Tensor, Tensor]):
    """Images [b, 1 or C, *size] in [0, 1] to features: the coarsest map, averaged over space.

    Args:
        run: a run's folder, or its export.
        maps: the maps themselves, as a list, as eva's decoders of segmentation take them.
    """

    def __init__(self, run: str, maps: bool = False) -> None:
        super().__init__()
        self.run, self.maps = run, maps
        self.model = self.load_model()

    def load_model(self) -> nn.Module:
        return api.encoder(self.run)

    def model_forward(self, tensor: Tensor) -> Tensor | list[Tensor]:
        last = self.model(tensor)[-1]
        return [last] if self.maps else torch.flatten(last, 2).mean(2)
