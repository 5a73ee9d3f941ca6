"""``python -m dira_scale.report run=out/runs/demo``: a self-contained HTML page about a run, finished or not.

``sweep=NAME`` in its place: about a sweep, with its tables beside the papers'.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command
from dira_scale.commands import COMMANDS
from dira_scale.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command("report", "write an HTML page about a run", output="out", reads_run=True)


def report(cfg: "DictConfig") -> None:
    """Read ``cfg.run``, or the sweep in ``cfg.folder``, and write the page to ``cfg.out``."""
    folder = Path(cfg.run or cfg.folder)
    out = Path(cfg.out or folder / "report.html")
    if cfg.out and not out.parent.is_dir():
        raise UserError(f"out={out}: no such folder: {out.parent}")
    if cfg.folder:
        resolve_name(COMMANDS["sweep"].page)(folder, out)
        return
    from dira_scale.report.page import write_page

    write_page(folder, out)


def _words(typed: Sequence[str]) -> list[str]:
    """``sweep=NAME`` stands for the sweep's default folder; Hydra would take it for a choice of a file."""
    words = [re.sub(r"^sweep=([^/]*)$", r"sweep=out/sweeps/\1", word) for word in typed]
    return [re.sub("^sweep=", "folder=", word) for word in words]


main = entry(COMMAND, report, words=_words)
