"""The interface of networks in any number of dimensions: an encoder's feature pyramid, a decoder over it, a head."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.torch_version import TorchVersion

from dira_scale.base.errors import UserError
from dira_scale.train.data.batch import CHANNELS_LAST
from dira_scale.train.models import bf16
from dira_scale.train.models.translations import Rules

Module = TypeVar("Module", bound=nn.Module)
# Layers by an image's dimensions.
CONVOLUTIONS: Mapping[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}

FINEST = 2  # resolutions, from the finest, whose blocks activation checkpointing recomputes in volumes: where memory is


def check_torch(module: nn.Module, device: torch.device) -> None:
    """Raise UserError for convolutions of volumes on a GPU with a torch whose are slow and in bf16 may be wrong."""
    old = device.type == "cuda" and TorchVersion(torch.__version__) < "2.10"
    if old and any(isinstance(layer, nn.Conv3d) for layer in module.modules()):
        raise UserError(
            f"torch {torch.__version__}: on a GPU its convolutions of volumes are slow, and some wrong in bf16 "
            "(pytorch #166122, #163539); install torch 2.10 or newer"
        )


def keeps_channels_last(module: nn.Module) -> bool:
    """Return whether the feature maps of ``module`` stay channels last from layer to layer, judging by torch's layers.

    Its InstanceNorm of volumes, and on GPUs its GroupNorm, return contiguous maps, so that every convolution would
    convert twice: a quarter of an nnU-Net's step (pytorch #59168).
    """
    layers = [*module.modules()]
    volumes = any(isinstance(layer, nn.Conv3d) for layer in layers)
    return not (volumes and any(isinstance(layer, _InstanceNorm | nn.GroupNorm) for layer in layers))


def on_meta(module: Module) -> Module:
    """Return a copy of ``module`` on the meta device, for which no values are copied."""
    memo: dict[int, Tensor] = {id(x): nn.Parameter(x.to("meta"), x.requires_grad) for x in module.parameters()}
    return copy.deepcopy(module, memo | {id(x): x.to("meta") for x in module.buffers()})


def moved(module: nn.Module, device: torch.device, channels_last: bool | None = None) -> nn.Module:
    """``module`` on ``device``, its weights contiguous, or those of convolutions channels last.

    ``channels_last``: ``parallel.channels_last``; None: if the module :func:`keeps_channels_last`. What is on the meta
    device stays there. Raises UserError as :func:`check_torch`.
    """
    if channels_last is None:
        channels_last = keeps_channels_last(module)
    check_torch(module, device)
    if device.type == "cpu":
        bf16.guard(module)
    layouts = CHANNELS_LAST if channels_last else dict.fromkeys(CHANNELS_LAST, torch.contiguous_format)

    def place(x: Tensor) -> Tensor:
        return x if x.is_meta else x.to(device).to(memory_format=layouts.get(x.dim(), torch.preserve_format))

    return module._apply(place)


@dataclass
class Tokens:
    """The output of an encoder for b images.

    Attributes:
        maps: the pyramid, as ``Encoder.forward`` returns it.
        class_token: [b, dim], of transformers that have one.
        registers: [b, r, dim], all other tokens that are of no patch; r may be 0. None of networks without tokens.
        patches: [b, n, dim], row by row; None of networks without tokens.
    """

    maps: list[Tensor]
    class_token: Tensor | None = None
    registers: Tensor | None = None
    patches: Tensor | None = None


def taken(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Return of [b, n, dim] the tokens ``numbers``, int64 [b, v]: [b, v, dim]."""
    return tokens[samples(numbers), numbers]


def samples(numbers: Tensor) -> Tensor:
    """Return the samples' numbers [b, 1]. With them a token has one index, not one for each channel: deterministic
    gradients on a GPU sort indices."""
    return torch.arange(numbers.shape[0], device=numbers.device)[:, None]


