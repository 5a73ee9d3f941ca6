"""Checks before a command begins: that a folder is a run's, and which of its checkpoints are complete. Imports no
torch, which takes seconds."""

import re
import shlex
from pathlib import Path

from omegaconf import DictConfig

from dira_scale.base.config.trust import require_asked
from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import is_local, locate
from dira_scale.commands import COMMANDS
from dira_scale.train.runs.files import read_yaml

INDEX = "index.json"
STEP = re.compile("[0-9]{9}")  # names of checkpoints; users' folders may be dates and times


def config_file(folder: Path) -> Path:
    """The configuration of the run in ``folder``. Raises UserError if there is no run."""
    path = folder / "config.yaml"
    if not path.is_file():
        if (folder / "dataset.json").is_file():
            raise UserError(f"run={folder} is a sharded dataset, not a run: look at it with python -m dira_scale.shard "
                            f"stats {shlex.quote(f'path={folder}')}")  # fmt: skip
        commands = " or ".join(command.name for command in COMMANDS.values() if command.trains)
        raise UserError(f"run={folder} is not a run folder: {path.name} is missing; name one that {commands} wrote")
    return path


def check_runs(cfg: DictConfig) -> None:
    """Raise UserError if what ``cfg.run`` names is no run."""
    for run in [cfg.run] if isinstance(cfg.run, str) else cfg.run or []:
        config_file(Path(run))


def check_folder(cfg: DictConfig) -> None:
    """Raise UserError if ``cfg.run``, a run or its export, is no folder."""
    if not Path(cfg.run).is_dir():
        raise UserError(f"run={cfg.run} is not a folder: name a fine-tuned run, or its export")


def locate_folder(run: Path, folder: str | None) -> Path:
    """The folder of a run's checkpoints: ``run/checkpoints``, or the value of ``checkpoint.folder`` (a path or a URL).

    Raises UserError if the kind of store is unknown, or its package is missing.
    """
    return run / "checkpoints" if folder is None else locate(folder, "checkpoint.folder")


def find_folder(run: Path) -> Path:
    """The folder of checkpoints of the run in folder ``run``, according to its own configuration.

    Raises UserError as :func:`locate_folder`, or if only the run names that address.
    """
    path = run / "config.yaml"
    section = read_yaml(path).get("checkpoint") if path.is_file() else None
    folder = section.get("folder") if isinstance(section, dict) else None
    if not isinstance(folder, str):
        return locate_folder(run, None)
    require_asked(folder, f"checkpoints of {run}")
    return locate_folder(run, folder)


def complete(folder: Path) -> list[Path]:
    """Checkpoints that were written completely, oldest first; not verified."""
    return [path for path in numbered(folder) if is_local(path) or (path / INDEX).exists()]


def numbered(folder: Path) -> list[Path]:
    """Folders of checkpoints, complete or not, oldest first."""
    if not folder.exists():
        return []
    return sorted((path for path in folder.iterdir() if STEP.fullmatch(path.name)), key=lambda path: int(path.name))


def newest_step(run: Path) -> int:
    """The step of the newest complete checkpoint, from which the run in folder ``run`` would resume; 0 without one.

    Raises UserError or OSError if the disk or the store does not answer.
    """
    return max((int(path.name) for path in complete(find_folder(run))), default=0)
