"""A frozen encoder of images, from which a student learns (``train/methods/distil.py``)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.base.arguments import Above, ArgumentError, AtLeast
from dira_scale.base.errors import UserError, printable
from dira_scale.train.models.architecture import (
    Architecture,
    TimmUNet,
    architecture,
    exported_architecture,
    exported_input,
)
from dira_scale.train.models.cut import RowShare, cutting
from dira_scale.train.models.encoder import timm_arguments, timms
from dira_scale.train.models.hub import Address, is_hub, local, name_of
from dira_scale.train.models.network import Encoder, Tokens
from dira_scale.train.models.normalise import normalised
from dira_scale.train.models.pyramid import DEPTH
from dira_scale.train.models.vit import PlainEncoder
from dira_scale.train.models.weights import weights_hash
from dira_scale.train.runs.description import FILE, InputDescription, read_description


@dataclass(frozen=True)
class TeacherSettings:
    """One of ``method.teachers``.

    Attributes:
        weights: a run's folder, an export, a file or ``hf://ORG/NAME``, as of ``init``; ``random``.
        encoder: timm's name of the network, where the weights do not say it: runs, their exports and
            ``hf://timm/NAME`` do.
        size: side in pixels of the images that it sees; None: the views', rounded up to whole patches.
        mean, deviation: by which images of [0, 1] are normalised, by channel; None: the run's or the export's, or
            those of timm's network.
        weight: of its losses beside other teachers'.
    """

    weights: str
    encoder: str | None = None
    size: Annotated[int, AtLeast(1)] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    weight: Annotated[float, Above(0)] = 1.0


class Teacher(nn.Module):
    """[b, 1 or C, H, W] in [0, 1] -> its features of the whole images [b, width], and of their places [b, width, h, w]:
    class token and patch tokens, or the last map and its mean.

    It has no gradient, always the statistics of its own training, and computes in bf16 where the run computes in 16
    bits. Its network moves with this module, but is no part of it: strategies neither shard nor store it, so a
    checkpoint has none of its weights. They are read again when a run resumes, and ``hash`` tells whether they are the
    same.

    Args:
        sides: of the views, the plane's last.

    Raises ArgumentError about a setting: weights that cannot be read, of another network, or of one of volumes.
    """

    encoder: Encoder
    hash = summary = ""

    def __init__(self, settings: TeacherSettings, sides: Sequence[int]) -> None:
        super().__init__()
        model, input = _network(settings)
        if settings.encoder and settings.encoder.partition(".")[0] != model.name:
            raise ArgumentError("encoder", settings.encoder, f"null, or {model.name}, of which these weights are")
        if model.dimensions != 2:
            expected = f"weights of a network of images, to which slices of volumes are shown, too: {model.name} is of"
            raise ArgumentError("weights", settings.weights, f"{expected} volumes")
        self.input = replace(input, mean=settings.mean or input.mean, deviation=settings.deviation or input.deviation)
        numbers = len(self.input.mean), len(self.input.deviation)
        if numbers[0] != numbers[1] or numbers[0] not in (0, 1, input.channels):
            expected = f"and deviation: none, one number, or {input.channels}, of both"
            raise ArgumentError("mean", list(self.input.mean), expected)
        self.weight, self.size = settings.weight, settings.size or _whole(model, max(sides[-2:]))
        other = {} if input.channels == model.channels else {"channels": input.channels}
        with cutting(RowShare()), torch.random.fork_rng(devices=[]):  # the student is the same whoever teaches it
            torch.manual_seed(0)
            encoder = model.build_encoder(self.size, **other)
        if isinstance(encoder, PlainEncoder):
            encoder.pyramid = nn.ModuleList()  # finer maps, which nobody reads
        vars(self)["encoder"] = encoder.requires_grad_(False).eval()
        self.width, self.channels = encoder.channels[-1], encoder.channels[0]
        if next(encoder.parameters()).is_meta:  # of a run that is planned
            return
        from dira_scale.train.models.start import start_weights  # needs pyarrow

        try:
            start = start_weights(settings.weights, encoder, key="")
        except UserError as error:
            raise ArgumentError("weights", settings.weights, f"weights of {encoder.name} ({error})") from error
        licence = f", licence: {start.licence or 'unknown'}" if start else ""
        self.hash = weights_hash(encoder)
        self.summary = printable(f"{encoder.name} with weights {name_of(settings.weights)}{licence}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Teacher":
        self.encoder._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def tensors(self) -> list[Tensor]:
        return [*self.encoder.parameters(), *self.encoder.buffers()]

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[2:] != (size := (self.size, self.size)):
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        device = images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=torch.is_autocast_enabled(device)):
            tokens = self.encoder.tokens(normalised(images, self.input), finer=False)
        return features(self.encoder, tokens, size)


def teachers_in(module: nn.Module) -> list[Teacher]:
    return [part for part in module.modules() if isinstance(part, Teacher)]


def features(encoder: Encoder, tokens: Tokens, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return what ``encoder`` says of whole views [b, C], and of their places [b, C, *grid], by its ``tokens`` of views
    of ``size``."""
    last = tokens.maps[-1]
    whole = last.flatten(2).mean(2) if tokens.class_token is None else tokens.class_token
    if tokens.patches is None or encoder.patch is None:
        return whole, last
    return whole, tokens.patches.mT.unflatten(2, [side // encoder.patch for side in size])


def _network(settings: TeacherSettings) -> tuple[Architecture, InputDescription]:
    """Return the network of ``settings``, with what it takes: the channels of its first layer, the normalisation."""
    path, name = Path(settings.weights), settings.encoder
    if (path / FILE).is_file():
        run = read_description(path)
        return architecture(run.network.architecture), replace(run.input, channels=run.network.channels)
    if is_hub(settings.weights) and not name:
        organisation, _, hubs = Address.of(settings.weights).repository.partition("/")
        name = hubs if organisation == "timm" else None
    if path.exists() or (is_hub(settings.weights) and not name):
        try:
            path = local(settings.weights)
        except ValueError as error:
            raise ArgumentError("weights", settings.weights, f"weights ({error})") from error
        if node := exported_architecture(path):
            model = architecture(node)
            return model, exported_input(path) or InputDescription((1, 1), model.channels)
    if not name:
        expected = "timm's name of the network, which these weights do not say"
        raise ArgumentError("encoder", None, f"{expected}: {{weights: {settings.weights}, encoder: NAME}}")
    timm_arguments(network := name.partition(".")[0], {})
    usual = timm.get_pretrained_cfg(name if timm.list_pretrained(name) else network)
    model = TimmUNet(encoder=network, decoder_channels=[1], zero_init_residual=False)
    return model, InputDescription((1, 1), model.channels, mean=tuple(usual.mean), deviation=tuple(usual.std))


def _whole(model: Architecture, side: int) -> int:
    """Return ``side``, rounded up to whole patches of a timm network, or whole pixels of its last map, at 1/32."""
    if not isinstance(model, TimmUNet):
        return side
    step = timms(model.encoder, timm_arguments(model.encoder, model.arguments or {})).feature_info[-1]["reduction"]
    return int(-(-max(side, 2**DEPTH) // step) * step)
