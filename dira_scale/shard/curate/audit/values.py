"""The identifying values of a source, as the bytes to search for.

Case-insensitive: ASCII by folding both sides, other alphabets by one form per case.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

LONG, LONGEST = 6, 64  # bytes of a value that is searched in raw bytes; longer ones are truncated


class Value(NamedTuple):
    """A value of the source, and where it is from: ``PatientName``, ``file name`` …

    ``vr`` is DICOM's (PN, DA …) or empty; ``encodings``: its file's, in addition to UTF-8.
    """

    kind: str
    text: str
    vr: str = ""
    encodings: tuple[str, ...] = ()


@dataclass
class Values:
    """The forms of all values with their kinds: ``long`` ones for raw bytes, ``short`` ones for words.

    ``words`` (lower case) are the dataset's own and cannot be distinguished from leaks: values that equal one are
    ``not_searched``, and a value within one (thorax in Pneumothorax) is no hit.
    """

    words: frozenset[bytes]
    long: dict[bytes, str] = field(default_factory=dict)
    short: dict[bytes, str] = field(default_factory=dict)
    not_searched: set[tuple[str, str]] = field(default_factory=set)  # kind and text

    @classmethod
    def of(cls, values: Iterable[Value], words: Collection[str]) -> "Values":
        result = cls(frozenset(word.encode("utf-8", "replace") for word in words))
        for value in values:
            for text in texts(value):
                plain = text.lower()
                if plain in words or len(set(plain)) == 1:  # 00000000 and the like identify nobody
                    result.not_searched.add((value.kind, plain))
                    continue
                for form in forms(text, value.encodings):
                    (result.long if len(form) >= LONG else result.short).setdefault(form, value.kind)
        return result

    def expected_by_chance(self) -> float:
        """Expected hits per byte of random data."""
        return sum((2 ** len(re.findall(rb"[a-z]", form))) / 256.0 ** len(form) for form in self.long)


def texts(value: Value) -> Iterator[str]:
    """The value itself, the parts of a name, other notations of a date; longer texts line by line."""
    for line in value.text.replace("\0", " ").splitlines():
        line = line.strip()
        if not line:
            continue
        yield line
        if value.vr == "PN":
            yield from (part for part in re.split(r"[\^=\s]+", line) if len(part) > 1)
        if value.vr in ("DA", "DT") and (date := re.match(r"(\d{4})(\d\d)(\d\d)", line)):
            yield "".join(date.groups())
            yield "-".join(date.groups())
            yield ".".join(reversed(date.groups()))


def forms(text: str, encodings: tuple[str, ...]) -> set[bytes]:
    """The bytes to compare, at most ``LONGEST``: a longer value is found by its start."""
    encoded = set()
    for cased in {text, text.lower(), text.upper()}:
        for encoding in ("utf-8", *encodings):
            try:
                encoded.add(cased.encode(encoding, "surrogateescape").lower()[:LONGEST])
            except (UnicodeEncodeError, LookupError):
                continue  # not representable, so it cannot occur in this encoding
    return encoded - {b""}
