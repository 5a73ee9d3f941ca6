"""Runs of `bench`, which has flags: their words, and what is looked at before they start."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dira_scale.errors import UserError

TO_FOLDER = ("gpu", "scaling")  # benchmarks with --out FOLDER; the others have --json FILE
HELP_SECONDS = 120  # for a benchmark to say its flags


def words(values: Mapping[str, Any], output: str) -> list[str]:
    """``benchmark: gpu, parts: [a, b], rehearse: true`` as ``gpu --parts a b --rehearse --out …``."""
    flags = dict(values)
    name = str(flags.pop("benchmark", ""))
    words = [name]
    for key, value in flags.items():
        several = value if isinstance(value, list) else [value]
        words += [f"--{key.replace('_', '-')}", *([] if value is True else map(str, several))]
    return words + (["--out", output] if name in TO_FOLDER else ["--json", f"{output}/{name}.json"])


def check(words: Sequence[str]) -> None:
    """A benchmark's parser says which flags there are.

    Raises UserError for another flag, and if there is no such benchmark.
    """
    name, *flags = words
    if not name:
        raise UserError("benchmark must be given: set: {benchmark: NAME}; python -m dira_scale.bench lists them")
    command = [sys.executable, "-m", "dira_scale.bench", name, "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=HELP_SECONDS)
    if said.returncode:
        raise UserError(said.stderr.strip().removeprefix("bench: "))
    for flag in flags:
        if flag.startswith("--") and not re.search(rf"{re.escape(flag)}\b", said.stdout):
            raise UserError(f"benchmark {name} has no flag {flag}: {' '.join(command[2:])} lists them")
