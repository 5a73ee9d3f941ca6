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
UNIQUE = ("phase", "run", "command")
# Of a row of metrics.jsonl: where it stands, and what says how it was computed.
NOT_A_RESULT = ("step", "epoch", "stage", "split", "lease", "lr", "warnings")
HOW = ("time/", "loader/")
Figures = Iterator[tuple[str, float]]
FigureRow = Mapping[str, Any]  # phase, run, command, metric, value and what varies


def compare_phases(folder: SweepFolder, runs: Sequence[Run]) -> tuple[dict[str, "Compared"], list[str]]:
    """Return comparisons of the runs of each phase, and a line for each phase that cannot be compared."""
    compared, problems = {}, []
    for phase in dict.fromkeys(run.phase for run in runs if COMMANDS[run.command].compare):
        members = [run for run in runs if run.phase == phase]
        varied = [{key.removeprefix(f"{phase}."): value for key, value in run.varied.items()} for run in members]
        outputs = [folder.output(run) for run in members]
        try:
            compare = resolve_name(COMMANDS[members[0].command].compare)
            compared[phase] = compare(list(zip(varied, outputs, strict=True)))
        except UNREADABLE as error:
            problems.append(f"{phase}: its runs cannot be compared: {error}")
    return compared, problems


def markdown(
    name: str,
    about: Sequence[str],
    rows: Sequence[FigureRow],
    varied: Sequence[str],
    compared: Mapping[str, "Compared"],
) -> str:
    """A table for each phase.

    Args:
        about: lines above the tables.
        rows: figures of runs: ``phase, run, command, metric, value`` and the keys that vary.
        varied: those keys; one whose last part is ``seed`` tells repetitions apart.
        compared: by phase, instead of means over seeds.
    """
    lines = [f"# {name}", "", *about, "± is the standard deviation (n - 1) over seeds.", ""]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        if phase in compared:
            lines += [f"## {phase}", ""]
            for _, cells in compared[phase].tables():
                lines += [*_lines(cells), ""]
            for note in compared[phase].notes:
                lines += [note, ""]
            continue
        if selected := [row for row in rows if row["phase"] == phase and row["compared"]]:
            lines += [f"## {phase}", "", *_table(selected, varied), ""]
    return "\n".join(lines)


def _table(rows: Sequence[FigureRow], varied: Sequence[str]) -> list[str]:
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


@dataclass(frozen=True)
class SweepResults:
    """The results of those of a sweep's ``planned`` runs that are done.

    Attributes:
        read: the runs whose figures these are. ``left_out``: why others are missing.
        text, table, spread: of ``results.md``, ``results.parquet`` and ``spread.json``.
    """

    planned: int
    read: list[Run]
    left_out: list[str]
    text: str
    table: pa.Table
    spread: dict[str, Any]


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
    columns = [*UNIQUE, *varied, "metric", "value", "command_line", "config"]
    table = pa.table({name: _column([row[name] for row in rows]) for name in columns})
    compared, problems = compare_phases(folder, read)
    left_out += problems
    about = [f"{len(rows)} figures of {len(read)} of {len(runs)} runs, in {path}/results.parquet.", *left_out]
    text = markdown(path.name, about, rows, varied, compared)
    spread = {phase: plain(asdict(comparison)) for phase, comparison in compared.items()}
    return SweepResults(len(runs), read, left_out, text, table, spread)


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
    command_line = shlex.join(["python", "-m", f"dira_scale.{run.command}", *run.words])
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
