"""The page: one self-contained HTML file."""

import re
from base64 import b64encode
from pathlib import Path
from typing import Any

from dira_scale import __version__
from dira_scale.reporting import evaluated, health, plots, summary
from dira_scale.reporting.content import LOADER_PARTS, PARTS, RunContent
from dira_scale.reporting.headlines import headlines
from dira_scale.reporting.template import template

IMAGE = re.compile(r"(?<![\w./:])(an )?image(s?)\b(?!/png|=|\.\w)")  # the word, in no key and no address


def render(run: RunContent, defaults: dict[str, Any]) -> str:
    """``run`` as HTML with pictures and curves embedded; settings that differ from ``defaults`` are highlighted."""
    warnings = [*health.warnings(run), *evaluated.warnings(run)]
    volumes = run.description.network.dimensions == 3
    return template(Path(__file__).with_name("page.html.j2")).render(
        run=run,
        said=of_volumes if volumes else str,
        version=__version__,
        parts=PARTS,
        loader_parts=LOADER_PARTS,
        failure=summary.failure(run),
        headlines=headlines(run, len(warnings)),
        terms=summary.terms(run),
        throughput=summary.throughput(run),
        results=summary.result_tables(run),
        roc=evaluated.roc(run),
        cases=evaluated.cases(run),
        case_keys=evaluated.case_keys(run),
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
