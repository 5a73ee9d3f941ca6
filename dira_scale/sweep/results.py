"""The results of a sweep: all final figures of its runs in one table, and a page of means over seeds.

::

    results.parquet    a row for each figure: phase, run, command, what varies (PHASE.KEY), metric, value, what was
                       typed (command_line), config
    results.md         mean and standard deviation over seeds; of `finetune` the tables of spread.json
    spread.json        of `finetune`: by phase the spread over pretraining runs, seeds and patients, and tests

The HTML page of a sweep (`report`) and the tables beside it are made from these (``pages/tables/``).
"""

import io
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from omegaconf import OmegaConf

from dira_scale.commands import COMMANDS
from dira_scale.errors import UserError, print_line
from dira_scale.storage.atomic import as_user_error, write_atomic
from dira_scale.storage.owned import SWEEP_PAGE, own, own_file
from dira_scale.sweep.records import Run, SweepFolder, is_done
from dira_scale.sweep.spread import UNREADABLE, compare_phases, markdown, write_spread

UNIQUE = ("phase", "run", "command")
# Of a row of metrics.jsonl: where it stands, and what says how it was computed.
NOT_A_RESULT = ("step", "epoch", "stage", "split", "lease", "lr", "warnings")
HOW = ("time/", "loader/")
Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class Results:
    """What was written: of the runs ``read``. ``left_out``: why figures are missing; ``text``: of ``results.md``."""

    read: list[Run]
    left_out: list[str]
    text: str


def write_results(path: Path) -> Results:
    """Write the results of those of the sweep's runs that are done. Raises UserError if there is no sweep."""
    folder = SweepFolder(path)
    own(path, "a sweep", "folder")
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
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    write_atomic(path / "results.parquet", parquet.getvalue())
    compared, problems = compare_phases(folder, read)
    left_out += problems
    if compared:
        write_spread(path, compared)
    about = [f"{len(rows)} figures of {len(read)} of {len(runs)} runs, in {path}/results.parquet.", *left_out]
    text = markdown(path.name, about, rows, varied, compared)
    write_atomic(path / "results.md", text)
    return Results(read, left_out, text)


def write_page(path: Path, out: Path) -> None:
    """Write the page of the sweep in ``path`` to ``out``, NAME.html, and its tables as NAME.md, .csv and .tex.

    Raises UserError if there is no sweep, none of its runs is done, or ``out`` is no HTML file.
    """
    from dira_scale.pages.tables.page import render
    from dira_scale.pages.tables.papers import PaperTable
    from dira_scale.pages.tables.read import read_sweep
    from dira_scale.pages.tables.runs import SweepRun

    if out.suffix != ".html":
        raise UserError(f"out={out}: expected NAME.html; tables are written beside it as NAME.md, .csv and .tex")
    own_file(out, "out", SWEEP_PAGE, beside=tuple(out.with_suffix(suffix) for suffix in (".md", ".csv", ".tex")))
    folder, results = SweepFolder(path), write_results(path)
    planned = len(folder.current)
    done = [SweepRun(run.id, run.command, folder.output(run), run.words) for run in results.read]
    if not done:
        raise UserError(f"folder={path}: none of its {planned} runs is done; `sweep status folder={path}` says why")
    for line in results.left_out:
        print_line(f"not in the report: {line}")
    composed: Any = OmegaConf.to_container(OmegaConf.load(path / "sweep.yaml"))
    papers = [PaperTable(**table) for table in composed["sweep"].get("tables") or []]
    texts = render(read_sweep(composed["sweep"]["name"], path, done, planned), papers)
    with as_user_error(out, "out"):
        for suffix, text in texts.items():
            write_atomic(out.with_suffix(suffix), text)
    print_line(f"report: {out.resolve()}, with .md, .csv and .tex beside it")


def _rows(run: Run, output: Path, varied: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each figure of a run."""
    figures, config = resolve_name(COMMANDS[run.command].results)(output)
    command_line = shlex.join(["python", "-m", f"dira_scale.{run.command}", *run.words])
    columns = {"phase": run.phase, "run": run.id, "command": run.command} | {key: run.varied.get(key) for key in varied}
    shared = {"command_line": command_line, "config": json.dumps(config)}
    for metric, value in figures:
        if value != "infinity" and not (isinstance(value, float) or (_is_number(value) and abs(value) < 2**63)):
            raise ValueError(f"{metric} is {str(value)[:40]}")
        yield columns | {"metric": metric, "value": value} | shared


def training(output: Path) -> tuple[Figures, Mapping[str, Any]]:
    """The last row of each stage and split: ``STAGE/SPLIT/loss``."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    last = {(row["stage"], row["split"]): row for row in map(json.loads, lines)}
    figures = (
        (f"{stage}/{split}/{key}", value)
        for (stage, split), row in last.items()
        for key, value in row.items()
        if key not in NOT_A_RESULT and not key.startswith(HOW) and _is_number(value)
    )
    # The C loader, where PyYAML has it: Python's own takes 30 ms a run.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return figures, yaml.load((output / "config.yaml").read_text(), loader)


def probing(output: Path) -> tuple[Figures, Mapping[str, Any]]:
    """``auc/KIND/LEVEL/PROBE/FRACTION/LABEL``, of numbers ``r2/…``; the encoder's name too where there are several of a
    kind."""
    content = json.loads((output / "probe.json").read_text())
    names: dict[str, set[str]] = {}
    for figure in content["figures"]:
        names.setdefault(figure["kind"], set()).add(figure["encoder"])

    def place(figure: Mapping[str, Any]) -> str:
        kind = figure["kind"] if len(names[figure["kind"]]) == 1 else f"{figure['kind']}:{figure['encoder']}"
        return "/".join([kind, figure["layer"], figure["probe"], f"{figure['fraction']:g}", figure["label"]])

    named = (("r2" if "r2" in figure else "auc", figure) for figure in content["figures"])
    figures = ((f"{name}/{place(figure)}", figure[name]) for name, figure in named if figure[name] is not None)
    return figures, content["config"]


def from_json(output: Path) -> tuple[Figures, Mapping[str, Any]]:
    """Every number in the JSON files that another command has left: ``FILE/KEY/KEY``."""
    files = sorted(output.glob("*.json"))
    return (figure for file in files for figure in _numbers(json.loads(file.read_text()), file.stem)), {}


def _numbers(value: Any, name: str) -> Figures:
    if _is_number(value):
        yield name, value
    inner: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        yield from _numbers(item, f"{name}/{key}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(values: list[Any]) -> pa.Array:
    """With the values' own type if they share one, otherwise as text."""
    kinds = {float if _is_number(value) else type(value) for value in values if value is not None}
    if kinds <= {float}:
        whole = all(isinstance(value, int) for value in values if value is not None)
        return pa.array(values, pa.int64() if whole and kinds else pa.float64())
    if len(kinds) == 1 and kinds <= {str, bool}:
        return pa.array(values)
    return pa.array([None if value is None else str(value) for value in values])
