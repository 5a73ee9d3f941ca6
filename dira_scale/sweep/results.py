"""The results of a sweep: all final figures of its runs in one table, and a page of means over seeds.

::

    results.parquet    a row for each figure: phase, run, command, what varies (PHASE.KEY), metric, value, what was
                       typed (command_line), config
    results.md         mean and standard deviation over seeds; of `finetune` the tables of spread.json
    spread.json        of `finetune`: by phase the spread over pretraining runs, seeds and patients, and tests

The HTML page of a sweep (`report`) and the tables beside it are made from these (``judge/pages/tables/``).
"""

import io
import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from etils.epy import lazy_imports
from omegaconf import OmegaConf

from dira_scale.base.errors import UserError, print_line
from dira_scale.base.storage.atomic import as_user_error, write_atomic, write_json
from dira_scale.base.storage.owned import SWEEP_PAGE, own, own_file
from dira_scale.commands import COMMANDS
from dira_scale.dataset.metrics.figure import MEAN, plain
from dira_scale.judge.pages.probe_figures import ProbeFigure, read_probe
from dira_scale.sweep.records import Run, SweepFolder, is_done
from dira_scale.train.runs.files import inside, read_yaml

with lazy_imports():
    from dira_scale.judge.pages.tables import page, read
    from dira_scale.judge.pages.tables import papers as published

if TYPE_CHECKING:  # imports torch
    from dira_scale.judge.evaluation.comparison import Compared

# What files that are missing or damaged raise.
UNREADABLE = OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError, UserError
# Of a row of metrics.jsonl: where it stands, and what says how it was computed.
NOT_A_RESULT = ("step", "epoch", "stage", "split", "lease", "lr", "warnings")
HOW = ("time/", "loader/")
Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class SweepResults:
    """The results of those of a sweep's ``planned`` runs that are done."""

    planned: int
    read: list[Run]  # whose figures these are
    left_out: list[str]  # why others are missing
    text: str  # of results.md
    table: pa.Table  # of results.parquet
    spread: dict[str, Any]  # of spread.json


def write_results(path: Path) -> SweepResults:
    """Write the results of the sweep in ``path``. Raises UserError if there is no sweep."""
    results, parquet = read_results(path), io.BytesIO()
    pq.write_table(results.table, parquet)
    with as_user_error(path, "folder"):
        own(path, "a sweep", "folder")
        write_atomic(path / "results.parquet", parquet.getvalue())
        if results.spread:
            write_json(path / "spread.json", results.spread)
        write_atomic(path / "results.md", results.text)
    return results


def read_results(path: Path) -> SweepResults:
    """Compute them, and write nothing. Raises UserError if there is no sweep."""
    folder = SweepFolder(path)
    runs = [folder.runs[run_id] for run_id in folder.current]
    varied = list(dict.fromkeys(key for run in runs for key in run.varied))
    rows, left_out, read = [], list[str](), list[Run]()
    if earlier := len(folder.runs) - len(runs):
        left_out = [f"{earlier} runs of earlier settings are left out; their folders are still there."]
    for run in runs:
        if not is_done(folder.tries(run.id)):
            continue
        try:
            rows += list(_rows(run, folder.output(run), varied))
            read.append(run)
        except UNREADABLE as error:
            left_out.append(f"{run.id} cannot be read: {error if isinstance(error, UserError) else repr(error)}")
    columns = ["phase", "run", "command", *varied, "metric", "value", "command_line", "config"]
    table = pa.table({name: _column([row[name] for row in rows]) for name in columns})
    compared: dict[str, Compared] = {}
    for phase in dict.fromkeys(run.phase for run in read if COMMANDS[run.command].compare):
        members = [run for run in read if run.phase == phase]
        varying = [{key.removeprefix(f"{phase}."): value for key, value in run.varied.items()} for run in members]
        outputs = [folder.output(run) for run in members]
        try:
            compare = resolve_name(COMMANDS[members[0].command].compare)
            compared[phase] = compare(list(zip(varying, outputs, strict=True)))
        except UNREADABLE as error:
            left_out.append(f"{phase}: its runs cannot be compared: {error}")
    about = f"{len(rows)} figures of {len(read)} of {len(runs)} runs, in {path}/results.parquet."
    lines = [f"# {path.name}", "", about, *left_out, "± is the standard deviation (n - 1) over seeds.", ""]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        if phase in compared:
            lines += [f"## {phase}", ""]
            for _, cells in compared[phase].tables():
                lines += [*_lines(cells), ""]
            for note in compared[phase].notes:
                lines += [note, ""]
        elif selected := [row for row in rows if row["phase"] == phase and row["compared"]]:
            lines += [f"## {phase}", "", *_means(selected, varied), ""]
    spread = {phase: plain(asdict(comparison)) for phase, comparison in compared.items()}
    return SweepResults(len(runs), read, left_out, "\n".join(lines), table, spread)


