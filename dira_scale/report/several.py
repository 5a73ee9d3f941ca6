"""Several runs on one page: a picture for each figure with a curve for each run; what differs between them."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count, takewhile
from pathlib import Path

import numpy as np
from etils.epy import lazy_imports
from matplotlib.axes import Axes

from dira_scale.base.errors import UserError
from dira_scale.judge.pages.figure import svg
from dira_scale.judge.pages.template import of_volumes, template
from dira_scale.report import health, plots, summary
from dira_scale.report.content import RunContent
from dira_scale.report.headlines import SUBJECTS, headlines

with lazy_imports():
    from dira_scale.judge.pages.tables import figures

NamedRuns = Mapping[str, RunContent]


def names(folders: Sequence[Path]) -> list[str]:
    """Paths that tell the folders apart, without the parts that all share at both ends; of one its last part. If some
    are outside the working directory, only as many last parts as that takes: the rest stays private.

    Raises UserError for a folder that is there twice.
    """
    paths = [folder.resolve().parts for folder in folders]
    if twice := next((folders[i] for i, path in enumerate(paths) if path in paths[:i]), None):
        raise UserError(f"run: {twice} is there twice; name each run once")
    before = _alike(paths)
    rest = [path[before:] for path in paths]
    after = _alike([path[::-1] for path in rest])
    parts = [path[: len(path) - after] for path in rest]
    if not Path(*paths[0][:before]).is_relative_to(Path.cwd()):
        enough = next(n for n in count(1) if len({path[-n:] for path in parts}) == len(parts))
        parts = [path[-enough:] for path in parts]
    return ["/".join(path) for path in parts]


def _alike(paths: Sequence[Sequence[str]]) -> int:
    """In how many of their first parts all are alike, without the last part of any."""
    levels = zip(*(path[:-1] for path in paths), strict=False)
    return len([*takewhile(lambda parts: len({*parts}) == 1, levels)])


def side_by_side(runs: NamedRuns) -> str:
    """The page. Raises UserError for more runs than there are lines that can be told apart."""
    if len(runs) > figures.MOST:
        raise UserError(f"run: {len(runs)} runs; the lines of at most {figures.MOST} can be told apart: name fewer")
    warnings = {name: health.warnings(run) for name, run in runs.items()}
    by_run = [headlines(run, len(warnings[name])) for name, run in runs.items()]
    lines = figures.keys([*runs])
    # A loss that two methods compute in different ways has a title, and a picture, for each.
    logged = dict.fromkeys((name, title, False) for run in runs.values() for name, title in plots.titles(run).items())
    monitors = {name: each for run in runs.values() for name, each in health.monitored(run).items()}
    curves = []
    for name, title, log in [*logged, *((name, *each) for name, each in monitors.items())]:
        label = f"{title} over optimizer steps, a line for each run"
        curves.append(figures.Plot(title, svg(label, partial(_draw, runs, name, title, log)), lines))
    contents = [*runs.values()]
    return template(Path(__file__).with_name("several.html.j2")).render(
        runs=runs,
        keys=lines,
        headlines={subject: [each.get(subject) for each in by_run] for subject in SUBJECTS},
        warnings=warnings,
        failures=[*map(summary.failure, contents)],
        settings=summary.differing([run.config for run in contents]),
        environment=summary.differing([summary.shown_environment(run) for run in contents]),
        curves=curves,
        units=of_volumes if all(run.description.network.dimensions == 3 for run in contents) else str,
    )


def _draw(runs: NamedRuns, name: str, title: str, log: bool, axes: Axes) -> None:
    """Training is smoothed as on a run's own page; held-out rows are dots. A line is broken between stages."""
    for number, run in enumerate(runs.values()):
        if plots.titles(run).get(name, title) != title:
            continue
        for stage in run.stages:
            train, held_out = ([r for r in run.select(stage, split) if name in r] for split in ("train", "val"))
            values = np.array([row[name] for row in train])
            line = figures.style(number) | {"clip_on": False}
            axes.plot(
                [row["step"] for row in train], values if name == "lr" else plots.smooth(values),
                marker="o" if len(train) == 1 else "", markersize=3, **line,
            )  # fmt: skip
            dots = line | {"linewidth": 0.6, "marker": "o", "markersize": 2.6}
            axes.plot([row["step"] for row in held_out], [row[name] for row in held_out], **dots)
    if log:
        axes.set_yscale("log")
    plots.label_steps(axes)
