"""The runs that others of a sweep read, and their configurations before they have trained."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.cluster.records import Run
from dira_scale.config.compose import compose
from dira_scale.errors import UserError
from dira_scale.verbs import VERBS

NETWORK = ("stages.", "model.", "data.size=")  # keys that say what is trained, beside choices of groups


def outputs(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs that train, by the folders where they do."""
    return {folder: one for one in runs if VERBS[one.verb].trains and (folder := _output(one))}


def read_by(run: Run, trained: Mapping[str, Run]) -> list[Run]:
    """The runs among ``trained``, which :func:`outputs` gives, that are named in the words of ``run``."""
    named = [word.removeprefix("run=") for word in run.words if word.startswith("run=")]
    if one := [trained[folder] for folder in named if folder in trained]:
        return one
    return [run for folder, run in trained.items() if any(folder in several for several in named)]  # run=[…, …]


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

    own = {_output(one): one for one in runs}
    named = [cfg.run] if isinstance(cfg.run, str) else [*(cfg.run or [])]
    found: dict[str, Any] = {}
    for folder in named:
        if folder in own:
            found[own[folder].id] = _composed(own[folder].verb, about_networks(own[folder]))
            continue
        try:
            found[folder] = RunReader(Path(folder)).config
        except (UserError, OSError):
            return None
    return found


@lru_cache
def _composed(verb: str, words: tuple[str, ...]) -> Any:
    return OmegaConf.to_container(compose(verb, [*words, "data.shards=any"]))


def _output(run: Run) -> str:
    key = f"{VERBS[run.verb].output}="
    return next((word.removeprefix(key) for word in run.words if word.startswith(key)), "")
