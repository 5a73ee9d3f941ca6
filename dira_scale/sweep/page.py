"""The HTML page of a sweep, and its tables beside it (``pages/tables/``)."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dira_scale.errors import UserError, print_line
from dira_scale.storage.atomic import as_user_error, write_atomic
from dira_scale.storage.owned import SWEEP_PAGE, own_file
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.results import write_results


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
    planned, done = (
        len(folder.current),
        [SweepRun(run.id, run.verb, folder.output(run), run.words) for run in results.read],
    )
    if not done:
        raise UserError(f"folder={path}: none of its {planned} runs is done; `sweep status folder={path}` says why")
    for line in results.lines[1:]:
        print_line(f"not in the report: {line}")
    composed: Any = OmegaConf.to_container(OmegaConf.load(path / "sweep.yaml"))
    papers = [PaperTable(**table) for table in composed["sweep"].get("tables") or []]
    texts = render(read_sweep(composed["sweep"]["name"], path, done, planned), papers)
    with as_user_error(out, "out"):
        for suffix, text in texts.items():
            write_atomic(out.with_suffix(suffix), text)
    print_line(f"report: {out.resolve()}, with .md, .csv and .tex beside it")
