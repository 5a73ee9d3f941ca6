"""What `probe` does: compare, print the table, write ``probe.json`` and ``probe.md``."""

from pathlib import Path

from omegaconf import DictConfig

from dira_scale import __version__
from dira_scale.evaluation.probe_figures import as_json
from dira_scale.evaluation.probe_table import by_label, markdown, overviews, rich_table
from dira_scale.machine.console import Console
from dira_scale.probe.comparison import compare
from dira_scale.probe.config import refuse_other_figures
from dira_scale.runs.environment import environment
from dira_scale.storage.atomic import as_user_error, write_atomic, write_json
from dira_scale.storage.owned import check_own, own


def compare_and_show(cfg: DictConfig) -> None:
    """Print the table; write ``probe.json`` and ``probe.md`` to ``out``."""
    out = Path(cfg.out) if cfg.out else (Path(cfg.run) / "probe" if isinstance(cfg.run, str) else Path("out/probe"))
    with as_user_error(out, "out"):
        check_own(out, "a probe", "out", None if cfg.out or not isinstance(cfg.run, str) else Path(cfg.run))
        refuse_other_figures(out, cfg)
    result = compare(cfg)
    probes = dict.fromkeys(figure.probe for figure in result.figures)
    shown, first, *others = overviews(result.figures), *(by_label(result.figures, probe) for probe in probes)
    about = {"dira_scale": __version__, "commit": environment()["commit"], "config": result.config}
    rows = {"compared": result.compared, "figures": as_json(result.figures)}
    with as_user_error(out, "out"):
        own(out, "a probe", "out")
        write_json(out / "probe.json", about | {"data": result.data, "notes": result.notes} | rows)
    console = Console()
    for title, cells in shown + first:  # per label, the first probe only; probe.md has all
        console.print(rich_table(title, cells))
    for note in result.notes:
        console.print(note, markup=False, highlight=False)
    intro = [f"dira_scale {__version__}, commit {about['commit']}. {note}" for note in result.notes[:1]]
    lines = ["# Probe", "", *intro, "", *(f"- {note}" for note in result.notes[1:]), ""]
    with as_user_error(out, "out"):
        titled = sum(others, shown + first)
        write_atomic(out / "probe.md", "\n".join([*lines, *(markdown(title, cells) for title, cells in titled)]))
    console.print(f"probe.json and probe.md in {out}", markup=False, highlight=False)
