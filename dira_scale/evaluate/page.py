"""The page of an evaluation: one self-contained HTML file."""

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

from dira_scale import __version__
from dira_scale.data.batch import UNITS
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import counted
from dira_scale.evaluation.leak import NO_LEAK
from dira_scale.evaluation.results import overall, with_figures
from dira_scale.evaluation.trained import TrainedRun
from dira_scale.metrics.figure import MEAN, Figure
from dira_scale.pages.results import ShownResults
from dira_scale.pages.template import template
from dira_scale.pages.verdict import Headline
from dira_scale.tasks.supervision import Supervision

FILE = "report.html"


def page(
    out: Path, trained: TrainedRun, dataset: ShardedDataset, supervision: Supervision, content: Mapping[str, Any]
) -> str:
    """Return the page of ``content``, which is to become ``results.json``, and of the cases in ``out``."""
    read = with_figures(content)
    shown = ShownResults.of(out, read, supervision.outputs)
    figures = overall(read["figures"]["test"], supervision.best.metric)
    return template(Path(__file__).with_name("page.html.j2")).render(
        about=content,
        checked=content["leak"]["verdict"] == NO_LEAK,
        facts=_facts(trained, dataset, supervision, read),
        headlines=[_headline(figure) for figure in figures],
        shown=shown,
        version=__version__,
        volumes=len(trained.size) == 3,
    )


def _headline(figure: Figure) -> Headline:
    over = f"mean (n = {figure.n})" if figure.name == MEAN else figure.name
    interval = "{:.3f} to {:.3f}, the interval over patients".format(*figure.interval) if figure.interval else ""
    return Headline(figure.in_words(), f"{over}, {counted(figure.patients, 'patient')}", interval)


def _facts(
    trained: TrainedRun, dataset: ShardedDataset, supervision: Supervision, content: Mapping[str, Any]
) -> dict[str, str]:
    """What was evaluated on what."""
    info, split, chosen = dataset.info, content["splits"]["test"], trained.chosen
    seen = f"crops={content['crops']}" if supervision.pooled else f"window={content['window']}"
    as_there = ", as the run's own test split" * (supervision.pooled or content["window"] == trained.window)
    left_out = content.get("without_mask", {}).get("test")
    facts = {
        "network": f"`{content['network']}`, checkpoint of step {content['step']} (stage {content['stage']}), "
        f"weights `{content['weights']}`",
        "data": f"`{info.name}`, split {split}, {info.counts[split]} {UNITS[len(trained.size)]}"
        + (f", {left_out} without a mask left out" if left_out else "")
        + f"; content `{dataset.hash[:12]}`, licence {info.licence}",
        supervision.learned: ", ".join(supervision.outputs),
        "seen": f"{' × '.join(map(str, trained.size))}, {seen}{as_there}",
    }
    for name, values in (("thresholds", chosen.thresholds), ("temperatures", chosen.temperatures)):
        if values:
            listed = ", ".join(f"{label} {value:.3g}" for label, value in values.items() if not isnan(value))
            facts[name] = f"{listed}: chosen on the run's validation split"
    return facts
