"""The interface of networks in any number of dimensions: an encoder's feature pyramid, a decoder over it, a head.

``model._target_`` names a network's configuration, ours (``models.unet.TimmUNet``) or yours, which builds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from torch import Tensor, nn

from dira_scale.config.schema import TARGET, Schema, at_least, chosen_class, place
from dira_scale.errors import UserError

# Layers by an image's dimensions.
CONVOLUTIONS: Mapping[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
INSTANCE_NORMS: Mapping[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class Encoder(nn.Module):
    """[b, 1 or C, *size] -> its pyramid: the image itself, then ever coarser features, finest first.

    Attributes:
        name: what tables and messages call it.
        dimensions: of an image: 2 or 3.
        fixed_size: whether it takes images of the size that it was built for only.
        channels: the pyramid's channel counts, the image's first; 0 at a level without features.
        channels_last: whether the first layer gets an image that is channels last in memory. An expanded one has no
            layout of its own, so a convolution takes its weights': those of a sharded module are always contiguous.
    """

    name: str
    dimensions: ClassVar[int]
    channels_last = False
    _in_channels: int

    @property
    def channels(self) -> list[int]:
        raise NotImplementedError

    @property
    def fixed_size(self) -> bool:
        return False

    def _expanded(self, x: Tensor) -> Tensor:
        """[b, 1 or C, *size] -> [b, C, *size], without copying unless ``channels_last``."""
        x = x.expand(-1, self._in_channels, *self.dimensions * [-1])
        layout = torch.channels_last if self.dimensions == 2 else torch.channels_last_3d
        return x.contiguous(memory_format=layout) if self.channels_last else x


class Network(nn.Module):
    """[b, 1 or C, *size] -> logits [b, 1, *size].

    ``decoder`` takes the encoder's pyramid and returns a map of the image's size, ``head`` makes one channel of it.
    """

    encoder: Encoder
    decoder: nn.Module
    head: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.decoder(self.encoder(x)))
        return logits


@dataclass
class Architecture(Schema):
    """A network's configuration, ``configs/model/*.yaml``. A subclass adds its own keys, and builds from them.

    Encoder and decoder are built apart: what only discriminates has no decoder.
    """

    _target_: str = MISSING
    weights: str | None = place(None)
    bn_groups: int = at_least(1)

    dimensions: ClassVar[int]

    @property
    def name(self) -> str:
        """What tables call the network."""
        return type(self).__name__

    def build_encoder(self, size: int) -> Encoder:
        """For views of ``size`` pixels a side, with random weights. Raises ``UserError`` naming the key."""
        raise NotImplementedError

    def build_network(self, encoder: Encoder) -> Network:
        """``encoder`` with a decoder and head of random weights. Raises ``UserError`` naming the key."""
        raise NotImplementedError


EARLIER = "dira_scale.models.unet.TimmUNet"  # the architecture of runs from before there were others


def architecture(config: Mapping[Any, Any]) -> Architecture:
    """The object of a ``model`` node: of a composed configuration, or of a run's, which may lack later keys.

    Raises ``UserError`` if ``_target_`` names no architecture, or one with other keys.
    """
    given: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else dict(config)
    kind = chosen_class(Architecture, f"model.{TARGET}", given.setdefault(TARGET, EARLIER))
    known = [each.name for each in fields(kind)]
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"model.{unknown[0]}: {kind.__name__} has no such setting, only {', '.join(known)}")
    try:
        found = kind(**given)
    except UserError as error:
        raise UserError(f"model.{error}") from error
    assert isinstance(found, Architecture)
    return found
