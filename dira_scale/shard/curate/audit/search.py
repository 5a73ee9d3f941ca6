"""The identifying values of a source, and all their occurrences in a file or text.

Case-insensitive: ASCII by folding both sides, other alphabets by one form per case. Millions of values are found at
hundreds of MB/s: any occurrence of ``LONG`` or more bytes covers a complete gram of ``GRAM`` bytes at a multiple of
``STRIDE``. So only these grams are looked up: first hashed in a sparse bit table, then exactly, then the value itself.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np

LONG, LONGEST = 6, 64  # bytes of a value that is searched in raw bytes; longer ones are truncated
STRIDE = 2
GRAM = LONG - STRIDE + 1
BLOCK = 2**18  # bytes; its arrays fit a processor's cache
AROUND = 128  # context bytes kept on both sides of a hit
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: 2**64 / the golden ratio, odd


class Text(NamedTuple):
    """A text, and what it is of: a value of the source (``PatientName``, ``file name``), or a part of a file of ours.

    ``vr`` is DICOM's (PN, DA …) or empty; ``encodings``: its file's, in addition to UTF-8.
    """

    what: str
    text: str
    vr: str = ""
    encodings: tuple[str, ...] = ()


@dataclass
class SourceValues:
    """The forms of all values with their kinds: ``long`` ones for raw bytes, ``short`` ones for words.

    ``words`` (lower case) are the dataset's own and cannot be distinguished from leaks: values that equal one are
    ``not_searched``, and a value within one (thorax in Pneumothorax) is no hit.
    """

    words: frozenset[bytes]
    long: dict[bytes, str] = field(default_factory=dict)
    short: dict[bytes, str] = field(default_factory=dict)
    not_searched: set[tuple[str, str]] = field(default_factory=set)  # kind and text

    @classmethod
    def of(cls, values: Iterable[Text], words: Collection[str]) -> "SourceValues":
        result = cls(frozenset(word.encode("utf-8", "replace") for word in words))
        for value in values:
            for text in texts(value):
                plain = text.lower()
                if plain in words or len(set(plain)) == 1:  # 00000000 and the like identify nobody
                    result.not_searched.add((value.what, plain))
                    continue
                for form in forms(text, value.encodings):
                    (result.long if len(form) >= LONG else result.short).setdefault(form, value.what)
        return result

    def expected_by_chance(self) -> float:
        """Expected hits per byte of random data."""
        return sum((2 ** len(re.findall(rb"[a-z]", form))) / 256.0 ** len(form) for form in self.long)


def texts(value: Text) -> Iterator[str]:
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


class Match(NamedTuple):
    """A value at ``offset``, and the bytes around it (not case-folded)."""

    offset: int
    form: bytes
    kind: str
    before: bytes
    after: bytes


class Searcher:
    """Searches for ``values``, each of at least ``LONG`` bytes, which have their kinds."""

    def __init__(self, values: Mapping[bytes, str]):
        self._values = values
        self._lengths = sorted({len(form) for form in values}, reverse=True)
        grams = [form[shift : shift + GRAM] for form in values for shift in range(STRIDE)]
        self._grams = np.unique(np.array([int.from_bytes(gram, "little") for gram in grams], "<u8"))
        bits = min(max(64 * len(self._grams), 2**16).bit_length(), 26)
        self._shift = np.uint64(64 - bits)
        self._marked = np.zeros(2**bits, bool)
        self._marked[self._hashes(self._grams)] = True

    def file(self, file: BinaryIO) -> Iterator[Match]:
        """Matches in ``file`` from its position, in overlapping blocks; of overlapping matches, the first."""
        text, start, done = b"", 0, 0  # start: offset of text[0]; done: matches that begin before it have been yielded
        while True:
            block = file.read(BLOCK)
            text += block
            end = start + len(text) - (AROUND if block else 0)  # matches that begin after it may be incomplete
            for match in self.block(text):
                if done <= start + match.offset < end:
                    yield match._replace(offset=start + match.offset)
                    done = start + match.offset + len(match.form)
            done = max(done, end)
            if not block:
                return
            cut = max(0, done - AROUND - start)
            text, start = text[cut:], start + cut

    def texts(self, texts: Iterable[str]) -> Iterator[tuple[int, Match]]:
        """Matches in decoded texts, with the number of the text."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        starts = np.cumsum([0] + [len(text) + 1 for text in encoded]).tolist()
        for match in self.block(b"\n".join(encoded)):
            number = bisect_right(starts, match.offset) - 1
            yield number, match._replace(offset=match.offset - starts[number])

    def block(self, text: bytes) -> Iterator[Match]:
        """Matches in ``text``: the longest value at each place; of overlapping matches, the first."""
        if not len(self._grams):
            return
        folded, end = text.lower(), 0
        windows = np.ndarray(-(-len(folded) // STRIDE), "<u8", folded + bytes(8), 0, (STRIDE,))
        marked = np.flatnonzero(self._marked.take(self._hashes(windows), mode="clip"))
        grams = windows[marked] & np.uint64(2 ** (8 * GRAM) - 1)
        index = np.minimum(np.searchsorted(self._grams, grams), len(self._grams) - 1)
        positions = STRIDE * marked[self._grams[index] == grams]
        starts = (positions[:, None] - np.arange(STRIDE)).ravel()
        for at in sorted(starts[starts >= 0].tolist()):  # where a value may begin
            prefixes = (folded[at : at + length] for length in self._lengths)
            form = next((form for form in prefixes if form in self._values), None) if at >= end else None
            if form:
                end = at + len(form)
                yield Match(at, form, self._values[form], text[max(0, at - AROUND) : at], text[end : end + AROUND])

    def _hashes(self, windows: np.ndarray) -> np.ndarray:
        """Hashes of the first ``GRAM`` of each 8 bytes."""
        hashes = windows << np.uint64(64 - 8 * GRAM)
        hashes *= FACTOR
        hashes >>= self._shift
        return hashes.view(np.int64)
