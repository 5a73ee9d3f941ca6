"""The weights that a network starts from, by one key: random, a run, an export, or a file of any known layout."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dira_scale.base.config.border import at
from dira_scale.base.errors import printable
from dira_scale.train.models.hub import CARD, EXPORTED, is_hub, local, name_of
from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.network import Encoder, Network
from dira_scale.train.runs.choice import run_weights
from dira_scale.train.runs.description import read_description

RANDOM = "random"
# Of files without a card that are called as their authors publish them. RAD-DINO, and timm's, have one.
PUBLISHED = {
    r"dinov2_vit[sblg]14_(reg4_)?pretrain\.pth": "apache-2.0",
    r"dinov3_\w+_pretrain_\w+-[0-9a-f]{8}\.pth": "dinov3-license",
}
AND = " and "  # between licences
SHOWN, BEGINNING = ".{1,300}", 2**16  # of a licence; characters of a card


@dataclass(frozen=True)
class Start:
    """The weights that were loaded.

    Attributes:
        path: of the run's folder, or of the file.
        loaded: a phrase for each part: the encoder with its layout, the decoder, the head.
        summary: a line for the log, with the licence.
        licence: of the weights; None if nothing beside them says it.
        taken: of a run, which checkpoint.
    """

    path: Path
    loaded: tuple[str, ...]
    summary: str
    licence: str | None
    taken: str | None = None

    @property
    def short(self) -> str:
        """A line for the screen."""
        parts = " and ".join(part.partition(" (")[0] for part in self.loaded)
        return printable(f"starts from {self.path}: {parts} loaded; licence: {self.licence or 'unknown'}")


def start_weights(
    init: str,
    encoder: Encoder,
    network: Network | None = None,
    other_norm: bool = False,
    key: str = "init",
    stage: str | None = None,
) -> Start | None:
    """Fill ``encoder`` from ``init``, and the decoder of ``network``, which is over it, if ``init`` has one. No head:
    what a new task predicts is not what the old one did.

    Args:
        init: ``random``: nothing is loaded; a run's folder; a folder or file
            that `export` wrote; a file in any layout of :mod:`dira_scale.train.models.layouts`, here or, by its address
            ``hf://…``, on the Hub (:mod:`dira_scale.train.models.hub`).
        other_norm: as of ``StartWeights``.
        stage: of a run, the checkpoint (``train.runs.choice.chosen_checkpoint``).

    Raises:
        UserError: names ``key`` and the file: there is none, it is damaged, or of another network (which tensor).
    """
    if init == RANDOM:
        return None
    with at(key):
        path = local(init)
        if path.is_dir() and not (path / "config.yaml").exists():  # a folder that export wrote
            files = [path / name for name in EXPORTED if (path / name).is_file()]
            if not files:
                raise ValueError(f"{path}: neither a run's folder nor one that export wrote; name one, or a file")
            path = files[0]
        run = run_weights(path, stage, key, init)
        named = init if is_hub(init) else None
        weights = StartWeights(path, encoder, run.tensors if run else None, other_norm, named)
        if network is not None:
            weights.fill(network, head=False)
    return replace(start_of(path, weights, key), taken=run.sentence if run else None)


def start_of(path: Path, weights: StartWeights, key: str) -> Start:
    """Return what has been loaded of ``weights``, which are those at ``path``, named by ``key``."""
    licence = licence_of(path)
    summary = printable(f"{key}: {weights}; licence: {licence or 'unknown'}")
    return Start(path, tuple(weights.loaded), summary, licence)


def licence_of(path: Path) -> str | None:
    """Return the licence of the weights at ``path``: as the card beside the file says, ours or one of Hugging Face; or,
    by the file's name, of what DINO's authors publish; or of a run's data and its own start.

    None if nothing says it. What a card says is a stranger's text: of it, a line of bounded length is returned.
    """
    if path.is_dir():
        run = read_description(path)
        licences = {dataset.licence or "unknown" for dataset in run.data.datasets}
        start = [run.network.licence or f"that of {name_of(run.network.start)}"] if run.network.start else []
        return in_one([*sorted(licences), *start])
    card = path.parent / CARD
    text = ""
    if card.is_file():
        with card.open(errors="replace") as file:
            text = file.read(BEGINNING)
    front = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    for key in (rf"license_name: *({SHOWN})", rf"license:(?! *other\b) *({SHOWN})"):
        if match := re.search(f"^{key}", front, re.MULTILINE):
            try:  # a string in double quotes, as JSON's; nothing else of YAML, whose aliases may grow without bound
                return printable(json.loads(match[1]) if match[1][0] == '"' else match[1].strip("' "))
            except ValueError:
                return printable(match[1])
    return next((licence for name, licence in PUBLISHED.items() if re.fullmatch(name, path.name)), None)


def in_one(licences: Iterable[str]) -> str:
    """Return all licences, each once; one may itself be of several."""
    return AND.join(dict.fromkeys(licence for several in licences for licence in several.split(AND)))
