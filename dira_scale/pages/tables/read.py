"""A sweep's folder as tables: what its commands have written, and what compares their runs (``spread.json``).

A fine-tuning phase is a table: rows are what the networks start from, columns shares of the labels and other data.
A probe is a table for each share and label: rows are encoders. The twin of a cell are the runs of the same phase,
column and other settings from random weights; of a probe, its random encoders.
"""

import logging
import re
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dira_scale.errors import UserError
from dira_scale.metrics.figure import Figure as Mean
from dira_scale.metrics.statistics.significance import Comparison, compare
from dira_scale.metrics.statistics.spread import Result, Spread
from dira_scale.pages.tables.cells import Cell, RandomTwin, Table
from dira_scale.pages.tables.runs import SweepRun, ids_of
from dira_scale.runs.files import read_json, read_yaml

Figure = Mapping[str, Any]  # of probe.json
TRAINED, BASELINES = ("run", "init"), ("random", "pixels")


def probed(run: SweepRun, content: Mapping[str, Any], runs: Sequence[SweepRun]) -> Iterator[Table]:
    """A table for each classifier and label of ``probe.json``; of classes one of accuracies before it."""
    figures = [figure for figure in content["figures"] if _value(figure) is not None and figure["label"] != "mean"]
    members = {(of["encoder"], of["layer"]): of["members"] for of in content["compared"]}
    groups = dict.fromkeys((figure["probe"], figure["label"]) for figure in figures)
    for probe, label in groups:
        chosen = [figure for figure in figures if (figure["probe"], figure["label"]) == (probe, label)]
        measured = {"R2" if "r2" in chosen[0] else "AUROC": chosen}
        if all(figure.get("accuracies") for figure in chosen):
            measured = {"accuracy": [*map(_of_accuracy, chosen)], **measured}
        for metric, of_metric in measured.items():
            tests, cells = _tests(of_metric), {}
            for figure in of_metric:
                outputs = [member["run"] for member in members[figure["encoder"], figure["layer"]] if "run" in member]
                spread = figure["sd"] if figure["sd_over"] == "encoders" else None
                test = tests.get((_row(figure), _share(figure)))
                cells[_row(figure), _share(figure)] = Cell(
                    _value(figure), spread, figure["encoders"], runs=(run.id, *ids_of(outputs, runs)),
                    twin=RandomTwin(test.n_second, test.difference, test.welch, test.welch_holm) if test else None,
                )  # fmt: skip
            fractions = {_share(figure): figure["fraction"] for figure in chosen}
            yield Table(
                f"{run.phase}: {label}", f"{metric} of a {probe} probe, %", [*dict.fromkeys(map(_row, chosen))],
                sorted(fractions, key=lambda column: fractions[column]), cells,
                [*dict.fromkeys(_row(figure) for figure in chosen if figure["kind"] in BASELINES)], fractions,
            )  # fmt: skip


def _of_accuracy(figure: Figure) -> Figure:
    """Return the figure with accuracies in the place of areas under the curve."""
    over_encoders = [statistics.fmean(draws) for draws in figure["accuracies"]]
    spread = statistics.stdev(over_encoders) if len(over_encoders) > 1 else None
    return {**figure, "auc": figure["accuracy"], "values": figure["accuracies"], "sd": spread}


def _value(figure: Figure) -> Any:
    """Null where there is nothing to score."""
    return figure["r2"] if "r2" in figure else figure["auc"]


def _row(figure: Figure) -> str:
    """Encoder and level of its pyramid; of pixels, which have none, their name."""
    return f"{figure['encoder']}, level {figure['layer']}" if figure["layer"] else str(figure["encoder"])


def _share(figure: Figure) -> str:
    return f"{100 * figure['fraction']:g} %"


def _tests(figures: Sequence[Figure]) -> dict[tuple[str, str], Comparison]:
    """By row and column: each trained encoder against the random ones of its level, over encoders."""
    results = [
        Result(_row(figure), str(number), 0, Mean(_share(figure), "", sum(draws) / len(draws), len(draws), 0, 0))
        for figure in figures for number, draws in enumerate(figure["values"]) if draws
    ]  # fmt: skip
    random = {figure["layer"]: _row(figure) for figure in figures if figure["kind"] == RANDOM}
    trained = {_row(figure): figure["layer"] for figure in figures if figure["kind"] in TRAINED}
    pairs = [(row, random[layer]) for row, layer in trained.items() if layer in random]
    return {(test.first, test.metric): test for test in compare(results, pairs)}


logger = logging.getLogger(__name__)
RANDOM, ALL_LABELS = "random", "100 %"
SHARES = ("AUROC", "accuracy", "Dice", "IoU", "R2", "concordance", "kappa")  # up to 1, in tables in percent
OF_DATA = ("data.", "task")  # keys of columns; `task.decoder` says what a network starts from


@dataclass(frozen=True)
class SweepContent:
    """A sweep's finished ``runs`` by id, of ``planned``, and the tables of their figures, by phase."""

    name: str
    runs: Mapping[str, SweepRun]
    planned: int
    tables: Mapping[str, list[Table]] = field(default_factory=dict)


