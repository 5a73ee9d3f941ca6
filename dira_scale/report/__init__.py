"""``python -m dira_scale.report run=out/runs/demo``: a self-contained HTML page about a run, finished or not; of
``run=[a,b]`` about several.

``sweep=NAME`` in its place: about a sweep, with its tables beside the papers'. ``embeddings=FOLDER data.shards=OUT``:
about nearest neighbours. ``watch=true`` serves the page instead of writing it.
"""

import re
from collections.abc import Sequence

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "report", "write an HTML page about a run", "dira_scale.report.page:report",
    look=("dira_scale.train.runs.complete:check_runs",), output="out", reads_run=True,
)  # fmt: skip


def _words(typed: Sequence[str]) -> list[str]:
    """``sweep=NAME`` stands for the sweep's default folder; Hydra would take it for a choice of a file."""
    words = [re.sub(r"^sweep=([^/]*)$", r"sweep=out/sweeps/\1", word) for word in typed]
    return [re.sub("^sweep=", "folder=", word) for word in words]


main = entry(COMMAND, words=_words)
