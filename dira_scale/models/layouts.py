"""Local weights to start from, in whichever published layout: recognised by their names, read without unpickling."""

import argparse
import math
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor, nn

from dira_scale.errors import UserError, nearest
from dira_scale.models.encoder import Encoder, timm_names
from dira_scale.models.unet import UNet
from dira_scale.train import checkpoint

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
_RESNET = r"^((?:[A-Za-z_]\w*\.)*)"  # a prefix in front of the numbered children of a ResNet in nn.Sequential


def _stage(kind: str, first: int) -> Callable[[re.Match[str]], str]:
    """torchvision counts stages and the downsampling between them in one list, timm the stages alone."""
    return lambda found: f"{kind}.{(int(found[1]) - first) // 2}."


# Names of other libraries -> timm's, where timm itself has others. Applied in order, after any prefix.
TRANSLATIONS: dict[str, Rules] = {
    "timm or torchvision": (),
    "torchvision ConvNeXt": (
        (r"\bfeatures\.0\.", "stem."),
        (r"\bfeatures\.([1357])\.(?=\d+\.(?:block|layer_scale))", lambda m: _stage("stages", 1)(m) + "blocks."),
        (r"\bfeatures\.([246])\.", lambda m: _stage("stages", 0)(m) + "downsample."),
        (r"\bblock\.0\.", "conv_dw."),
        (r"\bblock\.2\.", "norm."),
        (r"\bblock\.3\.", "mlp.fc1."),
        (r"\bblock\.5\.", "mlp.fc2."),
        (r"\blayer_scale$", "gamma"),
    ),
    "torchvision Swin": (
        (r"\bfeatures\.0\.0\.", "patch_embed.proj."),
        (r"\bfeatures\.0\.2\.", "patch_embed.norm."),
        (r"\bfeatures\.([1357])\.(?=\d+\.)", lambda m: _stage("layers", 1)(m) + "blocks."),
        (r"\bfeatures\.([246])\.", lambda m: _stage("layers", 0)(m) + "downsample."),
        (r"\bmlp\.0\.", "mlp.fc1."),
        (r"\bmlp\.3\.", "mlp.fc2."),
    ),
    "torchvision ViT": (
        (r"\bclass_token$", "cls_token"),
        (r"\bconv_proj\.", "patch_embed.proj."),
        (r"\bencoder\.pos_embedding$", "pos_embed"),
        (r"\bencoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"\bencoder\.ln\.", "norm."),
        (r"\bln_([12])\.", r"norm\1."),
        (r"\bself_attention\.in_proj_", "attn.qkv."),
        (r"\bself_attention\.out_proj\.", "attn.proj."),
        (r"\bmlp\.(?:0|linear_1)\.", "mlp.fc1."),
        (r"\bmlp\.(?:3|linear_2)\.", "mlp.fc2."),
    ),
    "children of a ResNet": (
        (_RESNET + r"0\.(?=weight$)", r"\1conv1."),
        (_RESNET + r"1\.(?=\w+$)", r"\1bn1."),
        (_RESNET + r"([4567])\.(?=\d+\.)", lambda m: f"{m[1]}layer{int(m[2]) - 3}."),
    ),
}
# Momentum copies are passed over where the file has the trained network too.
_COPY = re.compile(r"(^|[._])(k|key|ema|momentum|target|teacher)([._]|$)")


class Start:
    """Weights of one file, or of one of our run folders, for an encoder and perhaps its U-Net.

    Layouts are not told apart by who made them. All names of the encoder must be there behind one common prefix,
    whatever it is (``state_dict.module.encoder_q.backbone.encoder.``), under our own names, timm's, or names that
    ``TRANSLATIONS`` turns into timm's. What else the file has (classifier, projector, queue) is not used.

    Adapted are: a stem for one channel (its weights, shared evenly among the channels, give the same features for a
    grey image), position embeddings of another image size and relative position biases of another window (resampled).
    """

    def __init__(self, path: Path, encoder: Encoder) -> None:
        """Read ``path`` and fill ``encoder``.

        Raises ``UserError`` naming the file: it is not there, is no plain tensors, or is of another network.
        """
        self.path = path
        self._stored = dict(_flatten(_read(path)))
        self.loaded: list[str] = []
        layout, prefix, names = self._find(encoder)
        state = encoder.state_dict()
        state |= {ours: _fit(self.path, theirs, self._stored[theirs], ours, encoder) for ours, theirs in names.items()}
        encoder.load_state_dict(state)
        self._used = set(names.values())
        behind = f" behind '{prefix}'" if prefix else ""
        self.loaded.append(f"encoder ({layout} names{behind})")

    def fill(self, unet: UNet) -> None:
        """Decoder and one-channel head too, where the file has them; ``UserError`` for a decoder of other sizes."""
        names = list(unet.decoder.state_dict())
        prefixes = _prefixes(names, self._stored)
        if not prefixes:
            return
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
        attempts: list[tuple[str, dict[str, str], dict[str, str]]] = [
            ("our own or smp's tu-", {name: name for name in encoder.state_dict()}, {n: n for n in self._stored})
        ]
        for layout, rules in TRANSLATIONS.items():
            attempts.append((layout, timm_s, {_translate(name, rules): name for name in self._stored}))
        nearest_miss: tuple[int, str] = (-1, "")
        for layout, wanted, stored in attempts:
            names = {ours: theirs for ours, theirs in wanted.items() if not _is_count(theirs)}
            prefixes = _prefixes(names.values(), stored)
            if len(prefixes) > 1:
                places = " and ".join(f"'{prefix}'" for prefix in prefixes)
                raise UserError(f"model.weights: {self.path}: holds this encoder at {places}; keep one of them")
            if prefixes:
                return layout, prefixes[0], {ours: stored[prefixes[0] + theirs] for ours, theirs in names.items()}
            nearest_miss = max(nearest_miss, _miss(names.values(), stored), key=lambda miss: miss[0])
        missing = nearest_miss[1]
        raise UserError(
            f"model.weights: {self.path}: is not of {encoder.name} in any known layout (docs/weights.md), "
            f"'{missing}' is missing{nearest(missing, self._stored)}"
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


def _read(path: Path) -> Any:
    key = f"model.weights: {path}"
    if path.is_dir():
        stages = checkpoint.stages_with_best(path)
        return checkpoint.load(checkpoint.best(path, stages[-1]) if stages else checkpoint.latest(path))[0]
    if not path.is_file():
        raise UserError(f"{key}: no such file; name a local .safetensors or .pth file, or a run's folder")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Releases keep their command line beside the weights. A Namespace only holds what this same reader let in.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{key}: holds {found[1]} beside its tensors, and Python objects are not unpickled here, since that "
                'can run code; if you trust who made the file, keep its tensors: python -c "import torch; '
                f"c = torch.load('{path}', map_location='cpu', weights_only=False); "
                f"torch.save(c.get('state_dict', c.get('model', c)), '{path.stem}-tensors.pth')\""
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{key}: cannot be read as plain tensors ({reason}); save a state_dict") from error


def _flatten(stored: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors with the keys that lead to them; optimizers number theirs and are left out."""
    if isinstance(stored, Tensor):
        yield prefix, stored
    elif isinstance(stored, Mapping):
        for key, value in stored.items():
            if isinstance(key, str):
                yield from _flatten(value, f"{prefix}.{key}" if prefix else key)


def _translate(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _prefixes(names: Iterable[str], stored: Iterable[str]) -> list[str]:
    """Prefixes behind which all of ``names`` are stored, copies left out where there is an original."""
    wanted = [name for name in names if not _is_count(name)]
    stored = set(stored)
    whole = [prefix for prefix in _ends(wanted[0], stored) if all(prefix + name in stored for name in wanted)]
    return [prefix for prefix in whole if not _COPY.search(prefix)] or whole


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
    expected = encoder.state_dict()[ours].shape
    if found.shape == expected:
        return found
    if found.dim() == 4 and found.shape[1] == 1 and found.shape[::2] == expected[::2] and len(expected) == 4:
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
