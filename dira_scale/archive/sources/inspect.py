"""Inspects each file of a folder before any image is decoded; several tasks can divide an archive's files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dira_scale.archive.imaging.dicom.header import ObjectError, header_of
from dira_scale.archive.imaging.dicom.structures import Structures, structures_in
from dira_scale.archive.imaging.files import opened_for_header, size_of
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volumes.series_index import Head, head_of
from dira_scale.base.storage.walk import Met

HEADERS, VALUES = (".mhd", ".nhdr", ".hdr"), (".raw", ".zraw", ".img", ".bin", ".raw.gz")


class Inspected(NamedTuple):
    """What is known of one file."""

    path: Path  # without links
    link: Path | None = None  # by which it was met, if that is another
    size: int | None = None  # bytes
    header: Mapping[str, str] = MappingProxyType({})  # of a DICOM image
    head: Head | None = None  # of a slice of a DICOM volume
    rejected: str | None = None
    absent: bool = False
    aside: str | None = None  # a DICOM object that is no image
    structures: Structures | None = None  # of such an object, if they are wanted


Inspector = Callable[[Met], Inspected]


def inspect_image(met: Met) -> Inspected:
    """Raises OSError, which is not the file's fault."""
    found = _unknown(met)
    try:
        size = size_of(met.file) if met.size is None else met.size
        return found._replace(size=size, header=header_of(met.file))
    except ObjectError as error:
        return found._replace(aside=str(error))
    except RejectedError as error:
        return found._replace(rejected=str(error), absent=isinstance(error.__cause__, FileNotFoundError))


def inspect_volume(met: Met, structures: bool) -> Inspected:
    """As :func:`inspect_image`, with what SEG and RTSTRUCT say if their ``structures`` are wanted."""
    found, path = _unknown(met), met.file
    try:
        size = size_of(path) if met.size is None else met.size
        if path.suffix in HEADERS:  # a changed data file is a changed volume
            size += sum(size_of(file) for file in map(path.with_suffix, VALUES) if file.exists())
        try:
            return found._replace(size=size, head=head_of(path))
        except ObjectError as error:
            found = found._replace(rejected=str(error), aside=str(error))
            if not structures:
                return found
            with opened_for_header(path) as file:
                return found._replace(structures=structures_in(file))
    except RejectedError as error:
        return _unknown(met)._replace(rejected=str(error))


def _unknown(met: Met) -> Inspected:
    return Inspected(met.file, None if met.path == met.file else met.path)
