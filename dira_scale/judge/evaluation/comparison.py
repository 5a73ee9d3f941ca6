"""Finished runs of `finetune` in one table: another pretraining, another seed and other test patients are kept apart.

A *setting* is what a sweep varies, without seeds. Initial weights that differ in their pretraining's seed alone are one
setting, and each of these runs counts. Random weights are drawn by the seed: there each seed is an initialisation, and
a pretraining that the sweep varies has no part in them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.cases import CASES, read_cases
from dira_scale.dataset.metrics.figure import Figure, Key
from dira_scale.dataset.metrics.statistics.bootstrap import Interval, bootstrap
from dira_scale.dataset.metrics.statistics.significance import Comparison, Over, compare, comparison_table
from dira_scale.dataset.metrics.statistics.spread import Result, Spread, spread_table, spreads
from dira_scale.dataset.metrics.statistics.weighted import Statistic, Statistics, average
from dira_scale.judge.evaluation.encoders import common_name
from dira_scale.judge.evaluation.results import read_results
from dira_scale.judge.tasks.task import Chosen, task_of
from dira_scale.train.models.start import RANDOM
from dira_scale.train.runs.complete import config_file
from dira_scale.train.runs.description import Description, read_description
from dira_scale.train.runs.files import read_yaml
from dira_scale.train.runs.identity import identity, seedless

# Of a run's identity: what is learned, from which rows. `task.decoder` says where weights are from, as `init` does.
DATA, WEIGHTS = ("datasets", "selection", "data", "task"), ("task.decoder",)
NOTES = (
    "n counts pretraining runs; of init=random, where every seed draws weights of its own, initialisations. Seeds of "
    "fine-tuning from one pretraining run are one run.",
    "Intervals over patients are of this mean, over runs of each run's mean over seeds; they hold for these networks "
    "only.",
    "Tests over seeds compare fine-tuning seeds, as the papers do: they hold for these weights, not for the method. "
    "Holm's correction is over all tests of a kind below one heading.",
)


@dataclass(frozen=True)
class Members:
    """The runs of a setting. ``keys``: what varies; ``random``: whether weights are; ``outputs``: the runs' folders."""

    keys: dict[str, Any]
    random: bool
    outputs: list[str]


@dataclass(frozen=True)
class Compared:
    """All settings, ``members`` of each, the tests between those of the same data and task, and how to read both."""

    spreads: list[Spread]
    comparisons: list[Comparison]
    notes: tuple[str, ...] = NOTES
    members: dict[str, Members] = field(default_factory=dict)

    def tables(self) -> list[tuple[str, list[list[str]]]]:
        """Titles and cells, header first."""
        made = [("spread", spread_table(self.spreads))]
        return made + ([("differences", comparison_table(self.comparisons))] if self.comparisons else [])


@dataclass(frozen=True)
class Finished:
    """A finished run. ``keys``: what varies, without seeds; ``start``: its initial weights, None of random ones;
    ``output``: where its figures are."""

    keys: tuple[tuple[str, Any], ...]
    start: str | None
    config: Mapping[str, Any]
    output: Path
    description: Description

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def setting(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.keys) or "all runs"

    @property
    def pretraining(self) -> str:
        return self.start or f"{RANDOM}, seed {self.seed}"

    @property
    def data(self) -> str:
        """A text that is equal for runs that are trained and tested on the same data, for the same task."""
        values = identity(dict(self.config), (*self.description.execution, *WEIGHTS))
        return repr(sorted((key, value) for key, value in values.items() if key.partition(".")[0] in DATA))


@dataclass(frozen=True)
class Evaluated:
    """The figures and statistics by which a run is compared.

    Attributes:
        figures: by metric and name.
        statistics: of some of these, of the same rows of all runs of a setting: they get intervals and tests.
    """

    figures: Mapping[Key, Figure]
    statistics: Statistics


