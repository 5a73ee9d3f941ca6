"""Local weights to start from, in whichever published layout: recognised by their names, read without unpickling."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor, nn

from dira_scale.errors import UserError, nearest
from dira_scale.models.encoder import Encoder, timm_entries, timm_names
from dira_scale.models.stored import read_tensors
from dira_scale.models.translations import TRANSLATIONS, translate
from dira_scale.models.unet import UNet

# Momentum copies are passed over where the file has the trained network too.
_COPY = re.compile(r"(^|[._])(k|key|ema|momentum|target|teacher)([._]|$)")
# Buffers that a network computes for itself: older files hold them, newer ones do not.
_COMPUTED = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")


class Start:
    """Weights of one file, or of one of our run folders, for an encoder and perhaps its U-Net.

    Layouts are not told apart by who made them. All names of the encoder must be there behind one common prefix,
    whatever it is (``state_dict.module.encoder_q.backbone.encoder.``), under our own names, timm's, or names that
    ``TRANSLATIONS`` turns into timm's. What else the file has (classifier, projector, queue) is not used; but what it
    has among the encoder's stages must have its place, or it is of another network (resnet34's file holds all names
    of resnet18).

    Adapted are: a stem for one channel (its weights, shared evenly among the channels, give the same features for a
    grey image), position embeddings of another image size and relative position biases of another window (resampled).
    """

    def __init__(self, path: Path, encoder: Encoder, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Read ``path`` and fill ``encoder``. Where ``path`` is a run folder, ``tensors`` are those of its checkpoint.

        Raises ``UserError`` naming the file: it is not there, is no plain tensors, or is of another network.
        """
        self.path = path
        self._stored = dict(read_tensors(path) if tensors is None else tensors)
        self.loaded: list[str] = []
        layout, prefix, names = self._find(encoder)
        state = encoder.state_dict()
        state |= {ours: _fit(self.path, theirs, self._stored[theirs], ours, encoder) for ours, theirs in names.items()}
        encoder.load_state_dict(state)
        self._used = set(names.values())
        behind = f" behind '{prefix}'" if prefix else ""
        self.loaded.append(f"encoder ({layout} names{behind})")

    def fill(self, unet: UNet) -> None:
        """Decoder and one-channel head too, where the file has them; ``UserError`` for a decoder of other sizes.

        A decoder that has more than ours (smp's with attention) is another one, and not used.
        """
        names = list(unet.decoder.state_dict())
        prefixes = [p for p in _prefixes(names, self._stored) if not _more(p, [p], names, self._stored)]
        if not prefixes:
            return
        if len(prefixes) > 1:
            places = " and ".join(f"'{prefix}'" for prefix in prefixes)
            raise UserError(f"model.weights: {self.path}: holds this decoder at {places}; keep one of them")
        self._load("decoder", unet.decoder, {name: prefixes[0] + name for name in names if not _is_count(name)})
        parent = prefixes[0].removesuffix("decoder.")
        for head in (f"{parent}segmentation_head.0.", f"{parent}head."):
            found = self._stored.get(f"{head}weight")
            if found is not None and found.shape == unet.head.weight.shape:
                self._load("head", unet.head, {name: head + name for name in ("weight", "bias")})

    def __str__(self) -> str:
        rest = [name for name in self._stored if name not in self._used and not _is_count(name)]
        shown = f": {', '.join(rest[:3])}{', …' if len(rest) > 3 else ''}" if rest else ""
        return f"model.weights: {self.path}: {', '.join(self.loaded)} loaded; {len(rest)} other entries not used{shown}"

    def _find(self, encoder: Encoder) -> tuple[str, str, dict[str, str]]:
        """The layout, the prefix, and which of the file's entries each of the encoder's is."""
        timm_s = timm_names(encoder)
        own, entries = {name: name for name in encoder.state_dict()}, timm_entries(encoder)
        attempts: list[tuple[str, dict[str, str], Iterable[str], dict[str, str]]] = [
            ("our own or smp's tu-", own, own, {name: name for name in self._stored})
        ]
        for layout, rules in TRANSLATIONS.items():
            attempts.append((layout, timm_s, entries, {translate(name, rules): name for name in self._stored}))
        nearest_miss: tuple[int, str] = (-1, "")
        for layout, wanted, known, stored in attempts:
            names = {ours: theirs for ours, theirs in wanted.items() if not _is_count(theirs)}
            prefixes = _prefixes(names.values(), stored)
            if len(prefixes) > 1:
                places = " and ".join(f"'{prefix}'" for prefix in prefixes)
                raise UserError(f"model.weights: {self.path}: holds this encoder at {places}; keep one of them")
            if prefixes:
                self._refuse_more(prefixes[0], names.values(), known, stored, encoder.name)
                return layout, prefixes[0], {ours: stored[prefixes[0] + theirs] for ours, theirs in names.items()}
            nearest_miss = max(nearest_miss, _miss(names.values(), stored), key=lambda miss: miss[0])
        missing = nearest_miss[1]
        raise UserError(
            f"model.weights: {self.path}: is not of {encoder.name} in any known layout (docs/weights.md), "
            f"'{missing}' is missing{nearest(missing, self._stored)}"
        )

    def _refuse_more(
        self, prefix: str, wanted: Iterable[str], known: Iterable[str], stored: Mapping[str, str], encoder: str
    ) -> None:
        """``UserError`` where the file has more behind ``prefix`` in the stages of ``wanted`` than is ``known``."""
        stages = {found[0] for name in wanted if (found := re.match(r"(model\.)*(?!model\.)\w+\.(?=\w+\.\w)", name))}
        if more := [stored[name] for name in _more(prefix, [prefix + stage for stage in stages], known, stored)]:
            raise UserError(
                f"model.weights: {self.path}: is of another network than {encoder}, which has no place for '{more[0]}'"
                f"{f' and {len(more) - 1} more' if len(more) > 1 else ''}; set model.encoder to the file's"
            )

    def _load(self, part: str, module: nn.Module, names: Mapping[str, str]) -> None:
        state = module.state_dict()
        for ours, theirs in names.items():
            if (found := self._stored[theirs].shape) != state[ours].shape:
                raise UserError(
                    f"model.weights: {self.path}: '{theirs}' has shape {tuple(found)}, the {part} needs "
                    f"{tuple(state[ours].shape)}; set model.encoder and model.decoder_channels to the file's"
                )
            state[ours] = self._stored[theirs]
        module.load_state_dict(state)
        self._used |= set(names.values())
        self.loaded.append(part)


