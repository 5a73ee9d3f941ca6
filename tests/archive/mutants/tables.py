"""CSV files as nobody should write them, each with what must come of it.

Of ``a0.png`` … with columns file, patient and nodule; the outcome is a part of the one line of error, or how many
samples and rejected inputs there are.
"""

from collections.abc import Callable
from typing import NamedTuple

HEADER = b"file,patient,nodule\n"
GOOD = 6
ROWS = b"".join(b"a%d.png,P%d,%d\n" % (n, n, n % 2) for n in range(GOOD))
WHOLE = HEADER + ROWS


class Table(NamedTuple):
    content: Callable[[int], bytes]  # of about so many bytes, where it is a large one
    outcome: str | tuple[int, int]


def _table(content: bytes, outcome: str | tuple[int, int]) -> Table:
    return Table(lambda size: content, outcome)


def _row(file: bytes, outcome: str | tuple[int, int] = (GOOD, 1)) -> Table:
    """The good rows, and one of another file."""
    return _table(WHOLE + b'"' + file.replace(b'"', b'""') + b'",P9,1\n', outcome)


LONG = "longer than 1048576 characters"
TABLES: dict[str, Table] = {
    "a line of 10^6 cells": _table(WHOLE + b"a,b" + b",0" * 10**6 + b"\n", LONG),
    "a cell without end": Table(lambda size: WHOLE + b"x.png," + b"P" * size + b",1\n", LONG),
    "a quote without its end": Table(lambda size: WHOLE + b'x.png,"P\n' + b"a,P,1\n" * (size // 6), "field larger"),
    "a row of quoted newlines": Table(lambda size: WHOLE + b'x.png,"P' + b'\n","' * (size // 4) + b'"', LONG),
    "NUL bytes in a name": _row(b"a\0.png", "NUL"),
    "NUL bytes only": Table(bytes, LONG),
    "Latin-1": _row("Müller.png".encode("latin-1"), "line 8: not UTF-8"),
    "UTF-8 with a mark": _table(b"\xef\xbb\xbf" + WHOLE, (GOOD, 0)),
    "lines that end as on old Macs": _table(WHOLE.replace(b"\n", b"\r"), (GOOD, 0)),
    "a newline in a label's name": _table(WHOLE.replace(b"nodule", b'"nod\nule"'), "a label is named 'nod"),
    "a label's name that speaks to a terminal": _table(WHOLE.replace(b"nodule", b"\x1b[2Jx"), "a label is named"),
    "files of one name": _table(b"file,file,patient,nodule\n" + ROWS, "two columns 'file'"),
    "no rows": _table(HEADER, "none of the 6 inputs is usable"),
    "a name without end": _row(b"n" * 10**5 + b".png"),
    "a name above": _row(b"../../../../etc/passwd"),
    "an address": _row(b"http://127.0.0.1:9/x.png"),
    "a name that speaks to a terminal": _row(b"\x1b[2J\x1b]0;owned\x07.png"),
}  # fmt: skip
