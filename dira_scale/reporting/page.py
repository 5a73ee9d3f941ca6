"""The page: one HTML file that asks nothing of any server."""

from base64 import b64encode
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from dira_scale import __version__
from dira_scale.reporting import health, plots, summary
from dira_scale.reporting.record import PARTS, Record


def render(record: Record, defaults: dict[str, Any]) -> str:
    """``record`` as HTML, pictures and curves inside; what differs from the verb's ``defaults`` stands out."""
    return template(Path(__file__).with_name("page.html.j2")).render(
        record=record,
        version=__version__,
        parts=PARTS,
        failure=summary.failure(record),
        headlines=summary.headlines(record),
        throughput=summary.throughput(record),
        restoration=summary.restoration_table(record),
        settings=summary.settings(record.config, defaults),
        environment=summary.environment(record),
        queue=any("queue_fresh" in row for row in record.rows),
        warnings=health.warnings(record),
        health=health.figures(record),
        curves=plots.curves(record) if record.rows else [],
        time_bars=plots.time_bars(record) if summary.throughput(record) else None,
        pictures={stage: _png(path) for stage, path in record.pictures.items()},
    )


def template(file: Path) -> Template:
    """A page's template; it finds this folder's ``style.css`` beside its own files."""
    environment = Environment(
        loader=FileSystemLoader([file.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = summary.duration
    return environment.get_template(file.name)


def _png(path: Path) -> str:
    return "data:image/png;base64," + b64encode(path.read_bytes()).decode()
