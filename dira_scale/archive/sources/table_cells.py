"""Cells of hand-made tables: numbers, and which columns are labels."""

import math
from collections.abc import Collection, Iterable

from dira_scale.errors import UserError
from dira_scale.storage.tables import Row
from dira_scale.storage.text import brief

WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0, "positive": 1.0, "negative": 0.0}  # in any case


def number(cell: str, where: str) -> float:
    """A cell's finite number (a word of ``WORDS``: 1 or 0), NaN if empty. Raises UserError naming ``where`` it is."""
    value = _number(cell)
    if value is None:
        what = brief(f"'{cell}' is not a number; recipe.class_columns takes several classes")
        raise UserError(f"{where}: {what}")
    return value


def flags_and_numbers(rows: Iterable[Row], taken: Collection[str]) -> tuple[list[str], list[str]]:
    """The columns (except ``taken``) whose cells are only 0, 1, -1, yes, no or empty; those with other numbers too."""
    kinds: dict[str, set[str]] = {}  # columns with only numbers so far
    for number, row in enumerate(rows):
        if number == 0:
            kinds = {column: set() for column in row.cells if column not in taken}
        for column in list(kinds):
            cell = row.cells[column].strip()
            value = _number(cell)
            if value is None:
                del kinds[column]
            elif cell:
                kinds[column].add("flag" if value in (0, 1, -1) or value != value else "number")
    flags = [column for column, kind in kinds.items() if kind == {"flag"}]
    return flags, [column for column, kind in kinds.items() if "number" in kind]


def _number(cell: str) -> float | None:
    """NaN for an empty cell, None if it is not a finite number."""
    word = cell.strip()
    if word.casefold() in WORDS:
        return WORDS[word.casefold()]
    try:
        value = float(word or "nan")
    except ValueError:
        return None
    return None if math.isinf(value) else value
