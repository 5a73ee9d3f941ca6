"""Local weights to start from, in any published layout: recognised by entry names, read without unpickling."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor, nn

from dira_scale.base.errors import nearest
from dira_scale.train.models.architecture import AXES, XYZ, ZYX, exported_metadata
from dira_scale.train.models.dino_files import AUTHORS, MASK_TOKEN, OF_TRANSFORMERS, POSITIONS, as_timms
from dira_scale.train.models.encoder import timm_entries, timm_names, timms
from dira_scale.train.models.network import Encoder, Network
from dira_scale.train.models.pyramid import TimmEncoder
from dira_scale.train.models.tensor_files import WeightsError, read_tensors
from dira_scale.train.models.translations import TRANSLATIONS, Rules, other_axes, translate
from dira_scale.train.models.vit import CUBICS, PlainEncoder, resampled
from dira_scale.train.runs.lora import OPTIMIZERS

# Momentum copies, and the adversary, which may have an encoder of the same kind, are skipped if the file has the
# trained network too.
_COPY = re.compile(r"(^|[._])(k|key|ema|momentum|target|teacher|anchor|discriminator)([._]|$)")
# Buffers that a network computes itself: only older files hold them.
_COMPUTED = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")
_CUBICS = {AUTHORS: "dino", OF_TRANSFORMERS: "transformers"}  # by which positions of these layouts are resampled
_STATISTICS = ("running_mean", "running_var")  # of BatchNorm


class StartWeights:
    """Weights of a file, or of a run folder, for an encoder and optionally its network.

    The file must hold all names of the encoder after one common prefix, whatever it is
    (``state_dict.module.encoder_q.backbone.encoder.``): our own names; of a timm backbone also timm's, or names that
    ``TRANSLATIONS`` maps to timm's. Other entries (classifier, projector, queue) are ignored, except within the
    encoder's stages: an unknown entry there means another network (resnet34's file holds all names of resnet18).

    Adapts the stem of a file for one or three channels (:func:`stem_for`), and resamples position embeddings for
    another image size, relative position biases for another window, and a plain transformer's patches for another side
    (by the pseudo-inverse of the resizing: FlexiViT, Beyer et al., CVPR 2023, sec. 3.4), inflated for volumes. Files of
    DINOv2 and DINOv3 are read as :func:`as_timms` says.
    """

    def __init__(
        self,
        path: Path,
        encoder: Encoder,
        tensors: Mapping[str, Tensor] | None = None,
        other_norm: bool = False,
        name: str | None = None,
    ) -> None:
        """Read ``path`` and fill ``encoder``. For a run folder, ``tensors`` are those of its checkpoint.
        ``other_norm``: whether the file may have BatchNorm where ``encoder`` has a norm without statistics. ``name``:
        of the file in messages, if not its path.

        Raises WeightsError naming the file if it is missing, not plain tensors, or of another network.
        """
        self.origin, self._other_norm = str(name or path), other_norm
        if tensors is None and not path.exists() and timm.list_pretrained(str(path)):
            raise WeightsError(f"{path}: no such file; timm's weights of this name are hf://timm/{path}")
        self._stored = dict(read_tensors(path) if tensors is None else tensors)
        whose = ""
        if isinstance(encoder, TimmEncoder):
            try:
                whose, self._stored = as_timms(self._stored, timms(encoder.name, encoder.arguments), encoder.name)
            except WeightsError as error:
                raise WeightsError(f"{self.origin}: {error}") from error
        self.loaded: list[str] = []
        layout, prefix, names, self._named = self._find(encoder)
        entries, self._filled = set(self._named.values()), any("filler." in name for name in self._named)
        self._stored = {name: tensor for name, tensor in self._stored.items() if name in entries}  # each once
        axes = XYZ if layout in encoder.published_xyz else ZYX
        if tensors is None and (metadata := exported_metadata(path)):  # written by us
            axes = metadata.get(AXES, ZYX)
        if tensors is None and axes == XYZ:
            self._stored = {name: other_axes(name, tensor) for name, tensor in self._stored.items()}
        state = encoder.state_dict()
        state |= {name: _adapted(self.origin, key, self._stored, name, encoder, whose) for name, key in names.items()}
        encoder.load_state_dict(state)
        self._used = set(names.values())
        behind = f" behind '{prefix}'" if prefix else ""
        self.loaded.append(f"encoder ({whose or layout} names{behind})")

    def fill(self, network: Network, scale: float = 1.0, head: bool = True) -> None:
        """Load the decoder, too, and the ``head`` unless it has other channels. Raises WeightsError for a decoder
        of other sizes.

        ``scale``: of what the head is to predict (``method.target_scale``); that of the file is 1.

        A decoder with more entries than ours (smp's with attention) is a different one, and ignored; so is one that
        was trained behind a filler (``Encoder.filler``), which the network does not have.
        """
        names = list(network.decoder.state_dict())
        if not names or self._filled:  # a classifier's
            return
        prefixes = [p for p in _prefixes(names, self._named) if not _unknown_entries(p, [p], names, self._named)]
        if not prefixes:
            return
        if len(prefixes) > 1:
            places = " and ".join(f"'{prefix}'" for prefix in prefixes)
            raise WeightsError(f"{self.origin}: holds this decoder at {places}; keep one of them")
        self._load("decoder", network.decoder, {name: prefixes[0] + name for name in names if not _is_count(name)})
        parent, state = prefixes[0].removesuffix("decoder."), network.head.state_dict()
        for prefix in (f"{parent}segmentation_head.0.", f"{parent}head.") if head else ():
            stored = {name: self._stored.get(self._named.get(prefix + name, "")) for name in state}
            if all(tensor is not None and tensor.shape == state[name].shape for name, tensor in stored.items()):
                self._load("head", network.head, {name: prefix + name for name in state})
                for parameter in network.head.parameters():
                    parameter.data *= scale

    def fill_mask_token(self, token: nn.Parameter) -> None:
        """Load ``token`` [dim], which stands for hidden patches, if the file has one of this width."""
        names = [name for name in self._stored if name.split(".")[-1] == MASK_TOKEN and not name.startswith(OPTIMIZERS)]
        names = [name for name in names if self._stored[name].numel() == token.numel()]
        for name in ([name for name in names if not _COPY.search(name)] or names)[:1]:
            token.data.copy_(self._stored[name].view_as(token))
            self._used.add(name)
            self.loaded.append("mask token")

    def __str__(self) -> str:
        kept = [name for name in self._stored if not name.startswith(OPTIMIZERS)]
        unused = [name for name in kept if name not in self._used and not _is_count(name)]
        loaded = f"{self.origin}: {', '.join(self.loaded)} loaded"
        listed = f"{', '.join(unused[:3])}{', …' if len(unused) > 3 else ''}"
        rest = f"{len(unused)} other entr{'y' if len(unused) == 1 else 'ies'} not used: {listed}"
        filled = "; decoder and head were trained behind a masked autoencoder's blocks" if self._filled else ""
        return f"{loaded}; {rest}{filled}" if unused else loaded

    def _find(self, encoder: Encoder) -> tuple[str, str, dict[str, str], dict[str, str]]:
        """The layout, the prefix, the file's entry for each of the encoder's entries, and for each name as ours are."""
        same, untranslated = {name: name for name in encoder.state_dict()}, {name: name for name in self._stored}
        attempts: list[tuple[str, dict[str, str], Iterable[str], dict[str, str]]] = []
        for layout, rules in encoder.layouts.items():
            attempts.append((layout, same, same, _translated(self._stored, rules)))
        if isinstance(encoder, TimmEncoder):
            by_timm_name, of_timm = timm_names(encoder), timm_entries(encoder)
            for layout, rules in TRANSLATIONS.items():
                attempts.append((layout, by_timm_name, of_timm, _translated(self._stored, rules)))
        nearest_miss: tuple[int, str] = (-1, "")
        for layout, wanted, entries, stored in attempts:
            names = {name: key for name, key in wanted.items() if not _is_count(key)}
            prefixes = _prefixes(names.values(), stored)
            if len(prefixes) > 1:
                places = " and ".join(f"'{prefix}'" for prefix in prefixes)
                raise WeightsError(f"{self.origin}: holds this encoder at {places}; keep one of them")
            if prefixes:
                self._refuse_unknown(prefixes[0], names.values(), entries, stored, encoder.name)
                keys = {name: stored[prefixes[0] + key] for name, key in names.items()}
                return layout, prefixes[0], keys, stored if layout in encoder.layouts else untranslated
            nearest_miss = max(nearest_miss, _miss(names.values(), stored), key=lambda miss: miss[0])
        missing = nearest_miss[1]
        ranks = {tensor.dim() for tensor in self._stored.values()}
        if encoder.dimensions == 3 and not isinstance(encoder, TimmEncoder) and 4 in ranks and 5 not in ranks:
            raise WeightsError(
                f"{self.origin}: is of a network of images, and {encoder.name} is one of volumes with other layers; "
                "the model inflated_vit inflates those of a plain vision transformer, the model unet trains on planes, "
                "or start from weights of volumes (docs/how-to/weights.md)"
            )
        raise WeightsError(
            f"{self.origin}: is not of {encoder.name} in any known layout (docs/reference/weights.md), "
            f"'{missing}' is missing{nearest(missing, self._stored)}"
        )

    def _refuse_unknown(
        self, prefix: str, wanted: Iterable[str], entries: Iterable[str], stored: Mapping[str, str], encoder: str
    ) -> None:
        """Raise WeightsError if the file has others than ``entries`` after ``prefix``, in the stages of ``wanted``."""
        stages = {match[0] for name in wanted if (match := re.match(r"(model\.)*(?!model\.)\w+\.(?=\w+\.\w)", name))}
        places = [prefix + stage for stage in (*stages, "pos_embed", "reg_token")]
        ignored = _STATISTICS if self._other_norm else ()
        names = (name for name in _unknown_entries(prefix, places, entries, stored) if not name.endswith(ignored))
        if unknown := [stored[name] for name in names]:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise WeightsError(
                f"{self.origin}: is of another network than {encoder}, which has no entry "
                f"'{unknown[0]}'{more}; choose the encoder that it is of"
            )

    def _load(self, part: str, module: nn.Module, names: Mapping[str, str]) -> None:
        state = module.state_dict()
        for name, key in ((name, self._named[key]) for name, key in names.items()):
            self._used.add(key)
            if (shape := self._stored[key].shape) != state[name].shape:
                raise WeightsError(
                    f"{self.origin}: '{key}' has shape {tuple(shape)}, the {part} needs "
                    f"{tuple(state[name].shape)}; build encoder and decoder with the channels of the file"
                )
            state[name] = self._stored[key]
        module.load_state_dict(state)
        self.loaded.append(part)


def _translated(stored: Iterable[str], rules: Rules) -> dict[str, str]:
    """Names after ``rules`` -> the stored ones, of several that become the same the first."""
    names: dict[str, str] = {}
    for name in stored:
        names.setdefault(translate(name, rules), name)
    return names


def _prefixes(names: Iterable[str], stored: Iterable[str]) -> list[str]:
    """Prefixes with which all of ``names`` are stored, without copies and the adversary if there is an original."""
    wanted = [name for name in names if not _is_count(name)]
    stored = set(stored)
    complete = [p for p in _prefixes_of(wanted[0], stored) if all(p + name in stored for name in wanted)]
    return [prefix for prefix in complete if not _COPY.search(prefix)] or complete


def _unknown_entries(prefix: str, within: Iterable[str], entries: Iterable[str], stored: Iterable[str]) -> list[str]:
    """Stored names that start with one of ``within`` and are none of ``prefix`` + ``entries``."""
    expected, within = {prefix + name for name in entries}, tuple(within)
    return [n for n in stored if n.startswith(within) and n not in expected and not n.endswith(_COMPUTED)]


def _miss(names: Iterable[str], stored: Iterable[str]) -> tuple[int, str]:
    """With the best prefix: how many of ``names`` are stored, and the first that is not."""
    wanted, stored = list(names), set(stored)
    prefixes = {prefix for name in wanted[:3] for prefix in _prefixes_of(name, stored)} | {""}
    best = max(sorted(prefixes), key=lambda prefix: sum(prefix + name in stored for name in wanted))
    missing = [best + name for name in wanted if best + name not in stored]
    return len(wanted) - len(missing), missing[0]


def _prefixes_of(name: str, stored: Iterable[str]) -> list[str]:
    return sorted(key[: len(key) - len(name)] for key in stored if key == name or key.endswith(f".{name}"))


def _is_count(name: str) -> bool:
    """BatchNorm's batch counter, which old files lack and nothing here reads."""
    return name.endswith("num_batches_tracked")


def stem_for(channels: int, weight: Tensor) -> Tensor:
    """The first convolution [out, 1 or 3, *size] as one [out, channels, *size], as ``timm.models.adapt_input_conv``.

    Three channels become one by their sum. Otherwise they are repeated in turn and divided by the number of turns, so
    that a grey image repeated over all channels has the same features; of three channels as four about the same.
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    turns = [channel % weight.shape[1] for channel in range(channels)]
    return weight[:, turns] * (weight.shape[1] / channels)


def _adapted(origin: str, key: str, stored: Mapping[str, Tensor], name: str, encoder: Encoder, whose: str) -> Tensor:
    """The tensor at ``key`` of those ``stored``, in the layout of ``whose``, in the shape of the encoder's entry
    ``name``."""
    state = encoder.state_dict()
    tensor, expected = encoder.fitted(name, stored[key].to(state[name].dtype), stored), state[name].shape
    if tensor.shape == expected:
        return tensor
    # Convolutions of the image: the first one of a timm backbone, several of a network with shortcuts.
    stems = [other for other, entry in state.items() if entry.dim() == 2 + encoder.dimensions]
    shortcuts = () if isinstance(encoder, TimmEncoder) else stems[1:]
    is_stem = name in stems[:1] or (name in shortcuts and expected[1] == encoder.channels[0])
    if is_stem and tensor.shape in [(expected[0], n, *expected[2:]) for n in (1, 3)]:
        return stem_for(expected[1], tensor)
    if not isinstance(encoder, TimmEncoder):
        raise _other_shape(origin, key, tensor, encoder, expected)
    positions = name.endswith(POSITIONS) and tensor.dim() == len(expected) == 3 and tensor.shape[2] == expected[2]
    if positions and isinstance(encoder, PlainEncoder):
        prefix = 0 if encoder.model.no_embed_class else encoder.model.num_prefix_tokens
        before, now = (math.isqrt(max(0, count - prefix)) for count in (tensor.shape[1], expected[1]))
        if 0 < before**2 == tensor.shape[1] - prefix:
            if (cubic := encoder.cubic(_CUBICS.get(whose))) == CUBICS["timm"]:
                return resample_abs_pos_embed(tensor, new_size=[now, now], num_prefix_tokens=prefix)
            patches = resampled(tensor[:, prefix:], (before, before), (now, now), cubic)
            return torch.cat([tensor[:, :prefix], patches], 1)
    if name.endswith("relative_position_bias_table") and tensor.shape[1] == expected[1]:
        window = encoder.get_submodule(name.rpartition(".")[0]).window_size
        return resize_rel_pos_bias_table(tensor, new_window_size=window, new_bias_shape=expected)
    if tensor.squeeze().shape == torch.Size([n for n in expected if n != 1]):  # torchvision's layer scale [C, 1, 1]
        return tensor.reshape(expected)
    raise _other_shape(origin, key, tensor, encoder, expected)


def _other_shape(origin: str, key: str, tensor: Tensor, encoder: Encoder, expected: torch.Size) -> WeightsError:
    positions = key.endswith("pos_embed") and encoder.dimensions == 3
    hint = "; learnt positions are read of a cube of patches, or of the views' size, without register tokens"
    return WeightsError(
        f"{origin}: '{key}' has shape {tuple(tensor.shape)}, {encoder.name} needs {tuple(expected)}{hint * positions}"
    )
