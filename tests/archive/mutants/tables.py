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
    "as it should be": _table(WHOLE, (GOOD, 0)),
    "a line of 10^6 cells": _table(WHOLE + b"a,b" + b",0" * 10**6 + b"\n", LONG),
    "blanks behind the last column": _table(WHOLE + b"x.png,P9,1" + b", " * 10**5 + b"\n", (GOOD, 1)),
    "a cell without end": Table(lambda size: WHOLE + b"x.png," + b"P" * size + b",1\n", LONG),
    "a quote without its end": Table(lambda size: WHOLE + b'x.png,"P\n' + b"a,P,1\n" * (size // 6), "field larger"),
    "a row of quoted newlines": Table(lambda size: WHOLE + b'x.png,"P' + b'\n","' * (size // 4) + b'"', LONG),
    "a header without end": Table(lambda size: b"file" * (size // 4), LONG),
    "newlines only": Table(lambda size: WHOLE + b"\n" * (size // 2), (GOOD, 0)),
    "NUL bytes in a name": _row(b"a\0.png", "NUL"),
    "NUL bytes only": Table(bytes, LONG),
    "Latin-1": _row("Müller.png".encode("latin-1"), "line 8: not UTF-8"),
    "UTF-16": _table(WHOLE.decode().encode("utf-16"), "line 1: not UTF-8"),
    "UTF-16 without a mark": _table(WHOLE.decode().encode("utf-16-le"), "NUL"),
    "UTF-8 with a mark": _table(b"\xef\xbb\xbf" + WHOLE, (GOOD, 0)),
    "overlong UTF-8": _row(b"\xc0\xaf.png", "line 8: not UTF-8"),
    "lines that end as on old Macs": _table(WHOLE.replace(b"\n", b"\r"), (GOOD, 0)),
    "semicolons": _table(WHOLE.replace(b",", b";"), (GOOD, 0)),
    "a newline in a name": _row(b"a\n.png"),
    "a newline in a label's name": _table(WHOLE.replace(b"nodule", b'"nod\nule"'), "a label is named 'nod"),
    "a label's name that speaks to a terminal": _table(WHOLE.replace(b"nodule", b"\x1b[2Jx"), "a label is named"),
    "a label that is a formula": _table(WHOLE.replace(b"nodule", b"=HYPERLINK(1)"), (GOOD, 0)),
    "columns of one name": _table(b"file,patient,a,a\n" + ROWS.replace(b"\n", b",1\n"), "two columns 'a'"),
    "files of one name": _table(b"file,file,patient,nodule\n" + ROWS, "two columns 'file'"),
    "blank columns": _table(WHOLE.replace(b"\n", b",,\n"), (GOOD, 0)),
    "a file twice": _table(WHOLE + b"./a1.png,P9,1\n", "lines 3 and 8 name the same file"),
    "no rows": _table(HEADER, "none of the 6 inputs is usable"),
    "nothing": _table(b"", "no column 'file'"),
    "a name without end": _row(b"n" * 10**5 + b".png"),
    "a name of many folders": _row(b"d/" * 10**4 + b"x.png"),
    "a name above": _row(b"../../../../etc/passwd"),
    "a device": _row(b"/dev/zero"),
    "an address": _row(b"http://127.0.0.1:9/x.png"),
    "no name": _row(b""),
    "a name that speaks to a terminal": _row(b"\x1b[2J\x1b]0;owned\x07.png"),
}  # fmt: skip
