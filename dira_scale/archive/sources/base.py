"""The interface of a source of images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.settings import ReadSettings
from dira_scale.archive.imaging.volume import Volume


@runtime_checkable
class SourceImage(Protocol):
    """An image that is not exactly one file: a series of slices, a frame, one image of an ``.npz``.

    Picklable; opens nothing before ``read``, which runs in a worker.
    """

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read."""
        ...

    def read(self, settings: ReadSettings) -> GreyImage | Volume:
        """Raises RejectedError; OSError and MemoryError are not the file's fault."""
        ...


@runtime_checkable
class PaintedMask(Protocol):
    """A mask given as run lengths, contours or the like. Picklable."""

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """uint8 in the shape of ``image`` as read. Raises RejectedError."""
        ...


@dataclass(frozen=True)
class SourceRecord:
    """One image as its source lists it: not decoded, not de-identified."""

    name: str  # unique in the source, the same on every machine; its keyed hash becomes the sample's key
    image: Path | SourceImage
    patient: str | None = None  # None: unknown, so the image counts as its own patient
    study: str | None = None
    labels: tuple[float, ...] = ()  # in the order of the source's label_names; NaN = unknown
    boxes: tuple[Box, ...] = ()
    mask: Path | PaintedMask | None = None
    split: str | None = None  # the source's own split; the recipe's ``official`` maps it
    attributes: Mapping[str, str] = field(default_factory=dict)
    modality: str | None = None  # as the DICOM header names it
    size: int | None = None  # bytes of the file or files; detects a changed source
    missing: int = 0  # slices that a series lacks by its headers; interpolated if it is accepted
    rejected: str | None = None  # reason to quarantine it unread; the other fields are then ignored
    aside: str | None = None  # what it is, if nobody asked for it: counted, and no input at all


class Source(Protocol):
    """Named by ``_target_`` in a recipe; the recipe's remaining keys are its constructor's arguments.

    ``dataset.json`` keeps these arguments except places on this machine: those that the constructor annotates with
    ``PathStr`` (of ``dira_scale.base.config.schema``) or ``Path``, also within unions (``PathStr | None``, ``str |
    Path``). Annotate yours this way, or your folder names are published with the dataset.
    The constructor raises UserError if a file, folder or column that the recipe names is missing.
    """

    label_names: Sequence[str]

    # ``classes`` (column -> names) of an instance says which labels are the number of a class, from 0.
    # ``channels`` of an instance names those of its volumes, which then have ``ranges``
    # (``archive.imaging.volumes.channels``). ``takes_lists = True`` on a class says that its argument ``lists`` is a
    # folder of published lists, one per split (``split_lists.py``), and that a record's ``split`` is then final:
    # neither divided, nor refused for its patient.

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """All images, in any order, without decoding any. It may use ``workers`` processes.

        Raises OSError if a file cannot be read at the moment, which is not the file's fault.
        """
        ...