def read_sweep(name: str, spread: Mapping[str, Any], runs: Sequence[SweepRun], planned: int) -> SweepContent:
    """The sweep whose phases compare as ``spread`` says, the content of its ``spread.json``."""
    tables = {phase: list(_compared(phase, content, runs)) for phase, content in spread.items()}
    for run in runs:
        if run.command == "probe":
            try:
                found = [*probed(run, read_json(run.output / "probe.json", dict[str, Any]()), runs)]
            except (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                reason = error if isinstance(error, UserError) else repr(error)
                logger.warning("not in the tables: %s cannot be read: %s", run.id, reason)
                continue
            tables.setdefault(run.phase, []).extend(found)
    order = dict.fromkeys(run.phase for run in runs)
    return SweepContent(name, {run.id: run for run in runs}, planned, {p: tables[p] for p in order if p in tables})


def _compared(phase: str, content: Mapping[str, Any], runs: Sequence[SweepRun]) -> Iterator[Table]:
    """A phase's tables, one for each metric; ``METRIC/0.1`` and ``METRIC/0.2`` are columns of one."""
    members = content["members"]
    phases = {run.phase for run in runs}
    at = {setting: _place(of["keys"], of["outputs"], phases) for setting, of in members.items()}
    alike = {setting: (at[setting][1], _besides_start(of["keys"], phases)) for setting, of in members.items()}
    random = {alike[setting]: setting for setting, of in members.items() if of["random"]}
    baselines = [*dict.fromkeys(at[setting][0] for setting in random.values())]
    tests = {(c.metric, *pair): c for c in map(Comparison.of_json, content["comparisons"])
             for pair in ((c.first, c.second), (c.second, c.first))}  # fmt: skip
    by_metric: dict[str, dict[str, Spread]] = {}
    for spread in map(Spread.of_json, content["spreads"]):
        by_metric.setdefault(spread.metric, {})[spread.setting] = spread
    groups: dict[str, list[str]] = {}
    for metric in by_metric:
        groups.setdefault(metric.partition("/")[0], []).append(metric)
    for title, metrics in groups.items():
        scale = 100 if title.startswith(SHARES) else 1
        cells, fractions = {}, {}
        for metric, spreads in ((metric, by_metric[metric]) for metric in metrics):
            for setting, spread in spreads.items():
                row, column, fraction = at[setting]
                column, fractions[column] = _column(column, metric), fraction
                other = None if members[setting]["random"] else random.get(alike[setting])
                twin = _twin(spread, spreads.get(other or ""), tests, scale)
                ids = tuple(ids_of(members[setting]["outputs"], runs))
                cells[row, column] = Cell.of(spread, scale, twin, ids)
        rows, columns = (dict.fromkeys(key[part] for key in cells) for part in (0, 1))
        known = {column: fractions[column] for column in columns if column in fractions}
        yield Table(phase, f"{title}, %" if scale == 100 else title, [*rows], [*columns], cells, baselines, known)


def _column(column: str, metric: str) -> str:
    """Return the column; of a metric at a threshold, ``accuracy mean/0.1``, with the threshold."""
    _, slash, threshold = metric.partition("/")
    at = f"IoU ≥ {100 * float(threshold):g} %" if slash else ""
    return at if column == ALL_LABELS and at else ", ".join(filter(None, [column, at]))


def _twin(
    spread: Spread, random: Spread | None, tests: Mapping[tuple[str, str, str], Comparison], scale: int
) -> RandomTwin | None:
    if random is None:
        return None
    difference = scale * (spread.mean - random.mean)
    test = tests.get((spread.metric, spread.setting, random.setting))
    if test is None or test.over != "runs":  # over seeds of one run: nothing is claimed about another pretraining
        return RandomTwin(random.n, difference)
    return RandomTwin(random.n, difference, test.welch, test.welch_holm)


def _place(keys: Mapping[str, Any], outputs: Sequence[str], phases: Collection[str]) -> tuple[str, str, float]:
    """Row, column and share of the labels of a setting. Keys of other ``phases`` are those of what it starts from."""
    config = read_yaml(Path(outputs[0]) / "config.yaml")
    if (run := config.get("run")) and (tuned := Path(run) / "config.yaml").is_file():
        config = read_yaml(tuned)
    fraction = keys.get("data.fraction", float(config.get("data", {}).get("fraction") or 1.0))
    of_row = {k: v for k, v in keys.items() if _is_of_row(k)}
    of_column = {k: v for k, v in keys.items() if k not in of_row and k != "data.fraction"}
    start = re.sub(r" \(\d+ runs\)$", "", str(of_row.pop("init", "")))
    decoder = of_row.pop("task.decoder", None)
    others = [f"{key}={value}" for key, value in of_row.items() if not (start and key.partition(".")[0] in phases)]
    part = {RANDOM: "encoder only", "linear": "linear in the encoder's maps"}.get(decoder or "", "")
    row = ", ".join(filter(None, [start, part, *others])) or "all runs"
    column = ", ".join([f"{100 * fraction:g} %", *(f"{key}={value}" for key, value in of_column.items())])
    return row, column, fraction


def _is_of_row(key: str) -> bool:
    return key == "task.decoder" or not key.startswith(OF_DATA)


def _besides_start(keys: Mapping[str, Any], phases: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return a row's settings beside what it starts from: keys of the runs themselves, such as a learning rate."""
    of_start = {"init", "task.decoder"}
    own = {k: v for k, v in keys.items() if _is_of_row(k) and k not in of_start and k.partition(".")[0] not in phases}
    return tuple(sorted((key, repr(value)) for key, value in own.items()))
