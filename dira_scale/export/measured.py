"""What a run's card says beside its description: its author's words, its hours, and its finished evaluations, which
`probe` and `finetune` have left in their folders."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from dira_scale.errors import UserError
from dira_scale.evaluation.comparison import compared
from dira_scale.evaluation.probe_figures import from_json
from dira_scale.evaluation.probe_table import markdown, overviews
from dira_scale.evaluation.results import FILE
from dira_scale.export.config import CardWords
from dira_scale.export.release import Compute, Release
from dira_scale.metrics.statistics.spread import spread_table
from dira_scale.runs.description import read_description
from dira_scale.runs.reader import RunReader, TrainingData

PROBE = "probe.json"


def release_of(cfg: DictConfig, run: RunReader, datasets: Sequence[TrainingData]) -> Release:
    """Return the release of a ``run``, for ``configs/export.yaml``.

    Raises:
        UserError: a folder of ``card.evaluation`` is not an evaluation of this run; with ``release``, there are gaps.
    """
    folders = cfg.card.evaluation or []
    tables = [evaluated(Path(path), run.folder) for path in ([folders] if isinstance(folders, str) else folders)]
    compute = Compute.of(run.rows(), run.environment())
    shards = datasets[0].known.path if datasets else "SHARDS"
    release = Release(CardWords(**cfg.card), compute, tables, str(run.folder), shards)
    if cfg.release:
        release.require_complete(run.description, datasets)
    return release.without_paths()


def evaluated(folder: Path, run: Path) -> str:
    """A table with the spread or the interval of each figure.

    Raises:
        UserError: ``folder`` has no figures, or none of ``run``; a file is damaged.
    """
    try:
        if (folder / PROBE).is_file():
            return _probed(folder, run)
        if (folder / FILE).is_file():
            return _finetuned(folder, run)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"card.evaluation: {folder} cannot be read: {error!r}; evaluate again") from error
    raise UserError(f"card.evaluation: {folder} has no {PROBE} and no {FILE}; name what probe or finetune has written")


def _probed(folder: Path, run: Path) -> str:
    content = json.loads((folder / PROBE).read_text())
    runs = content["config"]["run"] or []
    _check(folder, run, [runs] if isinstance(runs, str) else runs)
    tables = overviews(from_json(content["figures"]))
    shown = [markdown(f"Frozen features, {title}, in percent", cells) for title, cells in tables]
    return "\n".join([*shown, *(f"- {note}" for note in content["notes"])])


def _finetuned(folder: Path, run: Path) -> str:
    description = read_description(folder)
    start = description.network.start
    _check(folder, run, [str(folder), *([start] if start else [])])
    spreads = [replace(spread, setting=folder.name) for spread in compared([({}, folder)]).spreads]
    names = ", ".join(data.name or Path(data.path).name for data in description.data.datasets)
    return markdown(f"Fine-tuned on {names}; the interval is over test patients (bootstrap)", spread_table(spreads))


def _check(folder: Path, run: Path, evaluated: list[str]) -> None:
    """Raise UserError unless ``run`` is one of the runs that are ``evaluated``."""
    if run.resolve() not in [Path(name).resolve() for name in evaluated]:
        whose = ", ".join(evaluated) or "no run"
        raise UserError(f"card.evaluation: {folder} evaluates {whose}, not {run}; name an evaluation of this run")
