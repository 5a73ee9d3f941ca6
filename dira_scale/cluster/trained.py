"""The pretraining runs that a probe or an export of a sweep reads, and their configurations before they have run."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.cluster.records import Run
from dira_scale.config.compose import compose
from dira_scale.errors import UserError

NETWORK = ("stages.", "model.", "data.size=")  # keys that say what is trained, beside choices of groups


def trained_by(run: Run, runs: Sequence[Run]) -> list[Run]:
    """The pretraining runs among ``runs`` whose output is named in the words of ``run``."""
    folders = {word.removeprefix("run="): one for one in runs if one.verb == "pretrain" for word in one.words}
    return [one for folder, one in folders.items() if any(folder in word for word in run.words if "run=" in word)]


def about_networks(run: Run) -> tuple[str, ...]:
    """The words that decide stages and network: runs that share them are probed and exported alike."""
    words = (word for word in run.words if not word.startswith(("run=", "seed=", "steps=")))
    return tuple(
        word
        for word in words
        if "." not in word.partition("=")[0] or word.lstrip("+~").startswith(NETWORK) or "=" not in word
    )


def configurations(cfg: DictConfig, runs: Sequence[Run]) -> dict[str, Any] | None:
    """The configurations of the runs that ``cfg`` reads, by name; None where one is of another place and not there yet.

    ``runs``: those of the sweep that it may read.
    """
    from dira_scale.runs.reader import RunReader

    own = {folder: one for one in runs for folder in [word[4:] for word in one.words if word.startswith("run=")]}
    named = [cfg.run] if isinstance(cfg.run, str) else [*(cfg.run or [])]
    found: dict[str, Any] = {}
    for folder in named:
        if folder in own:
            found[own[folder].id] = _composed(about_networks(own[folder]))
            continue
        try:
            found[folder] = RunReader(Path(folder)).config
        except (UserError, OSError):
            return None
    return found


@lru_cache
def _composed(words: tuple[str, ...]) -> Any:
    return OmegaConf.to_container(compose("pretrain", [*words, "data.shards=any"]))
