"""``python -m dira_scale.report run=out/runs/demo``: a self-contained HTML page about a run, finished or not.

``sweep=NAME`` in its place: about a sweep, with its tables beside the papers'.

torch is imported inside the functions: a typing mistake is named within a second.
"""

import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import defaults, run_verb
from dira_scale.errors import UserError, print_line
from dira_scale.places.atomic import as_user_error, write_atomic
from dira_scale.places.owned import own_file
from dira_scale.verbs import VERBS


def report(config: DictConfig) -> None:
    """Read ``config.run``, or the sweep in ``config.folder``, write the page to ``config.out``."""
    folder = Path(config.run or config.folder)
    out = Path(config.out or folder / "report.html")
    if config.out and not out.parent.is_dir():
        raise UserError(f"out={out}: no such folder: {out.parent}")
    if config.folder:
        from dira_scale.cluster.page import write_page

        return write_page(folder, out)
    of_run(folder, out)


def of_run(folder: Path, out: Path) -> None:
    """Write the page of the run in ``folder``. Raises UserError if there is none."""
    from dira_scale.reporting.content import read_run
    from dira_scale.reporting.page import render

    own_file(out, "out")
    run = read_run(folder)
    verb_defaults: Any = OmegaConf.to_container(defaults(verb)) if (verb := run.description.verb) in VERBS else {}
    page = render(run, verb_defaults)
    with as_user_error(out, "out"):
        write_atomic(out, page)
    for text in run.missing:
        print_line(f"not in the report: {text}")
    print_line(f"report: {out.resolve()}")


def main(argv: list[str] | None = None) -> int:
    """The verb. ``sweep=NAME`` stands for the sweep's default folder; Hydra would take it for a choice of a file."""
    typed = sys.argv[1:] if argv is None else argv
    words = [re.sub(r"^sweep=([^/]*)$", r"sweep=out/sweeps/\1", word) for word in typed]
    return run_verb("report", report, [re.sub("^sweep=", "folder=", word) for word in words])


if __name__ == "__main__":
    raise SystemExit(main())
