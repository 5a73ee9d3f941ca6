"""A sweep's folder as tables: what its commands have written, and what compares their runs (``spread.json``).

A fine-tuning phase is a table: rows are what the networks start from, columns shares of the labels and other data.
A probe is a table for each share and label: rows are encoders. The twin of a cell are the runs of the same phase,
column and other settings from random weights; of a probe, its random encoders.
"""

import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.dataset.metrics.statistics.significance import Comparison, compare
from dira_scale.dataset.metrics.statistics.spread import Result, Spread
from dira_scale.judge.pages.probe_figures import read_probe
from dira_scale.judge.pages.tables.cells import Cell, RandomTwin, Table
from dira_scale.train.runs.files import read_json, read_yaml

logger = logging.getLogger(__name__)
RANDOM, ALL_LABELS = "random", "100 %"
TRAINED, BASELINES = ("run", "init"), (RANDOM, "pixels")  # kinds of what is probed
OF_DATA = ("data.", "task")  # keys of columns; `task.decoder` says what a network starts from


@dataclass(frozen=True)
class SweepRun:
    """``id`` is PHASE/NAME; NAME ends with the configuration's hash. ``words``: of its command."""

    id: str
    command: str
    output: Path
    words: Sequence[str]

    @property
    def phase(self) -> str:
        return self.id.partition("/")[0]

    @property
    def hash(self) -> str:
        return self.id.rpartition("/")[2].rpartition("-")[2]

    @property
    def commit(self) -> str:
        """The commit of the code that it was computed with; empty where it does not say."""
        for file in ("environment.json", "probe.json", "results.json"):
            with suppress(UserError):  # damaged runs are reported elsewhere
                if commit := read_json(self.output / file, dict[str, Any]()).get("commit"):
                    return str(commit)
        return ""


@dataclass(frozen=True)
class SweepContent:
    """A sweep's finished ``runs`` by id, of ``planned``, and the tables of their figures, by phase."""

    name: str
    runs: Mapping[str, SweepRun]
    planned: int
    tables: Mapping[str, list[Table]] = field(default_factory=dict)


