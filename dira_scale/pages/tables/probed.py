"""A probe's figures as tables: rows are encoders, columns shares of the labels; the twins are its random encoders."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dira_scale.metrics.figure import Figure as Mean
from dira_scale.metrics.statistics.significance import Comparison, compare
from dira_scale.metrics.statistics.spread import Result
from dira_scale.pages.tables.cells import Cell, RandomTwin, Table
from dira_scale.pages.tables.runs import SweepRun, ids_of

Figure = Mapping[str, Any]  # of probe.json
TRAINED, RANDOM, BASELINES = ("run", "init"), "random", ("random", "pixels")


def probed(run: SweepRun, content: Mapping[str, Any], runs: Sequence[SweepRun]) -> Iterator[Table]:
    """A table for each classifier and label of ``probe.json``."""
    figures = [figure for figure in content["figures"] if _value(figure) is not None and figure["label"] != "mean"]
    members = {(of["encoder"], of["layer"]): of["members"] for of in content["compared"]}
    groups = dict.fromkeys((figure["probe"], figure["label"]) for figure in figures)
    for probe, label in groups:
        chosen = [figure for figure in figures if (figure["probe"], figure["label"]) == (probe, label)]
        metric, tests = "R2" if "r2" in chosen[0] else "AUROC", _tests(chosen)
        cells = {}
        for figure in chosen:
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
