"""DICOM by pydicom: headers, pixels in every common transfer syntax, modality values, windows, geometry."""

from dira_scale.archive.imaging.dicom.frames import Decoded, DicomFile, Plane, plane_of
from dira_scale.archive.imaging.dicom.header import (
    HEADER,
    ObjectError,
    header_of,
    is_dicom,
    read_elements,
    read_header,
    refuse_objects,
)
from dira_scale.archive.imaging.dicom.segmentation import read_segments

__all__ = [
    "HEADER",
    "Decoded",
    "DicomFile",
    "ObjectError",
    "Plane",
    "header_of",
    "is_dicom",
    "plane_of",
    "read_elements",
    "read_header",
    "read_segments",
    "refuse_objects",
]
