"""Check a network's names, sizes and paths before a command begins. Imports no torch and no timm, which take seconds;
what only a built network shows is checked with it."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError, nearest
from dira_scale.base.storage.store import is_local, locate
from dira_scale.train.models.hub import is_hub

REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)  # a network of timm, in its files
STRIDE = 32  # of the coarsest map of a ResNet, whose strided layers round up


def check_network(cfg: DictConfig) -> None:
    """Raise UserError for weights that are not here, a backbone that timm does not have, and views that a ResNet's
    maps do not divide."""
    for key, value in starts(cfg).items():
        if value == "random" or is_hub(value):
            continue
        path = locate(value, key)
        if is_local(path) and not path.exists() and value.partition(".")[0] not in _names():  # of these, more is said
            raise UserError(
                f"{key}={value}: no such file or folder; name a run's folder, an export or a file of weights"
            )
    encoder, size = OmegaConf.select(cfg, "model.encoder"), OmegaConf.select(cfg, "data.size")
    if not isinstance(encoder, str):
        return
    name = encoder.partition(".")[0]
    with at("model", {"size": "data.size"}):
        if _names() and ":" not in encoder and name not in _names():
            listing = '(list them with: python -c "import timm; print(*timm.list_models())")'
            raise ArgumentError("encoder", encoder, f"a backbone of timm{nearest(name, _names())} {listing}")
        if name.startswith(("resnet", "resnext", "wide_resnet")) and isinstance(size, int) and size % STRIDE:
            below = size // STRIDE * STRIDE
            fitting = f"{below} or {below + STRIDE}" if below else f"{STRIDE}"
            raise ArgumentError("size", size, f"{fitting}: the maps of {encoder} take a multiple of {STRIDE}")


def starts(cfg: DictConfig) -> dict[str, str]:
    """Return the weights that ``cfg`` names, by their keys: of the network, and of a method's teachers."""
    keys = ["init", "model.weights"]
    for node in ("method.teachers", "method.base.teachers"):
        several: Any = OmegaConf.select(cfg, node) or ()
        if isinstance(several, str):
            keys.append(node)
        else:
            of_each = enumerate(several)
            keys += [f"{node}.{n}" + ".weights" * (not isinstance(entry, str)) for n, entry in of_each]
    named = {key: OmegaConf.select(cfg, key) for key in keys}
    return {key: value for key, value in named.items() if isinstance(value, str)}


@cache
def _names() -> frozenset[str]:
    """The networks that timm registers, read from its files; empty if they are not where they were."""
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder, "models").glob("*.py")]
    return frozenset(name for file in files for name in REGISTERED.findall(file.read_text(errors="ignore")))
