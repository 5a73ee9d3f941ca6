"""The audit's list of our own words has all that a reason for a rejection is made of."""

import ast
from collections.abc import Iterator
from pathlib import Path

import dira_scale
from dira_scale.shard.curate.audit.metadata import tokens
from dira_scale.shard.curate.audit.words import REASONS

GIVEN_TO = {"RejectedError", "GeometryError", "QuarantinedError", "rejects", "replace", "SourceRecord", "_found_series"}


def reasons() -> Iterator[str]:
    """The texts that the code which reads images and lists them gives as reasons, and a few more."""
    package = Path(dira_scale.__path__[0])
    for path in sorted([*package.glob("imaging/**/*.py"), *package.glob("archive/**/*.py")]):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in GIVEN_TO:
                yield from (part.value for part in ast.walk(call)
                            if isinstance(part, ast.Constant) and isinstance(part.value, str))  # fmt: skip


def test_every_word_of_every_reason_is_listed() -> None:
    """One that is not here would be reported as a leak wherever a folder of the source has its name."""
    words = {token for reason in reasons() for token in tokens(reason) if token.isalpha() and len(token) > 1}
    assert len(words) > 200 and sorted(words - set(REASONS.split())) == []