def _prefixes(names: Iterable[str], stored: Iterable[str]) -> list[str]:
    """Prefixes behind which all of ``names`` are stored, copies left out where there is an original."""
    wanted = [name for name in names if not _is_count(name)]
    stored = set(stored)
    whole = [prefix for prefix in _ends(wanted[0], stored) if all(prefix + name in stored for name in wanted)]
    return [prefix for prefix in whole if not _COPY.search(prefix)] or whole


def _more(prefix: str, within: Iterable[str], known: Iterable[str], stored: Iterable[str]) -> list[str]:
    """What is stored under one of the prefixes ``within``, and is none of the ``known`` names behind ``prefix``."""
    places, within = {prefix + name for name in known}, tuple(within)
    return [n for n in stored if n.startswith(within) and n not in places and not n.endswith(_COMPUTED)]


def _miss(names: Iterable[str], stored: Iterable[str]) -> tuple[int, str]:
    """How many of ``names`` are stored behind the prefix that has most of them, and the first that is not."""
    wanted, stored = list(names), set(stored)
    prefixes = {prefix for name in wanted[:3] for prefix in _ends(name, stored)} | {""}
    best = max(sorted(prefixes), key=lambda prefix: sum(prefix + name in stored for name in wanted))
    missing = [best + name for name in wanted if best + name not in stored]
    return len(wanted) - len(missing), missing[0]


def _ends(name: str, stored: Iterable[str]) -> list[str]:
    return sorted(key[: len(key) - len(name)] for key in stored if key == name or key.endswith(f".{name}"))


def _is_count(name: str) -> bool:
    """BatchNorm's count of batches, which old files lack and nothing here reads."""
    return name.endswith("num_batches_tracked")


def _fit(path: Path, theirs: str, found: Tensor, ours: str, encoder: Encoder) -> Tensor:
    """``found`` in the shape that the encoder's entry ``ours`` has."""
    entry = encoder.state_dict()[ours]
    found, expected = found.to(entry.dtype), entry.shape
    if found.shape == expected:
        return found
    if len(expected) == 4 and expected[1] == encoder.channels[0] and found.shape == (expected[0], 1, *expected[2:]):
        return found.expand(expected) / expected[1]
    if ours.endswith("pos_embed") and found.dim() == len(expected) == 3 and found.shape[2] == expected[2]:
        prefix = 0 if encoder.model.no_embed_class else encoder.model.num_prefix_tokens
        side = math.isqrt(expected[1] - prefix)
        return resample_abs_pos_embed(found, new_size=[side, side], num_prefix_tokens=prefix)
    if ours.endswith("relative_position_bias_table") and found.shape[1] == expected[1]:
        window = encoder.get_submodule(ours.rpartition(".")[0]).window_size
        return resize_rel_pos_bias_table(found, new_window_size=window, new_bias_shape=expected)
    if found.squeeze().shape == torch.Size([n for n in expected if n != 1]):  # torchvision's layer scale [C, 1, 1]
        return found.reshape(expected)
    raise UserError(
        f"model.weights: {path}: '{theirs}' has shape {tuple(found.shape)}, {encoder.name} needs {tuple(expected)}"
    )
