"""The page: one self-contained HTML file."""

import re
from base64 import b64encode
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale import __version__
from dira_scale.commands import COMMANDS
from dira_scale.config.compose import defaults
from dira_scale.errors import UserError, print_line
from dira_scale.pages.results import ShownResults
from dira_scale.pages.template import template
from dira_scale.report import health, plots, summary
from dira_scale.report.content import LOADER_PARTS, PARTS, RunContent, read_run
from dira_scale.report.headlines import headlines
from dira_scale.runs.remarks import no_better_than_mean, worse_features
from dira_scale.storage.atomic import as_user_error, write_atomic
from dira_scale.storage.owned import own_file

IMAGE = re.compile(r"(?<![\w./:])(an )?image(s?)\b(?!/png|=|\.\w)")  # the word, in no key and no address


def report(cfg: DictConfig) -> None:
    """Write the page of the run ``cfg.run``, or of the sweep in ``cfg.folder``. Raises UserError if there is none."""
    folder = Path(cfg.run or cfg.folder)
    out = Path(cfg.out or folder / "report.html")
    if cfg.out and not out.parent.is_dir():
        raise UserError(f"out={out}: no such folder: {out.parent}")
    if cfg.folder:
        resolve_name(COMMANDS["sweep"].page)(folder, out)
        return
    own_file(out, "out")
    run = read_run(folder)
    command = run.description.command
    command_defaults: Any = OmegaConf.to_container(defaults(command)) if command in COMMANDS else {}
    page = render(run, command_defaults)
    with as_user_error(out, "out"):
        write_atomic(out, page)
    for text in run.missing:
        print_line(f"not in the report: {text}")
    print_line(f"report: {out.resolve()}")


def render(run: RunContent, defaults: dict[str, Any]) -> str:
    """``run`` as HTML with pictures and curves embedded; settings that differ from ``defaults`` are highlighted."""
    shown = ShownResults.of(run.folder, run.results, run.description.output.names)
    ends = [*worse_features(run.rows, run.held_out_samples).values(), *no_better_than_mean(run.restoration)]
    warnings = [*health.warnings(run), *ends, *shown.warnings]
    volumes = run.description.network.dimensions == 3
    return template(Path(__file__).with_name("page.html.j2")).render(
        run=run,
        units=of_volumes if volumes else str,
        version=__version__,
        parts=PARTS,
        loader_parts=LOADER_PARTS,
        failure=summary.failure(run),
        headlines=headlines(run, len(warnings)),
        terms=summary.terms(run),
        throughput=summary.throughput(run),
        shown=shown,
        restoration=summary.restoration_table(run),
        settings=summary.settings(run.config, defaults),
        environment=summary.environment(run),
        queue=any("queue_fresh" in row for row in run.rows),
        warnings=warnings,
        health=health.monitor_plots(run),
        curves=plots.curves(run),
        single_values=[*plots.single_values(run), *health.single_values(run)],
        pictures={stage: _png(path) for stage, path in run.pictures.items()},
    )


def of_volumes(text: str) -> str:
    """``text`` about images, of volumes."""
    return IMAGE.sub(lambda match: f"{'a ' if match[1] else ''}volume{match[2]}", text)


def _png(path: Path) -> str:
    return "data:image/png;base64," + b64encode(path.read_bytes()).decode()