def compared(runs: Sequence[tuple[Mapping[str, Any], Path]]) -> Compared:
    """The table of a sweep's ``runs``: of each what varies and its folder. Keys of runs that it needs: ``PHASE.KEY``.

    Raises:
        UserError, OSError, KeyError: a file of a run is missing or damaged.
        ValueError: a setting's runs are of several test splits; a seed is there twice.
    """
    return compare_runs([finished(varied, output, output) for varied, output in runs], evaluated)


def compared_evaluations(runs: Sequence[tuple[Mapping[str, Any], Path]]) -> Compared:
    """Compare a sweep's runs of `evaluate`, which are called as the fine-tuning runs that they read."""
    return compare_runs([finished_by(varied, output) for varied, output in runs], evaluated)


def compare_runs(runs: Sequence[Finished], evaluate: Callable[[Finished], Evaluated]) -> Compared:
    """Compare what any command has computed of fine-tuned networks, as ``evaluate`` reads it. Raises as it does,
    and as :func:`compared`."""
    runs = _grouped(_without_pretraining([*runs]))
    # A sweep repeats runs of random weights for each pretraining run that it goes through.
    runs = [*{run.output if run.start else (run.setting, run.seed): run for run in runs}.values()]
    settings = {run.setting: [each for each in runs if each.setting == run.setting] for run in runs}
    results: list[Result] = []
    intervals: dict[tuple[str, str], Interval] = {}
    tested: set[str] = set()
    data: dict[str, set[tuple[str, ...]]] = {}  # one of each setting, but for a sweep over seeds of datasets
    for setting, members in settings.items():
        evaluated = [evaluate(run) for run in members]
        first = evaluated[0]
        if any([*each.statistics.keys] != [*first.statistics.keys] for each in evaluated):
            raise ValueError(f"{setting}: its runs were evaluated on different test cases")
        data[setting] = {(run.data, *first.statistics.keys) for run in members}
        for key, figure in first.figures.items():
            results += [
                Result(run.setting, run.pretraining, run.seed, each.figures[key])
                for run, each in zip(members, evaluated, strict=True)
            ]
            if key not in first.statistics.of:
                continue
            tested.add(figure.title)
            of_runs: dict[str, list[Statistic]] = {}
            for run, each in zip(members, evaluated, strict=True):
                of_runs.setdefault(run.pretraining, []).append(each.statistics.of[key])
            mean = average([average(of_seeds) for of_seeds in of_runs.values()])  # as that of ``spreads``
            intervals[setting, figure.title] = bootstrap(mean, [*first.statistics.patients])
    compared = _comparisons([result for result in results if result.metric in tested], settings, data)
    of_settings = {
        setting: Members(dict(runs[0].keys), all(run.start is None for run in runs), [str(run.output) for run in runs])
        for setting, runs in settings.items()
    }
    return Compared(spreads(results, intervals), compared, members=of_settings)


def finished(varied: Mapping[str, Any], run: Path, output: Path) -> Finished:
    """Return the fine-tuning run in ``run``. ``output``: what was computed of its network, the run itself or not."""
    description = read_description(run)
    config = read_yaml(run / "config.yaml")
    keys = tuple((key, value) for key, value in varied.items() if key.rpartition(".")[2] != "seed")
    return Finished(keys, description.network.start, config, output, description)


def finished_by(varied: Mapping[str, Any], output: Path) -> Finished:
    """Return the fine-tuning run that was read by the command which has written ``output``.

    Keys of the phase that has trained it come without the phase's name, as where its runs are compared.
    """
    run = Path(read_yaml(output / "config.yaml")["run"])
    of_phase = f"{run.parent.parent.name}."  # a run's output is SWEEP/PHASE/RUN/output
    return finished({key.removeprefix(of_phase): value for key, value in varied.items()}, run, output)


