"""The command `sweep`: what its command line says, what is printed, what is recorded before anything starts."""

import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.base.config.files import roots
from dira_scale.base.config.overrides import Arguments, key_of
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import as_user_error, write_atomic
from dira_scale.base.storage.owned import own
from dira_scale.sweep.check import check_machines, check_runs, rehearse
from dira_scale.sweep.command_line import read
from dira_scale.sweep.config import OWN, SweepConfig
from dira_scale.sweep.expand import expand
from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.slurm import script
from dira_scale.sweep.status import AT_WORK, known_statuses
from dira_scale.sweep.watch import carry_out
from dira_scale.train.runs.exit_codes import DONE

logger = logging.getLogger(__name__)

RECORD = "sweep.yaml"
LEFT_ALONE = (*AT_WORK, "done", "cancelled")  # what a sweep that is started again does not start


def split(words: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The sweep's own words, and by phase ``KEY: VALUE`` of each ``PHASE.KEY=VALUE``.

    Raises UserError if there is no ``sweep=NAME``.
    """
    kept: list[str] = []
    typed: dict[str, dict[str, Any]] = {}
    arguments = Arguments.parse(words)
    for word in words:
        phase, dot, rest = word.partition("=")[0].partition(".")
        if word in arguments.words and dot and "=" in word and phase.lstrip("+~") not in OWN:
            typed.setdefault(phase, {})[rest] = read(word.partition("=")[2])
        else:
            kept.append(word)
    if not arguments.help and "sweep" not in map(key_of, arguments.words):
        folders = roots("sweep", arguments.config_dirs)
        files = {file.stem for root in folders for file in (root / "sweep").glob("*.yaml")}
        raise UserError(f"sweep=NAME must be given. There are: {', '.join(sorted(files))}; --config-dir adds yours")
    return kept, typed


def start(words: Sequence[str], typed: Mapping[str, Mapping[str, Any]], cfg: DictConfig) -> int:
    """Carry out a sweep, or say what it would do (``dry_run``). ``words``: those that ``cfg`` was composed from."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, SweepConfig)
    chosen = {key_of(word): str(read(word.partition("=")[2])) for word in Arguments.parse(words).words}
    if "sweep.name" not in chosen and (file := Path(chosen["sweep"]).name) != config.sweep.name:  # names the folder
        name = f"its name is {config.sweep.name}; write name: {file} in {file}.yaml"
        raise UserError(f"sweep={chosen['sweep']}: {name}")
    folder = SweepFolder(Path(config.folder))
    runs = expand(config.sweep, folder.path, typed, Arguments.parse(words).config_dirs)
    check_machines(config, runs)
    statuses = known_statuses(folder)
    now = {run.id: statuses[run.id].state if run.id in statuses else "missing" for run in runs}
    starting = [run for run in runs if now[run.id] not in LEFT_ALONE]
    logger.info("%s: %s", config.sweep.name, _counted(now))
    if starting:
        check_runs(starting, runs)
        for line in rehearse(config, starting):
            print(line)
    if config.dry_run:
        for phase in dict.fromkeys(run.phase for run in runs):
            group = [run for run in runs if run.phase == phase]
            print(f"\n{phase}: {_counted({run.id: now[run.id] for run in group})}")
            for run in group:
                print(f"  {run.name}: {now[run.id]}\n    python -m dira_scale.{run.command} {shlex.join(run.words)}")
            group = [run for run in group if now[run.id] not in LEFT_ALONE]
            if config.cluster.executor == "slurm" and group:
                print("\n" + script(folder, config, group))  # that sbatch would be given
        return DONE
    with as_user_error(folder.path, "folder"):
        own(folder.path, "a sweep", "folder")
    return carry_out(folder, config, runs, starting, lambda started: record(folder, cfg, runs, started))


def record(folder: SweepFolder, cfg: DictConfig, runs: Sequence[Run], start: Sequence[Run]) -> None:
    """Write down the sweep, all its ``runs``, and those of them that are about to be started."""
    folder.path.mkdir(parents=True, exist_ok=True)
    write_atomic(folder.path / RECORD, OmegaConf.to_yaml(cfg))
    for run in start:
        folder.add(run)
    for run in runs:  # one that stays may vary in another key than before
        before = folder.run(run.id)
        if before.varied != run.varied:
            folder.add(replace(before, varied=run.varied))
    folder.set_current([run.id for run in runs])


def recorded(folder: SweepFolder) -> SweepConfig:
    """The sweep as last submitted. Raises UserError if there is none in the folder."""
    path = folder.path / RECORD
    if not path.is_file():
        raise UserError(f"folder={folder.path}: no sweep there; name a folder that python -m dira_scale.sweep wrote")
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SweepConfig), OmegaConf.load(path)))
    assert isinstance(config, SweepConfig)
    return config


def _counted(now: Mapping[str, str]) -> str:
    """``7 runs: 5 done, 2 not started``; ``7 runs to start``."""
    runs = f"{len(now)} run{'s' * (len(now) != 1)}"
    counts = Counter("not started" if state == "missing" else state for state in now.values())
    if [*counts] == ["not started"]:
        return f"{runs} to start"
    return f"{runs}: {', '.join(f'{count} {state}' for state, count in counts.items())}"