class Encoder(nn.Module):
    """[b, 1 or C, *size] -> its pyramid: the image itself, then ever coarser features, finest first.

    Attributes:
        name: what tables and messages call it.
        dimensions: of an image: 2 or 3.
        fixed_size: whether its parameters are for images of the size that it was built for.
        channels: the pyramid's channel counts, the image's first; 0 at a level without features.
        has_class_token: whether its tokens have one.
        class_blocks: how many blocks ``class_tokens`` can give that of.
        channels_last: whether the first layer gets an image that is channels last in memory. An expanded one has no
            layout of its own, so a convolution takes its weights': those of a sharded module are always contiguous.
        layouts: of files that it starts from, by what messages call them: rules by which the names of all entries, also
            of decoder and head, become those of ours (``models.translations``).
        published_xyz: those of ``layouts`` whose authors train on volumes [x, y, z]; ours are [z, y, x].
        patch: side of a patch, of a transformer whose ``tokens`` take ``hidden`` patches bool [b, n], in whose place
            ``fill`` [dim] stands before positions are added; of others None. Its ``forward`` takes what ``tokens``
            does, and returns the fields of ``Tokens`` if ``with_tokens``.
        visible_patch: side of a patch, of a transformer whose ``forward`` takes some patches alone: ``visible`` int64
            [b, v] are their numbers, row by row; the last map is then of these, [b, C, v, 1, …].
    """

    name: str
    dimensions: ClassVar[int]
    layouts: ClassVar[Mapping[str, Rules]] = {"our own or smp's tu-": ()}
    published_xyz: ClassVar[Collection[str]] = ()
    has_class_token = False
    class_blocks = 0
    channels_last = False
    patch: int | None = None
    visible_patch: ClassVar[int | None] = None
    _in_channels: int

    @property
    def channels(self) -> list[int]:
        raise NotImplementedError

    @property
    def fixed_size(self) -> bool:
        return False

    def tokens(self, x: Tensor, hidden: Tensor | None = None, fill: Tensor | None = None, finer: bool = True) -> Tokens:
        """The pyramid of images, and beside it the tokens of a transformer; ``hidden`` and ``fill``: see ``patch``.
        ``finer``: whether anybody reads maps that are made of tokens beside the last; else there may be none."""
        if self.patch is None:
            assert hidden is None and fill is None, "an encoder without patches hides none"
            return Tokens(self(x))
        # By a call, so that hooks see the image; of plain tensors, as sharded strategies look for those it returns.
        return Tokens(*self(x, with_tokens=True, hidden=hidden, fill=fill, finer=finer))

    def class_tokens(self, x: Tensor, blocks: int) -> list[Tensor]:
        """The class token [b, dim] after each of the last ``blocks``, through the final norm; of encoders with one."""
        raise NotImplementedError

    def coarsest(self, patches: Tensor, size: Sequence[int]) -> Tensor:
        """The last map of a view of ``size`` by its patch tokens [b, n, dim]; of encoders with tokens."""
        assert self.patch
        return patches.transpose(1, 2).unflatten(2, [side // self.patch for side in size])

    def filler(self, depth: int, size: Sequence[int]) -> nn.Module:
        """A module (last map of ``visible`` patches, ``visible``) -> map of all patches of views of ``size``, with
        ``depth`` blocks in which hidden ones ask visible ones; of encoders with a ``visible_patch``."""
        raise NotImplementedError

    def fitted(self, name: str, tensor: Tensor, file: Collection[str] = ()) -> Tensor:
        """A file's ``tensor`` for the entry ``name``, in the entry's shape where that has a meaning; else as it is.
        ``file``: the names of all its entries, which tell whose it is."""
        return tensor

    def _expanded(self, x: Tensor) -> Tensor:
        """[b, 1 or C, *size] -> [b, C, *size], without copying unless ``channels_last``."""
        x = x.expand(-1, self._in_channels, *self.dimensions * [-1])
        if not self.channels_last:
            return x
        # Not ``contiguous(memory_format=...)``: one channel is contiguous in both layouts, and torch takes the other.
        last = x.movedim(1, -1)
        return last.flatten().view(last.shape).movedim(-1, 1)


def pyramid_sizes(encoder: Encoder, size: Sequence[int]) -> list[list[int]]:
    """Return the spatial sizes of the maps with features that ``encoder`` makes of a view of ``size``, finest first.
    Nothing is computed."""
    view = torch.empty(1, 1, *size, device="meta")
    pyramid: list[Tensor] = on_meta(encoder).eval()(view)
    return [[*level.shape[2:]] for level in pyramid if level.shape[1]]


class Network(nn.Module):
    """[b, 1 or C, *size] -> logits [b, classes, *size]; of a classifier [b, classes].

    ``decoder`` takes the encoder's pyramid and returns a map, ``head`` makes of it a channel per class, of the image's
    size: one restores an image, or segments one structure.
    """

    encoder: Encoder
    decoder: nn.Module
    head: nn.Module
    frozen: tuple[str, ...] = ()  # parts that keep their weights
    settled: tuple[str, ...] = ()  # modules in them that keep BatchNorm's statistics, too

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)))

    def freeze(self, *parts: str, learned: Collection[str] = (), settled: Collection[str] | None = None) -> None:
        """Keep the weights of ``parts``, such as ``encoder``: they get no gradient.

        Args:
            learned: names of parameters in them that learn nevertheless.
            settled: names of modules in them that stay in evaluation mode: without dropout, and with the statistics
                that their BatchNorm has. Others, whose weights are random, have none yet. None: all.
        """
        self.frozen, self.settled = parts, parts if settled is None else tuple(settled)
        for name, parameter in self.named_parameters():
            if name.partition(".")[0] in parts:
                parameter.requires_grad_(name in learned)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.settled:
            self.get_submodule(name).eval()
        return self
