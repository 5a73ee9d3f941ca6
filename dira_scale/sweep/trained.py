"""The runs that others of a sweep read, and their descriptions before they have trained."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dira_scale.commands import COMMANDS
from dira_scale.config.compose import compose, defaults
from dira_scale.errors import UserError
from dira_scale.runs.description import Description, read_description
from dira_scale.sweep.records import Run


def outputs(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs that train, by the folders where they do."""
    return {folder: run for run in runs if COMMANDS[run.command].trains and (folder := _output(run))}


def read_by(run: Run, trained: Mapping[str, Run]) -> list[Run]:
    """The runs among ``trained``, which :func:`outputs` gives, that are named in the words of ``run``."""
    named = [word.removeprefix("run=") for word in run.words if word.startswith("run=")]
    if exact := [trained[folder] for folder in named if folder in trained]:
        return exact
    return [run for folder, run in trained.items() if any(folder in several for several in named)]  # run=[…, …]


def describing(run: Run) -> tuple[str, ...]:
    """The words that decide what others read of a run's description, choices of groups among them: runs that share
    them are probed and exported alike."""
    row = COMMANDS[run.command]

    def decides(key: str) -> bool:
        return key.partition(".")[0] in row.described or key in row.described

    words = (word for word in run.words if not word.startswith((f"{row.output}=", "seed=", "steps=")))
    return tuple(word for word in words if "." not in _key(word) or decides(_key(word)) or "=" not in word)


def descriptions(cfg: DictConfig, runs: Sequence[Run]) -> dict[str, Description] | None:
    """The descriptions of the runs that ``cfg`` reads, by name; None where one is of another place and not there yet.

    ``runs``: those of the sweep that it may read.
    """
    trained = {_output(run): run for run in runs}
    named = [cfg.run] if isinstance(cfg.run, str) else [*(cfg.run or [])]
    result: dict[str, Description] = {}
    for folder in named:
        if folder in trained:
            result[trained[folder].id] = _described(trained[folder].command, describing(trained[folder]))
            continue
        try:
            result[folder] = read_description(Path(folder))
        except (UserError, OSError):
            return None
    return result


@lru_cache
def _described(command: str, words: tuple[str, ...]) -> Description:
    """With anything for the other keys that the command requires, such as its data."""
    given = {_key(word) for word in words}
    required = [f"{key}=any" for key in sorted(OmegaConf.missing_keys(defaults(command))) if key not in given]
    from dira_scale.training.blueprint import blueprint_of  # imports torch

    return blueprint_of(command, compose(command, [*words, *required])).describe()


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _output(run: Run) -> str:
    key = f"{COMMANDS[run.command].output}="
    return next((word.removeprefix(key) for word in run.words if word.startswith(key)), "")
