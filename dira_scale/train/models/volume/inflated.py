"""A vision transformer of images as a network of volumes: it starts from weights of images, by inflated patches."""

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed, resample_patch_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.dino_files import is_kernel
from dira_scale.train.models.encoder import settle, timm_arguments, timms
from dira_scale.train.models.linear import resized
from dira_scale.train.models.pyramid import TimmEncoder
from dira_scale.train.models.vit import resampled

PREFIX = ("cls_token", "dist_token", "reg_token")  # timm's names of the tokens before the patches, in their order


class InflatedEncoder(TimmEncoder):
    """[b, 1 or C, D, H, W] -> the volume itself, then one map, of the patches after the last block: 1/``patch`` of its
    sides.

    The blocks, class and register tokens and norms are timm's; only what tells where a patch is, and what is in it, has
    a third axis:

    - A kernel of images becomes one of volumes with a copy in each plane, divided by the number of planes (I3D:
      Carreira & Zisserman, CVPR 2017, sec. 2.4; FlexiCT's code). One of another side is resampled first (FlexiViT).
    - Positions in a plane, learnt or rotary, are as in images. Along the depth ``depth_embed`` [planes, dim], which
      starts at 0, is added to them; for views of other depths it is resized.

    So a volume of one plane of patches has the tokens of its mean slice, and at first patches know nothing of their
    depth. FlexiCT exchanges its rotary halves for thirds (depth, row, column) when it goes into volumes; here what
    weights know of a plane stays.
    """

    dimensions: ClassVar[int] = 3
    fixed_size = False

    def __init__(
        self, name: str, patch: int, size: Sequence[int], in_channels: int, arguments: Mapping[str, Any]
    ) -> None:
        """Raises ValueError if ``name`` is no transformer of this kind, TypeError for ``arguments`` that it does not
        have."""
        super().__init__()
        self.name, self.patch, self.arguments, self._in_channels = name, patch, dict(arguments), in_channels
        of_images = timms(name, arguments)
        if not (isinstance(of_images, VisionTransformer | Eva) and type(of_images.patch_embed) is PatchEmbed):
            raise ValueError("it is no plain vision transformer")
        # dynamic: rotary positions are then computed for each view
        model: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True, **arguments)
        images, dim = model.patch_embed, model.embed_dim
        self.plane = images.grid_size
        self.depth_embed = nn.Parameter(torch.zeros(size[0] // patch, dim))
        images.proj = nn.Conv3d(in_channels, dim, patch, stride=patch, bias=images.proj.bias is not None)
        model.attn_pool = None  # methods do the pooling
        self.model = model
        self.has_class_token, self.class_blocks = model.cls_token is not None, len(model.blocks)

    @property
    def channels(self) -> list[int]:
        return [self._in_channels, self.model.embed_dim]

    def forward(
        self,
        x: Tensor,
        with_tokens: bool = False,
        hidden: Tensor | None = None,
        fill: Tensor | None = None,
        finer: bool = True,
    ) -> list[Tensor] | tuple[list[Tensor], Tensor | None, Tensor, Tensor]:
        x = self._expanded(x)
        (last,) = deque(self._blocks(x, hidden, fill), maxlen=1)
        first, tokens = int(self.has_class_token), self._norm(last)
        class_token, registers, patches = tokens.tensor_split([first, self.model.num_prefix_tokens], 1)
        maps = [x, self.coarsest(patches, x.shape[2:])]
        return (maps, class_token[:, 0] if first else None, registers, patches) if with_tokens else maps

    def class_tokens(self, x: Tensor, blocks: int) -> list[Tensor]:
        return [self._norm(tokens)[:, 0] for tokens in deque(self._blocks(self._expanded(x)), maxlen=blocks)]

    def fitted(self, name: str, tensor: Tensor, file: Collection[str] = ()) -> Tensor:
        """Kernels of images are inflated, positions of another plane or depth resized."""
        if is_kernel(name, tensor):
            return inflated(tensor, self.get_parameter(name).shape[2:])
        if name == "model.pos_embed" and tensor.shape[1] != self.model.pos_embed.shape[1]:
            prefix = self.model.pos_embed.shape[1] - math.prod(self.plane)
            return resample_abs_pos_embed(tensor, new_size=[*self.plane], num_prefix_tokens=prefix)
        if name == "depth_embed" and tensor.dim() == 2 and len(tensor):
            return _along(tensor, len(self.depth_embed)).to(tensor.dtype)
        return tensor

    def _blocks(self, x: Tensor, hidden: Tensor | None = None, fill: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the tokens after each block, class and register tokens first, before the last norm."""
        features = self.model.patch_embed.proj(x)
        depth, plane = features.shape[2], features.shape[3:]
        patches = self.model.patch_embed.norm(features.flatten(2).transpose(1, 2))
        if hidden is not None and fill is not None:
            patches = torch.where(hidden[:, :, None], fill.to(patches.dtype), patches)
        prefix = [token for name in PREFIX if (token := getattr(self.model, name, None)) is not None]
        tokens = torch.cat([*(token.expand(len(x), -1, -1) for token in prefix), patches], 1)
        along, learnt = _along(self.depth_embed, depth)[:, None], self.model.pos_embed
        if learnt is None:
            positions = along.expand(-1, math.prod(plane), -1).flatten(0, 1)[None]
        else:  # of tokens before the patches, too
            of_prefix, within = learnt.tensor_split([learnt.shape[1] - math.prod(self.plane)], 1)
            within = within if plane == self.plane else resampled(within, self.plane, plane)
            positions = torch.cat([of_prefix, (along + within).flatten(0, 1)[None]], 1)
        tokens = tokens + F.pad(positions, (0, 0, tokens.shape[1] - positions.shape[1], 0))
        tokens = self.model.norm_pre(self.model.pos_drop(tokens))
        ropes: Sequence[Tensor | None] = [None] * len(self.model.blocks)
        if (rotary := getattr(self.model, "rope", None)) is not None:  # those of a plane, at each depth alike
            turns = torch.cat([rotary.get_embed(shape=plane)] * depth, -2)
            ropes = [*turns] if self.model.rope_mixed else [turns] * len(ropes)
        for block, rope in zip(self.model.blocks, ropes, strict=True):
            tokens = block(tokens) if rope is None else block(tokens, rope=rope)
            yield tokens

    def _norm(self, tokens: Tensor) -> Tensor:
        """A final norm that follows the pooling is applied to every token instead."""
        return (self.model.fc_norm if isinstance(self.model.norm, nn.Identity) else self.model.norm)(tokens)


def inflated(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """A kernel of images [dim, c, h, w] as one of volumes [dim, c, *size]: a copy in each plane, divided by their
    number."""
    planes, *plane = size
    return resample_patch_embed(kernel, plane)[:, :, None].expand(-1, -1, planes, -1, -1) / planes


def build_inflated(
    name: str, patch: int, size: Sequence[int], in_channels: int, arguments: Mapping[str, Any]
) -> InflatedEncoder:
    """timm's transformer ``name`` for volumes of ``size``, random weights; ``arguments`` as of
    :func:`dira_scale.train.models.encoder.build_encoder`.

    Raises ArgumentError for a name or ``arguments`` that timm does not have, or a network of another kind.
    """
    for_timm = timm_arguments(name, arguments)
    try:
        encoder = InflatedEncoder(name, patch, size, in_channels, for_timm)
        settle(encoder, arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        adjusted = f" with the arguments {dict(arguments)}" if arguments else ""
        reason = " ".join(str(error).split())
        if arguments and isinstance(error, TypeError):
            raise ArgumentError("arguments", dict(arguments), f"those of timm's '{name}' ({reason})") from error
        such = "a plain vision transformer, such as vit_base_patch14_dinov2 or vit_base_patch16_dinov3"
        unfit = f"{name}{adjusted} cannot be inflated to volumes ({reason})"
        raise ArgumentError("encoder", name, f"{such}: {unfit}") from error
    return encoder


def _along(embedding: Tensor, depth: int) -> Tensor:
    """Positions [planes, dim] for ``depth`` planes, linear between them."""
    return embedding if len(embedding) == depth else resized(embedding.T[None], [depth])[0].T