def _means(rows: Sequence[Mapping[str, Any]], varied: Sequence[str]) -> list[str]:
    """A table of means over repetitions, which a key alone tells apart whose last part is ``seed``."""
    keys = [key for key in varied if key.rpartition(".")[2] != "seed" and any(row[key] is not None for row in rows)]
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        groups.setdefault((*(str(row[key]) for key in keys), row["metric"]), []).append(row["value"])
    cells = [[*keys, "metric", "mean", "n"]]
    for group, values in groups.items():
        spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
        cells.append([*group, f"{mean(values):.4g}{spread}", str(len(values))])
    return _lines(cells)


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """A table, the header first, whose columns stand below each other in plain text too."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = [cells[0], ["-" * width for width in widths], *cells[1:]]
    return [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]


def write_page(path: Path, out: Path) -> None:
    """Write the page of the sweep in ``path`` to ``out``, NAME.html, and its tables as NAME.md, .csv and .tex.

    Raises UserError if there is no sweep, none of its runs is done, or ``out`` is no HTML file.
    """
    if out.suffix != ".html":
        raise UserError(f"out={out}: expected NAME.html; tables are written beside it as NAME.md, .csv and .tex")
    own_file(out, "out", SWEEP_PAGE, beside=tuple(out.with_suffix(suffix) for suffix in (".md", ".csv", ".tex")))
    results = write_results(path)
    if not results.read:
        none = f"none of its {results.planned} runs is done"
        raise UserError(f"folder={path}: {none}; `sweep status folder={path}` says why")
    for line in results.left_out:
        print_line(f"not in the report: {line}")
    with as_user_error(out, "out"):
        for suffix, text in _page(path, results).items():
            write_atomic(out.with_suffix(suffix), text)
    print_line(f"report: {out.resolve()}, with .md, .csv and .tex beside it")


def watch_page(path: Path) -> tuple[Any, Callable[[], str]]:
    """Return what the page of the sweep in ``path`` depends on, and a function that renders it; nothing is written.

    Raises UserError if there is no sweep.
    """
    folder = SweepFolder(path)
    tries = [(run_id, folder.tries(run_id)) for run_id in folder.current]
    return tries, lambda: _page(path, read_results(path))[".html"]


def _page(path: Path, results: SweepResults) -> dict[str, str]:
    """The page and its tables, by suffix."""
    folder = SweepFolder(path)
    done = [read.SweepRun(run.id, run.command, folder.output(run), run.words) for run in results.read]
    composed: Any = OmegaConf.to_container(OmegaConf.load(path / "sweep.yaml"))
    papers = [published.PaperTable(**table) for table in composed["sweep"].get("tables") or []]
    return page.render(read.read_sweep(composed["sweep"]["name"], results.spread, done, results.planned), papers)


def _rows(run: Run, output: Path, varied: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each figure of a run."""
    figures, config, compared = resolve_name(COMMANDS[run.command].results)(output)
    command_line = f"python -m dira_scale.{run.command} {shlex.join(run.words)}"
    columns = {"phase": run.phase, "run": run.id, "command": run.command} | {key: run.varied.get(key) for key in varied}
    shared = {"command_line": command_line, "config": json.dumps(config)}
    for metric, value in figures:
        if value != "infinity" and not (isinstance(value, float) or (_is_number(value) and abs(value) < 2**63)):
            raise ValueError(f"{metric} is {str(value)[:40]}")
        yield columns | {"metric": metric, "value": value, "compared": metric in compared} | shared


def training(output: Path) -> tuple[Figures, Mapping[str, Any], set[str]]:
    """The last row of each stage and split: ``STAGE/SPLIT/loss``."""
    lines = inside(output / "metrics.jsonl").read_text().splitlines()
    last = {(row["stage"], row["split"]): row for row in map(json.loads, lines)}
    figures = (
        (f"{stage}/{split}/{key}", value)
        for (stage, split), row in last.items()
        for key, value in row.items()
        if key not in NOT_A_RESULT and not key.startswith(HOW) and _is_number(value)
    )
    return figures, read_yaml(output / "config.yaml"), {f"{stage}/val/loss" for stage, _ in last}


def probing(output: Path) -> tuple[Figures, Mapping[str, Any], set[str]]:
    """``METRIC/KIND/LEVEL/PROBE/FRACTION/LABEL``, shares in percent; the encoder's name where there are several of a
    kind."""
    content = read_probe(output)
    names: dict[str, set[str]] = {}
    for figure in content["figures"]:
        names.setdefault(figure.source.kind, set()).add(figure.source.encoder)

    def place(figure: ProbeFigure) -> str:
        kind = figure.source.kind
        kind = kind if len(names[kind]) == 1 else f"{kind}:{figure.source.encoder}"
        return "/".join([figure.metric, kind, figure.source.layer, figure.probe, f"{figure.fraction:g}", figure.label])

    valued = [figure for figure in content["figures"] if not math.isnan(figure.spread.mean)]
    compared = {place(figure) for figure in valued if figure.label == MEAN or figure.metric == "R2"}
    values = ((place(figure), figure.spread.scale * figure.spread.mean) for figure in valued)
    return values, content["config"], compared


def from_json(output: Path) -> tuple[Figures, Mapping[str, Any], set[str]]:
    """Every number in the JSON files that another command has left: ``FILE/KEY/KEY``."""
    files = sorted(output.glob("*.json"))
    return (figure for file in files for figure in _numbers(json.loads(inside(file).read_text()), file.stem)), {}, set()


def _numbers(value: Any, name: str) -> Figures:
    if _is_number(value):
        yield name, value
    inner: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        yield from _numbers(item, f"{name}/{key}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(values: list[Any]) -> pa.Array:
    """Return a column of the values' own type if they share one, otherwise of text."""
    kinds = {float if _is_number(value) else type(value) for value in values if value is not None}
    if kinds <= {float}:
        integers = all(isinstance(value, int) for value in values if value is not None)
        return pa.array(values, pa.int64() if integers and kinds else pa.float64())
    if len(kinds) == 1 and kinds <= {str, bool}:
        return pa.array(values)
    return pa.array([None if value is None else str(value) for value in values])
