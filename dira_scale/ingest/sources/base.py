"""What a source of images is to the rest of ``ingest``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol


class Box(NamedTuple):
    """A finding's rectangle in pixels of the source image; ``y, x`` is its upper left corner."""

    label: str
    y: float
    x: float
    h: float
    w: float


@dataclass(frozen=True)
class Record:
    """One image as its source lists it: nothing is decoded yet, and nothing is de-identified yet."""

    name: str  # unique in the source, the same on every machine; its keyed hash becomes the sample's key
    image: Path
    patient: str | None = None  # None: nothing is known, so the image counts as a patient of its own
    study: str | None = None
    labels: tuple[float, ...] = ()  # in the order of the source's label_names; NaN = unknown
    boxes: tuple[Box, ...] = ()
    mask: Path | None = None
    split: str | None = None  # what the source itself says; the recipe's ``official`` says what becomes of it
    attributes: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None  # bytes of the file, by which a changed source is told
    rejected: str | None = None  # why it goes to quarantine unread; what else is known of it does not count then


class Source(Protocol):
    """Named by ``_target_`` in a recipe; the recipe's remaining keys are its constructor's arguments.

    An argument in which a text has a ``/`` counts as a place on this machine: it does not enter ``dataset.json``.
    The constructor raises UserError when a file, folder or column that the recipe names is not there.
    """

    label_names: Sequence[str]

    def records(self, workers: int) -> Iterator[Record]:
        """All images, in any order, without decoding one. ``workers`` is how many processes it may use.

        Raises OSError when a file cannot be read just now, which says nothing about the file.
        """
        ...
