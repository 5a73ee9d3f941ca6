"""The distortion of volumes: brightness and contrast."""

import torch
from torch import Tensor, nn

from dira_scale.data.distort.intensity import jitter
from dira_scale.data.views import Distortion


class DistortVolumes(nn.Module):
    """Shapes: x [b, C, D, H, W] in [0, 1] -> the same, float32, in x's memory format."""

    @torch.no_grad()
    def forward(self, x: Tensor, params: Distortion, corrupt: bool = True) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return jitter(x.float(), params)

    def turned(self, x: Tensor, params: Distortion) -> Tensor:
        """``x`` where the distorted view has it: as it is."""
        return x

    def turned_mask(self, mask: Tensor, params: Distortion) -> Tensor:
        """A view's ``mask`` [b, D, H, W] where the distorted view has it: as it is."""
        return mask
