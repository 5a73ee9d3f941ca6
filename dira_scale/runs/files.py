"""The YAML and JSON files of a run's folder, which a stranger may have written: whatever is wrong with one ends in a
line that names the file and the fault. Imports no torch."""

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dira_scale.errors import UserError

T = TypeVar("T", bound=dict[str, Any] | list[Any])
DAMAGED = (ValueError, RecursionError, yaml.YAMLError)  # what a text raises that is not YAML or JSON, or is too deep
TEXTS = ("stage", "split")  # in each row of metrics.jsonl; all else but warnings are numbers


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and plain values; tags, which name classes, are refused. Raises UserError."""
    try:
        content = yaml.safe_load(path.read_text())
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({_reason(error)}): restore the file") from error
    return _checked(path, content, {})


def read_json(path: Path, empty: T) -> T:
    """What a file holds, a mapping or a list as ``empty`` is, which stands for a file that is not there.

    Raises UserError.
    """
    if not path.is_file():
        return empty
    try:
        content = json.loads(path.read_text())
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({_reason(error)}): restore the file") from error
    return _checked(path, content, empty)


def read_rows(path: Path, rate: str) -> tuple[list[dict[str, Any]], int]:
    """The rows of ``metrics.jsonl`` that are whole, and the number of others.

    A running run may be writing the last line, which is not counted. ``rate``: what each row of ``train`` has.
    """
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else []
    rows = [_row(line, rate) for line in lines if line.endswith("\n")]
    return [row for row in rows if row], rows.count({})


def _row(line: str, rate: str) -> dict[str, Any]:
    """Empty unless it has what every row has, and no other values than numbers, but for names and warnings."""
    try:
        row = json.loads(line)
    except DAMAGED:
        return {}
    if not isinstance(row, dict):
        return {}
    numbers = {key: value for key, value in row.items() if key not in (*TEXTS, "warnings")}
    needed = {"step", "epoch", "lease", *([rate] if row.get("split") == "train" else [])}
    whole = all(isinstance(row.get(key), str) for key in TEXTS) and needed <= numbers.keys()
    whole = whole and all(value is None or isinstance(value, int | float) for value in numbers.values())
    return row if whole and not any(numbers[key] is None for key in needed) else {}


def _checked(path: Path, content: Any, empty: T) -> T:
    if not isinstance(content, type(empty)):
        wanted = "a mapping of keys" if isinstance(empty, dict) else "a list"
        raise UserError(f"{path} is damaged (it holds {type(content).__name__}, not {wanted}): restore the file")
    return content


def _reason(error: BaseException) -> str:
    """One line: YAML's errors have several, the file's text among them."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return f"{type(error).__name__}: {error}"
