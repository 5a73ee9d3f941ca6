"""One run on SLURM, by ``cluster=slurm`` of a command that trains: a sweep of this run alone.

It lies in ``slurm/`` of the run's folder, which `sweep status`, `logs`, `cancel` and `retry` take as ``folder``.

Later calls with other settings, such as more steps, are further runs of that sweep with the same output.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils.epy import lazy_imports
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.base.config.overrides import Arguments, key_of
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import as_user_error
from dira_scale.base.storage.owned import check_own, own
from dira_scale.commands import COMMANDS
from dira_scale.sweep.check import rehearse
from dira_scale.sweep.command_line import digest_of, name_of, read, words_of
from dira_scale.sweep.config import Phase, Submission, Sweep, SweepConfig
from dira_scale.sweep.records import Launch, Run, SweepFolder
from dira_scale.sweep.slurm import require_sbatch, script, submit
from dira_scale.sweep.start import record
from dira_scale.sweep.status import AT_WORK, known_statuses
from dira_scale.sweep.watch import in_control
from dira_scale.train.runs.exit_codes import DONE

with lazy_imports():
    from dira_scale.train import blueprint
    from dira_scale.train.runs import complete, identity, lease
    from dira_scale.train.runs import folder as run_folder

FOLDER = "slurm"  # in the run's


def chosen(own_words: Sequence[str], words: Sequence[str]) -> Submission | None:
    """Return how to submit a run of the command line ``words``, by its words ``own_words``; None: it runs here.

    Raises UserError for a wrong key, or one that only a submitted run has.
    """
    folders = [word for folder in Arguments.parse(words).config_dirs for word in ("--config-dir", str(folder))]
    submission: Any = OmegaConf.to_object(compose("submission", [*folders, *own_words]))
    assert isinstance(submission, Submission)
    if submission.cluster.executor == "slurm":
        return submission
    if other := next((word for word in own_words if key_of(word) != "cluster"), ""):
        raise UserError(f"{other} is for a run that cluster=slurm submits; torchrun starts several processes here")
    return None


def submit_run(command: str, words: Sequence[str], cfg: DictConfig, submission: Submission) -> int:
    """Submit the run of ``command`` that ``words`` and, composed of them, ``cfg`` describe; return the exit code.

    What is checked is composed of the words that the job will have, whose local paths are absolute.

    Raises UserError for what the run would refuse without data, one that is queued or runs, and what SLURM refuses.
    """
    if not submission.dry_run:
        require_sbatch()
    path = Path(cfg.run)
    with as_user_error(path, "run"):
        check_own(path, "run", "run")
    folder, run = SweepFolder(path / FOLDER), run_of(command, words, path, submission)
    name = re.sub(r"[^\w.-]+|^\W+", "-", path.absolute().name, flags=re.ASCII).lstrip("-") or command
    phases = {command: Phase(command=command, nodes=submission.nodes, processes=submission.processes)}
    sweep = Sweep(name=name, phases=phases)
    config = SweepConfig(str(path / FOLDER), dry_run=False, detach=True, sweep=sweep, cluster=submission.cluster)
    if not submission.dry_run and _is_done(folder, run, path):
        return DONE
    cfg = compose(command, run.words)
    _refuse_other_settings(command, path, cfg)
    blueprint.blueprint_of(command, cfg).check(run.launch.nodes * run.launch.processes)
    for line in rehearse(config, [run]):
        print(line)
    if submission.dry_run:
        print(f"\npython -m dira_scale.{command} {shlex.join(run.words)}\n\n{script(folder, config, [run])}")
        return DONE
    with as_user_error(path, "run"):
        own(path, "run", "run")
        own(folder.path, "a sweep", "run")
    folder = SweepFolder(path / FOLDER)  # with the runs of a process that was here meanwhile
    with in_control(folder):
        if _is_done(folder, run, path):  # another process may have submitted it meanwhile
            return DONE
        record(folder, OmegaConf.structured(config), [run], [run])
        folder.revive(run.id)
        submit(folder, config, [run], {})
    by, where = "python -m dira_scale.sweep", shlex.quote(f"folder={path / FOLDER}")
    print(f"{path}: job {folder.jobs[run.id][-1]} is submitted; logs: log.txt there, {FOLDER}/jobs before it begins")
    page = f"python -m dira_scale.report {shlex.quote(f'run={path}')} watch=true"
    print(f"follow: {by} status {where} watch=5, or {page}")
    print(f"end, after a checkpoint: {by} cancel {where}; resume: the same command again")
    return DONE


def run_of(command: str, words: Sequence[str], path: Path, submission: Submission) -> Run:
    """Return the run in the folder ``path`` as a sweep records it."""
    arguments, output = Arguments.parse(words), COMMANDS[command].output
    removed = [word for word in arguments.words if word.startswith("~")]
    pairs = (word.partition("=") for word in arguments.words if word not in removed)
    values = {key: read(value) for key, _, value in pairs if key != output}
    name = name_of(digest_of(command, values | dict.fromkeys(removed), {}), {output: path.name})
    typed = [*removed, *words_of(command, values, str(path.absolute()), arguments.config_dirs)]
    launch = Launch(submission.nodes, submission.processes)
    return Run(command, name, command, typed, str(path.absolute()), launch=launch)


def _refuse_other_settings(command: str, path: Path, cfg: DictConfig) -> None:
    """Raise UserError if the run's folder was trained with others; the run itself also compares data and machine."""
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    before = run_folder.recorded_config(path, complete.locate_folder(path, content.get("checkpoint", {}).get("folder")))
    known = {key: content[key] for key in content.keys() & before.keys()}
    run_folder.refuse_other_settings(path, {key: before[key] for key in known}, known, identity.execution(command))


def _is_done(folder: SweepFolder, run: Run, path: Path) -> bool:
    """Return whether nothing is left to submit, and say so. Raises UserError if the folder's run is queued or runs."""
    statuses = known_statuses(folder)
    for status in statuses.values():
        if status.state in AT_WORK:
            cancel = f"python -m dira_scale.sweep cancel {shlex.quote(f'folder={path / FOLDER}')}"
            raise UserError(f"run={path}: job {status.job} has it, which is {status.state}; {cancel} ends it")
    if holder := lease.living(path):
        raise UserError(f"run={path}: {holder} writes to this run; stop it, or choose another run=…")
    if run.id not in statuses or statuses[run.id].state != "done":
        return False
    print(f"{path}: done; nothing is submitted")
    return True
