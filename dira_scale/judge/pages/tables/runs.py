"""The finished runs of a sweep, as its tables know them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError
from dira_scale.train.runs.files import read_json


@dataclass(frozen=True)
class SweepRun:
    """``id`` is PHASE/NAME; NAME ends with the configuration's hash. ``words``: of its command."""

    id: str
    command: str
    output: Path
    words: Sequence[str]

    @property
    def phase(self) -> str:
        return self.id.partition("/")[0]

    @property
    def hash(self) -> str:
        """The hash of the configuration."""
        return self.id.rpartition("/")[2].rpartition("-")[2]

    @property
    def commit(self) -> str:
        """The commit of the code that it was computed with; empty where it does not say."""
        for file in ("environment.json", "probe.json", "results.json"):
            with suppress(UserError):  # damaged runs are reported elsewhere
                if commit := read_json(self.output / file, dict[str, Any]()).get("commit"):
                    return str(commit)
        return ""


def ids_of(outputs: Sequence[str], runs: Sequence[SweepRun]) -> list[str]:
    """The ids of the runs that wrote these folders, as far as they are of this sweep."""
    known = {run.id for run in runs}
    ends = ("/".join(Path(output).parts[-3:-1]) for output in outputs)
    return [end for end in ends if end in known]