def _without_pretraining(runs: list[Finished]) -> list[Finished]:
    """Runs of random weights without the keys of other phases in which they differ, but their configurations do not:
    those phases made weights that these runs do not load."""
    equal: dict[str, list[Finished]] = {}
    for run in runs:
        if run.start is None:
            equal.setdefault(seedless(dict(run.config), run.description.execution), []).append(run)

    def has_part(run: Finished, others: Sequence[Finished], item: tuple[str, Any]) -> bool:
        phase, dot, _ = item[0].partition(".")
        return not dot or phase in run.config or all(item in other.keys for other in others)

    kept = {
        run.output: replace(run, keys=tuple(item for item in run.keys if has_part(run, others, item)))
        for others in equal.values() for run in others
    }  # fmt: skip
    return [kept.get(run.output, run) for run in runs]


def _grouped(runs: list[Finished]) -> list[Finished]:
    """With one name for weights in ``init`` that differ in their pretraining's seed alone, instead of a sweep's
    ``"{PHASE}"``."""
    members: dict[str, list[str]] = {}
    for run in runs:
        if run.start and run.start not in (of := members.setdefault(_pretraining(run.start), [])):
            of.append(run.start)

    def named(run: Finished) -> Finished:
        if not run.start:
            return run
        starts = members[_pretraining(run.start)]
        name = common_name([Path(start) for start in starts]) + (f" ({len(starts)} runs)" if len(starts) > 1 else "")
        given = {value for key, value in run.keys if key == "init"}
        if len(starts) > 1 or any(isinstance(value, str) and value.startswith("{") for value in given):
            return replace(run, keys=tuple((key, name if key == "init" else value) for key, value in run.keys))
        return run

    return [named(run) for run in runs]


@lru_cache
def _pretraining(start: str) -> str:
    """Return a text that is equal for pretraining runs that differ only in their seeds; else the weights' path."""
    try:
        config = read_yaml(config_file(Path(start)))
        return seedless(config, read_description(Path(start)).execution)
    except (UserError, OSError):
        return start


def evaluated(run: Finished) -> Evaluated:
    """Return what the test cases in a run's output say of it."""
    supervision, cases = (
        task_of(run.config["task"]).described(run.config.get("facts", {})),
        read_cases(run.output / CASES / "test.parquet"),
    )
    statistics, figures = supervision.statistics(cases, Chosen()), figures_of(run.output)
    for key in supervision.compared:
        if key not in figures:
            raise ValueError(f"{run.output} has no {' '.join(key)} among its test figures")
    of = {key: statistics.of[key] for key in supervision.compared}
    return Evaluated({key: figures[key] for key in of}, replace(statistics, of=of))


def figures_of(output: Path) -> dict[Key, Figure]:
    """Return the figures of the test split in ``results.json``."""
    return {figure.key: figure for figure in read_results(output)["figures"].get("test", ())}


def _comparisons(
    results: Sequence[Result], settings: Mapping[str, Sequence[Finished]], data: Mapping[str, set[tuple[str, ...]]]
) -> list[Comparison]:
    """Compare all pairs of settings of the same ``data``: over pretraining runs where both have several; else over
    seeds, where each has one or its weights are random."""
    counts = {setting: len({run.pretraining for run in runs}) for setting, runs in settings.items()}
    random = {setting for setting, runs in settings.items() if all(run.start is None for run in runs)}
    pairs: dict[Over, list[tuple[str, str]]] = {"runs": [], "seeds": []}
    for second, first in combinations(settings, 2):
        if len(data[first] | data[second]) > 1:
            continue
        if counts[first] > 1 and counts[second] > 1:
            pairs["runs"].append((first, second))
        elif all(counts[setting] == 1 or setting in random for setting in (first, second)):
            pairs["seeds"].append((first, second))
    drawn = [replace(result, run=RANDOM) if result.setting in random else result for result in results]
    return compare(results, pairs["runs"], "runs") + compare(drawn, pairs["seeds"], "seeds")