def read_sweep(name: str, spread: Mapping[str, Any], runs: Sequence[SweepRun], planned: int) -> SweepContent:
    """The sweep whose phases compare as ``spread`` says, the content of its ``spread.json``."""
    tables = {phase: list(_phase_tables(phase, content, runs)) for phase, content in spread.items()}
    for run in runs:
        if run.command == "probe":
            try:
                of_probe = [*probe_tables(run, runs)]
            except (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                reason = error if isinstance(error, UserError) else repr(error)
                logger.warning("not in the tables: %s cannot be read: %s", run.id, reason)
                continue
            tables.setdefault(run.phase, []).extend(of_probe)
    order = dict.fromkeys(run.phase for run in runs)
    return SweepContent(name, {run.id: run for run in runs}, planned, {p: tables[p] for p in order if p in tables})


def _phase_tables(phase: str, content: Mapping[str, Any], runs: Sequence[SweepRun]) -> Iterator[Table]:
    """Yield a phase's tables, one for each metric; ``METRIC/0.1`` and ``METRIC/0.2`` are columns of one."""
    members, phases = content["members"], {run.phase for run in runs}
    places = {setting: _place(of["keys"], of["outputs"], phases) for setting, of in members.items()}
    drawn = [setting for setting, of in members.items() if of["random"]]
    random = {(places[setting].column, places[setting].own): setting for setting in drawn}
    baselines = [*dict.fromkeys(places[setting].row for setting in random.values())]
    tests = {(test.metric, *pair): test for test in map(Comparison.of_json, content["comparisons"])
             for pair in ((test.first, test.second), (test.second, test.first))}  # fmt: skip
    by_title: dict[str, dict[str, list[Spread]]] = {}
    for spread in map(Spread.of_json, content["spreads"]):
        by_title.setdefault(spread.metric.partition("/")[0], {}).setdefault(spread.metric, []).append(spread)
    for title, by_metric in by_title.items():
        cells, fractions, share = dict[tuple[str, str], Cell](), dict[str, float](), False
        for metric, spreads in by_metric.items():
            by_setting = {spread.setting: spread for spread in spreads}
            _, slash, threshold = metric.partition("/")
            overlap = f"IoU ≥ {100 * float(threshold):g} %" if slash else ""
            for setting, spread in by_setting.items():
                place, share = places[setting], spread.share
                column = ", ".join(filter(None, [place.column, overlap]))
                column = overlap if overlap and place.column == ALL_LABELS else column
                fractions[column] = place.fraction
                other = None if setting in drawn else by_setting.get(random.get((place.column, place.own), ""))
                twin = _twin(spread, other, tests.get((metric, setting, other.setting)) if other else None)
                cells[place.row, column] = Cell.of(spread, twin, tuple(_ids_of(members[setting]["outputs"], runs)))
        rows, columns = ([*dict.fromkeys(key[part] for key in cells)] for part in (0, 1))
        yield Table(phase, f"{title}, %" if share else title, rows, columns, cells, baselines, fractions)


@dataclass(frozen=True)
class _Place:
    """The place of a setting in tables. ``own``: its settings beside what it starts from and its data, such as a
    learning rate."""

    row: str
    column: str
    fraction: float
    own: tuple[tuple[str, str], ...]


def _place(keys: Mapping[str, Any], outputs: Sequence[str], phases: Collection[str]) -> _Place:
    """The place of a setting. Keys of other ``phases`` are those of what it starts from."""
    config = read_yaml(Path(outputs[0]) / "config.yaml")
    if (run := config.get("run")) and (tuned := Path(run) / "config.yaml").is_file():
        config = read_yaml(tuned)
    fraction = keys.get("data.fraction", float(config.get("data", {}).get("fraction") or 1.0))
    of_row = {key: v for key, v in keys.items() if key == "task.decoder" or not key.startswith(OF_DATA)}
    of_column = {key: v for key, v in keys.items() if key not in of_row and key != "data.fraction"}
    start = re.sub(r" \(\d+ runs\)$", "", str(of_row.pop("init", "")))
    decoder = of_row.pop("task.decoder", None)
    own = {key: value for key, value in of_row.items() if key.partition(".")[0] not in phases}
    part = {RANDOM: "encoder only", "linear": "linear in the encoder's maps", "fcn": "FCN"}.get(decoder or "", "")
    settings = [f"{key}={value}" for key, value in (own if start else of_row).items()]
    row = ", ".join(filter(None, [start, part, *settings])) or "all runs"
    column = ", ".join([f"{100 * fraction:g} %", *(f"{key}={value}" for key, value in of_column.items())])
    return _Place(row, column, fraction, tuple(sorted((key, repr(value)) for key, value in own.items())))


def probe_tables(run: SweepRun, runs: Sequence[SweepRun]) -> Iterator[Table]:
    """Yield a table for each classifier and label of a probe's ``run``; of classes one of accuracies before it.

    Raises as ``read_probe``.
    """
    figures = [
        figure for figure in read_probe(run.output)["figures"]
        if figure.label != MEAN and figure.spread.share and not math.isnan(figure.spread.mean)
    ]  # fmt: skip
    for probe, label in dict.fromkeys((figure.probe, figure.label) for figure in figures):
        of_label = [figure for figure in figures if (figure.probe, figure.label) == (probe, label)]
        rows = [*dict.fromkeys(figure.source.title for figure in of_label)]
        baselines = [*dict.fromkeys(figure.source.title for figure in of_label if figure.source.kind in BASELINES)]
        fractions = {f"{100 * figure.fraction:g} %": figure.fraction for figure in of_label}
        random = {figure.source.layer: figure.source.title for figure in of_label if figure.source.kind == RANDOM}
        trained = {figure.source.title: figure.source.layer for figure in of_label if figure.source.kind in TRAINED}
        pairs = [(row, random[layer]) for row, layer in trained.items() if layer in random]
        for metric in reversed(dict.fromkeys(figure.metric for figure in of_label)):
            placed = {(figure.source.title, f"{100 * figure.fraction:g} %"): figure
                      for figure in of_label if figure.metric == metric}  # fmt: skip
            results = [
                Result(row, str(encoder), draw, Figure(metric, column, value, 1, 0, 0))
                for (row, column), figure in placed.items()
                for encoder, values in enumerate(figure.values) for draw, value in enumerate(values)
            ]  # fmt: skip
            tests = {(test.first, test.metric): test for test in compare(results, pairs)}
            cells = {}
            for (row, column), figure in placed.items():
                other = placed.get((random.get(trained.get(row, ""), ""), column))
                twin = _twin(figure.spread, other.spread if other else None, tests.get((row, f"{metric} {column}")))
                outputs = [member["run"] for member in figure.source.members if "run" in member]
                cells[row, column] = Cell.of(figure.spread, twin, (run.id, *_ids_of(outputs, runs)))
            columns = sorted(fractions, key=lambda column: fractions[column])
            title = f"{metric} of a {probe} probe, %"
            yield Table(f"{run.phase}: {label}", title, rows, columns, cells, baselines, fractions)


def _twin(spread: Spread, random: Spread | None, test: Comparison | None) -> RandomTwin | None:
    if random is None:
        return None
    difference = spread.scale * (spread.mean - random.mean)
    if test is None or test.over != "runs":  # over seeds of one run: nothing is claimed about another pretraining
        return RandomTwin(random.n, difference)
    return RandomTwin(random.n, difference, test.welch, test.welch_holm)


def _ids_of(outputs: Sequence[str], runs: Sequence[SweepRun]) -> list[str]:
    """The ids of the runs that wrote these folders, as far as they are of this sweep."""
    known = {run.id for run in runs}
    ends = ("/".join(Path(output).parts[-3:-1]) for output in outputs)
    return [end for end in ends if end in known]
