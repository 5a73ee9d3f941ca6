"""The YAML and JSON files of a run's folder, which a stranger may have written: whatever is wrong with one ends in a
line that names the file and the fault. Imports no torch."""

import json
import math
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import yaml

from dira_scale.base.errors import UserError
from dira_scale.base.storage.owned import is_inside
from dira_scale.train.runs.shape import shaped

T = TypeVar("T", bound=dict[str, Any] | list[Any])
DAMAGED = (ValueError, RecursionError, yaml.YAMLError)  # what a text raises that is not YAML or JSON, or is too deep
# By C, where PyYAML has it; Python's own takes 30 ms for a configuration.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TEXTS = ("stage", "split")  # in each row of metrics.jsonl; all else but warnings are numbers
NEEDED = ("step", "epoch", "lease")
LARGEST = 2**64  # of whole numbers: seeds and hashes have 64 bits, and Python does not print numbers of 5,000 digits
DEEPEST = 100  # levels of YAML in each other
MOST_YAML, MOST_JSON, MOST_ROWS = 2**22, 2**26, 2**32  # bytes; YAML takes a hundred times as much memory


class StatusFile(TypedDict, total=False):
    """``status.json``, as far as it is used."""

    state: str
    step: int | None
    steps: int | None
    reason: str | None


def inside(path: Path, folder: Path | None = None) -> Path:
    """``path``, a file of what a command has written into ``folder``, by default the file's own. The one way to it.

    Raises UserError for a link that leaves the folder: a stranger's would put a file of yours into pages and texts.
    """
    if not is_inside(path, folder := folder or path.parent):
        raise UserError(f"{path} is a link that leaves {folder}: put the file itself there")
    return path


def read_text(path: Path, most: int) -> str:
    """The text of a file :func:`inside` its folder. Raises ValueError if it has more than ``most`` bytes or is not
    UTF-8, UserError, OSError as reading does."""
    with inside(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes")
    return content.decode()


def parse_json(text: str) -> Any:
    """JSON whose numbers are finite, or NaN, and whose whole ones have at most 64 bits. Raises DAMAGED."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and plain values; tags, which name classes, aliases and infinite numbers are refused. Raises UserError."""
    try:
        text, depth = read_text(path, MOST_YAML), 0
        for event in yaml.parse(text, LOADER):
            if isinstance(event, yaml.AliasEvent):  # by which a kilobyte can stand for gigabytes; we write none
                raise ValueError(f"aliases are not read: *{event.anchor}")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"values in each other more than {DEEPEST} deep")
        content = yaml.load(text, LOADER)
        parse_json(json.dumps(content))  # refuses what YAML has and JSON has not, and numbers out of its bounds
    except (*DAMAGED, TypeError) as error:
        raise UserError(f"{path} is damaged ({_reason(error)}): restore the file") from error
    return _checked(path, content, {})


def read_json(path: Path, empty: T, kind: Any = Any) -> T:
    """Read a file with a mapping or a list, of the type of ``empty``, which is returned if there is no file.

    Raises UserError, also if it is not of a ``kind``, as :func:`dira_scale.train.runs.shape.shaped` takes it.
    """
    if not path.is_file():
        return empty
    try:
        content = parse_json(read_text(path, MOST_JSON))
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({_reason(error)}): restore the file") from error
    content = _checked(path, content, empty)
    try:
        checked: T = shaped(kind, content, "restore the file")
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return checked


def read_status(run: Path) -> dict[str, Any]:
    """``status.json`` of the run in folder ``run``; empty before it is written. Raises UserError."""
    empty: dict[str, Any] = {}
    return read_json(run / "status.json", empty, StatusFile)


def read_rows(path: Path, rate: str) -> tuple[list[dict[str, Any]], int]:
    """The rows of ``metrics.jsonl`` that are whole, and the number of others.

    A running run may be writing the last line, which is not counted. ``rate``: what each row of ``train`` has.
    Raises UserError for a file of more than 4 GiB.
    """
    if not path.is_file():
        return [], 0
    if inside(path).stat().st_size > MOST_ROWS:
        raise UserError(f"{path} is damaged (more than {MOST_ROWS:,} bytes): restore the file")
    with path.open(errors="replace") as file:
        rows = [_row(line, rate) for line in file if line.endswith("\n")]
    return [row for row in rows if row], rows.count({})


def _row(line: str, rate: str) -> dict[str, Any]:
    """Empty unless it has what every row has, and no other values than numbers, but for names and warnings."""
    try:
        row = json.loads(line, parse_float=_finite, parse_int=_whole)  # a loss may be written as Infinity
    except DAMAGED:
        return {}
    if not isinstance(row, dict):
        return {}
    numbers = {key: value for key, value in row.items() if key not in (*TEXTS, "warnings")}
    needed = (*NEEDED, *([rate] if row.get("split") == "train" else []))
    warnings = row.get("warnings", [])
    intact = (
        all(isinstance(row.get(key), str) for key in TEXTS)
        and all(type(row.get(key)) in (int, float) and math.isfinite(row[key]) for key in needed)
        and type(row["step"]) is int
        and type(row["lease"]) is int
        and all(value is None or type(value) in (int, float) for value in numbers.values())
        and isinstance(warnings, list)
        and all(isinstance(text, str) for text in warnings)
    )
    return row if intact else {}


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {text[:20]}, which is infinite")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or not -LARGEST < (number := int(text)) < LARGEST:
        raise ValueError(f"the number {text[:20]}…, of more than 64 bits")
    return number


def _checked(path: Path, content: Any, empty: T) -> T:
    if not isinstance(content, type(empty)):
        wanted = "a mapping of keys" if isinstance(empty, dict) else "a list"
        raise UserError(f"{path} is damaged (it holds {type(content).__name__}, not {wanted}): restore the file")
    return content


def _reason(error: BaseException) -> str:
    """One line: YAML's errors have several, the file's text among them."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
