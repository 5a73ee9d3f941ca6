"""The page: one self-contained HTML file."""

from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.base.config.compose import defaults
from dira_scale.base.errors import UserError, print_line
from dira_scale.base.storage.atomic import as_user_error, write_atomic
from dira_scale.base.storage.owned import own_file
from dira_scale.commands import COMMANDS
from dira_scale.judge.pages.results import ShownResults
from dira_scale.judge.pages.template import data_url, of_volumes, template
from dira_scale.report import health, plots, summary
from dira_scale.report.content import LOADER_PARTS, PARTS, RunContent, read_run
from dira_scale.report.headlines import headlines
from dira_scale.report.serve import State, serve
from dira_scale.report.several import names, side_by_side


def report(cfg: DictConfig) -> None:
    """Write the page of a run, of several, of a sweep or of embeddings, or serve it.

    Raises UserError for what is not there, for several runs without a file to write, and for a file in no folder.
    """
    if cfg.watch:
        return serve(lambda: _look(cfg))
    if cfg.out:
        if not (out := Path(cfg.out)).parent.is_dir():
            raise UserError(f"out={out}: no such folder: {out.parent}")
    elif cfg.embeddings:  # beside the folder: in it, readers of Parquet would take the page for a part
        folder = Path(cfg.embeddings).resolve()
        out = folder.with_name(f"{folder.name}.neighbours.html")
    elif len(folders := _folders(cfg) or [Path(cfg.folder)]) > 1:
        raise UserError("out must be given for several runs: out=FILE.html; or watch=true, which writes no file")
    else:
        out = folders[0] / "report.html"
    if cfg.folder:
        return resolve_name(COMMANDS["sweep"].page)(Path(cfg.folder), out)
    own_file(out, "out")
    runs, make = _look(cfg)
    page = make()
    with as_user_error(out, "out"):
        write_atomic(out, page)
    if cfg.run:
        for name, run in runs.items():
            for text in run.missing:
                print_line(f"not in the report{f' of {name}' * (len(runs) > 1)}: {text}")
    print_line(f"report: {out.resolve()}")


def _folders(cfg: DictConfig) -> list[Path]:
    return [
        Path(str(folder)) for folder in (cfg.run if OmegaConf.is_list(cfg.run) else [cfg.run]) if folder is not None
    ]


def _look(cfg: DictConfig) -> State:
    """Return what the page depends on (of runs, their content by name), and a function that renders it."""
    if cfg.folder:
        return resolve_name(COMMANDS["sweep"].watch_page)(Path(cfg.folder))
    if cfg.embeddings:
        from dira_scale.report.neighbours import page  # lazy: takes seconds

        return None, partial(page, cfg.embeddings, cfg.data.shards)
    folders = _folders(cfg)
    runs = dict(zip(names(folders), map(read_run, folders), strict=True))
    if len(runs) > 1:
        return runs, partial(side_by_side, runs)
    (run,) = runs.values()
    command = run.description.command
    command_defaults: Any = OmegaConf.to_container(defaults(command)) if command in COMMANDS else {}
    return runs, partial(render, run, command_defaults)


def render(run: RunContent, defaults: dict[str, Any]) -> str:
    """``run`` as HTML with pictures and curves embedded; settings that differ from ``defaults`` are highlighted."""
    results = ShownResults.of(run.folder, run.results, run.description.output.names)
    warnings = health.warnings(run)
    volumes = run.description.network.dimensions == 3
    return template(Path(__file__).with_name("page.html.j2")).render(
        run=run,
        units=of_volumes if volumes else str,
        parts=PARTS,
        loader_parts=LOADER_PARTS,
        failure=summary.failure(run),
        headlines=headlines(run, len(warnings)).values(),
        terms={term: run.description.terms[term].meaning for stage in run.stages for term in run.terms(stage)},
        throughput=summary.throughput(run),
        shown=results,
        restoration=summary.restoration_table(run),
        settings=summary.settings(run.config, defaults),
        environment=summary.environment(run),
        queue=any("queue_fresh" in row for row in run.rows),
        warnings=warnings,
        health=health.monitor_plots(run),
        curves=plots.curves(run),
        single_values=health.single_values(run),
        pictures={stage: data_url("png", path.read_bytes()) for stage, path in run.pictures.items()},
    )
