"""The distortion of volumes: of all samples together, by parameters that ``views.draw`` has drawn."""

import torch
from torch import Tensor, nn

from dira_scale.train.data.distort.corruptions import corrupted, without_channels
from dira_scale.train.data.distort.plane import jitter
from dira_scale.train.data.distort.warp import ieee_products
from dira_scale.train.data.views import Distortion, Views


class DistortVolumes(nn.Module):
    """Brightness and contrast, then (``corrupt``) the views' corruptions; channels that are dropped become 0.

    Shapes: x [b, C, D, H, W] in [0, 1] -> the same, float32, in x's memory format. ``lacking``: of the batch.
    """

    def __init__(self, views: Views) -> None:
        super().__init__()
        self.corruptions, self.channel_dropout = views.corruptions, views.channel_dropout

    @torch.no_grad()
    def forward(self, x: Tensor, params: Distortion, corrupt: bool = True, lacking: Tensor | None = None) -> Tensor:
        with ieee_products(x.device):
            channels_last = x.is_contiguous(memory_format=torch.channels_last_3d)
            x = jitter(x.float(), params)
            x = corrupted(x, self.corruptions, params) if corrupt else x
            x = without_channels(x, params, self.channel_dropout, lacking)
            return x.contiguous(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format)

    def turned(self, x: Tensor, params: Distortion) -> Tensor:
        """``x`` where the distorted view has it: as it is."""
        return x

    def turned_mask(self, mask: Tensor, params: Distortion) -> Tensor:
        """A view's ``mask`` [b, D, H, W] where the distorted view has it: as it is."""
        return mask
