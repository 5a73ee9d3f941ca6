"""What a source of images is to the rest of ``ingest``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from dira_scale.imaging.boxes import Box
from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.settings import ReadSettings
from dira_scale.imaging.volume import Volume


@runtime_checkable
class Input(Protocol):
    """An image that is more, or less, than a file: the slices of a series, a frame, one array of an ``.npz``.

    Picklable; nothing is opened before ``read``, which a worker calls.
    """

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read."""
        ...

    def read(self, settings: ReadSettings) -> GreyImage | Volume:
        """Raises RejectedError; OSError and MemoryError, which are no fault of the file."""
        ...


@runtime_checkable
class Painted(Protocol):
    """A mask that is drawn: run lengths, contours. Picklable."""

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """uint8 of the shape of ``image`` as it was read. Raises RejectedError."""
        ...


@dataclass(frozen=True)
class SourceRecord:
    """One image as its source lists it: nothing is decoded yet, and nothing is de-identified yet."""

    name: str  # unique in the source, the same on every machine; its keyed hash becomes the sample's key
    image: Path | Input
    patient: str | None = None  # None: nothing is known, so the image counts as a patient of its own
    study: str | None = None
    labels: tuple[float, ...] = ()  # in the order of the source's label_names; NaN = unknown
    boxes: tuple[Box, ...] = ()
    mask: Path | Painted | None = None
    split: str | None = None  # what the source itself says; the recipe's ``official`` says what becomes of it
    attributes: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None  # bytes of the file or files, by which a changed source is told
    missing: int = 0  # slices that the headers of a series lack: where it is taken, they are interpolated
    rejected: str | None = None  # why it goes to quarantine unread; what else is known of it does not count then


class Source(Protocol):
    """Named by ``_target_`` in a recipe; the recipe's remaining keys are its constructor's arguments.

    ``dataset.json`` keeps these arguments, but for places on this machine: those that the constructor annotates with
    ``Place`` (of ``dira_scale.config.schema``) or ``Path``, alone or among others (``Place | None``, ``str | Path``).
    Annotate yours so, or your folders' names leave with the dataset.
    The constructor raises UserError when a file, folder or column that the recipe names is not there.
    """

    label_names: Sequence[str]

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """All images, in any order, without decoding one. ``workers`` is how many processes it may use.

        Raises OSError when a file cannot be read just now, which says nothing about the file.
        """
        ...
