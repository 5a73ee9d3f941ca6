"""Label columns of hand-made tables: numbers, yes and no, and classes such as a diagnosis or a grade."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.errors import UserError, nearest
from dira_scale.base.storage.tables import TableRow
from dira_scale.base.storage.text import brief

WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0, "positive": 1.0, "negative": 0.0}  # in any case
MOST_CLASSES = 100  # classes of a column: more is a measurement, a date or free text
KEY = "class_columns"
ClassSpec = Sequence[str] | Mapping[str, Sequence[object] | None] | None


def number(cell: str, where: str) -> float:
    """A cell's finite number (a word of ``WORDS``: 1 or 0), NaN if empty. Raises UserError naming ``where`` it is."""
    value = _number(cell)
    if value is None:
        what = brief(f"'{cell}' is not a number; class_columns takes several classes")
        raise UserError(f"{where}: {what}")
    return value


def flags_and_numbers(rows: Iterable[TableRow], taken: Collection[str]) -> tuple[list[str], list[str], dict[str, int]]:
    """The columns (except ``taken``) whose cells are only 0, 1, -1, yes, no or empty; those with other numbers too; and
    the others, each with the first line whose cell is no number: what is in it may name somebody."""
    texts: dict[str, int] = {}
    kinds: dict[str, set[str]] = {}  # columns with only numbers so far
    for number, row in enumerate(rows):
        if number == 0:
            kinds = {column: set() for column in row.cells if column not in taken}
        for column in list(kinds):
            cell = row.cells[column].strip()
            value = _number(cell)
            if value is None:
                del kinds[column]
                texts[column] = row.line
            elif cell:
                kinds[column].add("flag" if value in (0, 1, -1) or value != value else "number")
    flags = [column for column, kind in kinds.items() if kind == {"flag"}]
    return flags, [column for column, kind in kinds.items() if "number" in kind], texts


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


class ClassColumns:
    """The classes of each column: those given, else all values of the table in ascending order, whole numbers by value
    and text by letter. Cells are compared in any case.

    Raises UserError for fewer than two classes, more than ``MOST_CLASSES``, or a class given twice.
    """

    def __init__(self, spec: ClassSpec, rows: Iterable[TableRow], table: object):
        columns = spec if isinstance(spec, Mapping) else dict.fromkeys(spec or ())
        seen = {column: dict[str, str]() for column, names in columns.items() if not names}  # first spelling by key
        for row in rows if seen else ():
            for column, values in seen.items():
                if (cell := row.cells[column].strip()) and len(values) <= MOST_CLASSES:
                    values.setdefault(key_of(cell), cell)
        self.names = dict[str, tuple[str, ...]]()
        for column, names in columns.items():
            if any(isinstance(name, bool) for name in names or ()):
                quoted = "classes in quotes, as ['no', 'yes']: without, yes, no, true and false are not text in YAML"
                raise ArgumentError(f"{KEY}.{brief(str(column))}", UNSHOWN, quoted)
            classes = [str(name).strip() for name in names or ()]
            if not classes:
                spellings = seen[column]
                numbers = all(_is_whole(key) for key in spellings)
                classes = sorted(spellings, key=int) if numbers else [spellings[key] for key in sorted(spellings)]
            if len(classes) > MOST_CLASSES:
                raise UserError(f"{table}: column {brief(column)} has more than {MOST_CLASSES} values: {KEY} takes "
                                "classes, such as a diagnosis or a grade")  # fmt: skip
            if len(classes) < 2 or len({key_of(name) for name in classes}) < len(classes):
                what = f"has {brief(', '.join(classes)) or 'no value'}: "
                raise UserError(f"{table}: column {brief(column)} {what}two different classes or more are needed; "
                                f"{KEY}='{{{brief(column)}: [first, second, third]}}' lists them")  # fmt: skip
            self.names[column] = tuple(classes)
        self._numbers = {
            column: {key_of(name): n for n, name in enumerate(classes)} for column, classes in self.names.items()
        }

    def number(self, column: str, cell: str, where: str) -> float:
        """Return the number of the cell's class, from 0; NaN if it is empty. Raises UserError, naming ``where`` it is,
        for another."""
        numbers = self._numbers[column]
        if cell.strip() and key_of(cell) not in numbers:
            names = self.names[column]
            hint = nearest(cell, names) or f": use {', '.join(names)}"
            raise UserError(f"{where}: " + brief(f"'{cell}' is not a class of {KEY}{hint}"))
        return float(numbers[key_of(cell)]) if cell.strip() else math.nan


def key_of(cell: str) -> str:
    """Equal for cells of one class: ``1`` and ``1.0``, ``TB`` and ``tb``."""
    word = cell.strip().casefold()
    start, _, zeros = word.partition(".")
    return str(int(start)) if _is_whole(start) and not zeros.strip("0") else word


def _is_whole(word: str) -> bool:
    return word.removeprefix("-").isdecimal() and word.isascii()
