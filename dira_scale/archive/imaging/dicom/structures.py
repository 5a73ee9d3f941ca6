"""Structures that were drawn on a series: what a SEG or RTSTRUCT names and refers to, and the contours of an RTSTRUCT
(PS3.3 C.8.20.2, C.8.8.5, C.8.8.6)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from dira_scale.archive.imaging.dicom.header import STORAGE, read_elements
from dira_scale.archive.imaging.rejection import RejectedError

CONTOURS = f"{STORAGE}481.3"  # SOP class
SEGMENTS = ("SegmentSequence", "SegmentNumber", "SegmentLabel"), ("ReferencedSeriesSequence",)
ROIS = (
    ("StructureSetROISequence", "ROINumber", "ROIName"),
    ("ReferencedFrameOfReferenceSequence", "RTReferencedStudySequence", "RTReferencedSeriesSequence"),
)
CLASSES = {f"{STORAGE}66.4": SEGMENTS, f"{STORAGE}66.7": SEGMENTS, CONTOURS: ROIS}
DESCRIBED = ("SOPClassUID", "PatientID", *(sequences[0] for of_class in (SEGMENTS, ROIS) for sequences in of_class))
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # others enclose nothing
FARTHEST = 1e5  # mm


class Structures(NamedTuple):
    """An object's own words: the PatientID, the SeriesInstanceUIDs that it refers to, and its structures' names by
    their numbers."""

    kind: str  # SOP class
    patient: str
    series: frozenset[str]
    names: Mapping[int, str]


def structures_in(file: BinaryIO) -> Structures | None:
    """None if it is neither a SEG nor an RTSTRUCT. Raises what pydicom does."""
    header, _ = read_elements(file, DESCRIBED)
    kind = str(header.get("SOPClassUID") or "")
    if kind not in CLASSES:
        return None
    (listed, number, name), referred = CLASSES[kind]
    return Structures(
        kind,
        str(header.get("PatientID") or "").strip(),
        frozenset(str(item.get("SeriesInstanceUID") or "").strip() for item in _items(header, referred)) - {""},
        {int(item[number].value): str(item.get(name) or "").strip() for item in _items(header, (listed,))},
    )


def _items(dataset: Dataset, sequences: Sequence[str]) -> Iterator[Dataset]:
    """The items of a sequence in the items of others."""
    for item in dataset.get(sequences[0]) or []:
        yield from _items(item, sequences[1:]) if sequences[1:] else (item,)


def read_contours(file: BinaryIO) -> Mapping[int, Sequence[np.ndarray]]:
    """The closed contours of each ROI by its number: float64 [n, 3] in DICOM's millimetres.

    Raises RejectedError, or what pydicom and numpy do with what is no number.
    """
    header, _ = read_elements(file, ["ROIContourSequence"])
    contours = defaultdict[int, list[np.ndarray]](list)
    for roi in header.get("ROIContourSequence") or []:
        for contour in roi.get("ContourSequence") or []:
            if contour.ContourGeometricType not in CLOSED:
                continue
            text = contour.get_item("ContourData").value  # undecoded: pydicom makes an object of each number
            points = np.array(text.split(b"\\"), float).reshape(-1, 3)
            if int(contour.get("NumberOfContourPoints") or len(points)) != len(points):
                raise RejectedError("RTSTRUCT contours of other numbers of points than they say")
            if not (np.abs(points) < FARTHEST).all():
                raise RejectedError("RTSTRUCT contours at impossible positions")
            contours[int(roi.ReferencedROINumber)].append(points)
    return contours
