"""Cards at the top of a page: a figure, and a verdict where there is a threshold to judge it by."""

from dataclasses import dataclass
from enum import Enum


class Grade(Enum):
    """Each has a word and a symbol beside its colour, for readers who cannot tell the colours apart."""

    good = ("✓", "good")
    fair = ("≈", "fair")
    poor = ("✗", "poor")
    early = ("…", "too early")
    short = ("…", "too few steps")  # it is over
    open = ("–", "not judged")

    def __init__(self, symbol: str, word: str) -> None:
        self.symbol, self.word = symbol, word


@dataclass(frozen=True)
class Verdict:
    """A grade and the threshold or comparison that it is from."""

    grade: Grade
    why: str


@dataclass(frozen=True)
class Headline:
    """One figure at the top of the page. ``verdict`` is None where there is no threshold for it."""

    figure: str
    what: str
    detail: str
    verdict: Verdict | None = None
