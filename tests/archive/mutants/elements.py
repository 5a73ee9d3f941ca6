"""DICOM files that have every element that is read, and these elements with another VR, tag or length."""

import random
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from archive.mutants.damage import Mutant, file
from archive.mutants.valid import dicom, picture, rtstruct, voxels
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}  # PS3.5 7.1.2
ITEM, ENDS, PIXELS = 0xFFFEE000, (0xFFFEE00D, 0xFFFEE0DD), 0x7FE00010
KNOWN = b"AT CS DA DS FD FL IS LO OB OW PN SQ SS TM UI UL UN US UT"
VRS = (b"C\x7f", b"\0\0", b"zz", b"cs", *KNOWN.split())
LENGTHS = (0, 1, 2, 3, 7, 2**15, 2**16 - 2, 2**16 - 1, 2**31 - 1, 2**32 - 2, 2**32 - 1)
TEXTS = {  # of whatever else is read
    "PatientSex": "F", "PatientAge": "044Y", "PatientBirthDate": "19800101", "ViewPosition": "PA", "Manufacturer": "X",
    "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5", "StudyID": "7",
    "StudyDate": "20200101", "StudyTime": "120000", "AccessionNumber": "8", "ReferringPhysicianName": "A^B",
    "SeriesDescription": "chest", "EchoNumbers": 1, "TemporalPositionIdentifier": 1, "DiffusionBValue": 0.0,
    "AcquisitionNumber": 1, "BurnedInAnnotation": "NO", "ImageType": ["ORIGINAL", "PRIMARY"], "PlanarConfiguration": 0,
    "ExtendedOffsetTable": bytes(8), "ExtendedOffsetTableLengths": bytes(8), "PixelSpacing": ["0.8", "0.7"],
    "ImagerPixelSpacing": ["0.8", "0.7"], "ImagePositionPatient": [0, 0, 0],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SliceThickness": "2", "SpacingBetweenSlices": "2",
    "SpecificCharacterSet": "ISO_IR 100", "PixelPaddingRangeLimit": 1, "PixelPaddingValue": 0,
}  # fmt: skip
SCALE = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
WINDOW = {"WindowCenter": "400", "WindowWidth": "3000", "VOILUTFunction": "LINEAR"}


def _item(**elements: object) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return [item]


def _table(bits: int) -> list[Dataset]:
    return _item(LUTDescriptor=[256, 0, bits], LUTData=np.arange(256, dtype=np.uint16).tobytes(), ModalityLUTType="US")


def _palette(segmented: bool) -> dict[str, object]:
    """Three tables of 256 values; ``segmented``: each in one segment (PS3.3 C.7.9.2)."""
    made: dict[str, object] = {}
    ramp = (np.arange(256, dtype=np.uint16) << 8).tobytes()
    for colour in ("Red", "Green", "Blue"):
        made[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        name = f"{colour}PaletteColorLookupTableData"
        made[f"Segmented{name}" if segmented else name] = struct.pack("<2H", 0, 256) * segmented + ramp
    return made


@cache
def radiographs(seed: int) -> dict[str, bytes]:
    """Images of one frame and of two, grey by each of the rules, and with palettes."""
    grey, small = picture(seed), (picture(seed) >> 4).astype(np.uint8)
    position = {name: TEXTS[name] for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")}
    groups = _groups(2)
    return {
        "window": dicom(grey, Modality="DX", **TEXTS, **SCALE, **WINDOW),
        "tables": dicom(small, ModalityLUTSequence=_table(8), VOILUTSequence=_table(8), **TEXTS),
        "palette": dicom(small, PhotometricInterpretation="PALETTE COLOR", **_palette(False), **position),
        "segmented": dicom(small, PhotometricInterpretation="PALETTE COLOR", **_palette(True), **position),
        "frames": dicom(np.stack([grey, picture(seed + 1)]), **groups),
    }


@cache
def scans(seed: int) -> dict[str, bytes]:
    """Volumes, each in one file: frames with positions, and with a distance or offsets."""
    shown = (voxels(seed).astype(np.int32) + 1024).astype(np.uint16)
    plain: dict[str, object] = {**TEXTS, **SCALE, "Modality": "CT"}
    offsets = {name: value for name, value in plain.items() if name not in ("SpacingBetweenSlices", "SliceThickness")}
    return {
        "enhanced": dicom(shown, Modality="CT", SeriesInstanceUID="1.2.4", **_groups(len(shown))),
        "distance": dicom(shown, **plain),
        "offsets": dicom(shown, GridFrameOffsetVector=[2.0 * k for k in range(len(shown))], **offsets),
    }


@cache
def structures(seed: int) -> dict[str, bytes]:
    """A label map and an RTSTRUCT that are drawn on the series ``1.2.4`` of the patient P, in ``scans``'s place."""
    pixels = (voxels(seed) > 0).astype(np.uint8)
    square = np.array([[2, 3], [9, 3], [9, 11], [2, 11]], float)
    tags = {"SegmentSequence": _item(SegmentNumber=1, SegmentLabel="lung"), "PatientID": "P", "Modality": "SEG",
            "ReferencedSeriesSequence": _item(SeriesInstanceUID="1.2.4"), **_groups(len(pixels))}  # fmt: skip
    return {
        "rtstruct": rtstruct({"Lung": [np.column_stack([square, np.full(4, 2.0 * k)]) for k in (3, 4)], "none": []}),
        "labels": dicom(pixels, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.7", SegmentationType="LABELMAP", **tags),
    }


def _groups(frames: int) -> dict[str, object]:
    """The functional groups of an enhanced image."""
    shared = _item(
        PixelMeasuresSequence=_item(PixelSpacing=["0.8", "0.7"], SliceThickness="2"),
        PlaneOrientationSequence=_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelValueTransformationSequence=_item(**SCALE, RescaleType="HU"),
        FrameVOILUTSequence=_item(**WINDOW),
    )
    each = [_item(PlanePositionSequence=_item(ImagePositionPatient=[0, 0, 2.0 * k]))[0] for k in range(frames)]
    return {"SharedFunctionalGroupsSequence": shared, "PerFrameFunctionalGroupsSequence": each}


class Element(NamedTuple):
    """An element as it lies in a file of explicit VRs, little endian: where its tag, its length and its value begin."""

    tag: int
    start: int
    length_at: int
    value: int
    length: int

    @property
    def keyword(self) -> str:
        return keyword_for_tag(self.tag)


def elements(content: bytes, start: int = 132, end: int | None = None) -> Iterator[Element]:
    """Every element, those in sequences too, and the items of these (PS3.5 7.1, 7.5)."""
    end = len(content) if end is None else end
    while start < end:
        group, number, length = struct.unpack_from("<HHI", content, start)
        tag, value = group << 16 | number, start + 8
        if tag == ITEM:
            yield Element(tag, start, start + 4, value, length)
            yield from elements(content, value, value + length)
        else:
            vr, at = content[start + 4 : start + 6], start + 6
            (length,) = struct.unpack_from("<H", content, at)
            if vr in LONG:
                at, value = start + 8, start + 12
                (length,) = struct.unpack_from("<I", content, at)
            yield Element(tag, start, at, value, length)
            if vr == b"SQ":
                yield from elements(content, value, value + length)
        start = value + length


def _changed(content: bytes, element: Element) -> Iterator[tuple[str, bytes]]:
    """The file with each other VR, tag and length of one element; its kind."""

    def put(at: int, new: bytes) -> bytes:
        return content[:at] + new + content[at + len(new) :]

    if element.tag != ITEM:
        yield from (("another VR", put(element.start + 4, vr)) for vr in VRS)
    group, number = element.tag >> 16, element.tag & 0xFFFF
    near = ((group, number ^ 1), (group, number ^ 0x8000), (group ^ 1, number), (group ^ 0x100, number))
    other = (divmod(tag, 2**16) for tag in (ITEM, *ENDS, PIXELS, 0x00020010, 0x00280010, 0x00080005))
    yield from (("another tag", put(element.start, struct.pack("<HH", *tag))) for tag in (*near, *other))
    form = "<H" if element.value - element.length_at == 2 else "<I"
    for length in {*LENGTHS, element.length - 1, element.length + 1, element.length + 2, 2 * element.length}:
        if 0 <= length < 2 ** (8 * struct.calcsize(form)) and length != element.length:
            yield "another length", put(element.length_at, struct.pack(form, length))


def mutants(valid: Mapping[str, bytes], seed: int) -> Iterator[Mutant]:
    """Each change of each element of each file, in random order; then, without end, two at once."""
    rng, every = random.Random(seed), [
        change for content in valid.values() for element in elements(content) for change in _changed(content, element)
    ]  # fmt: skip
    rng.shuffle(every)
    yield from (file(f"element: {kind}", "x.dcm", changed) for kind, changed in every)
    while True:
        content = rng.choice([*valid.values()])
        first, second = sorted(rng.sample([*elements(content)], 2))  # by their tags
        _, changed = rng.choice([*_changed(content, first)])
        both = [made for _, made in _changed(changed, second)]
        yield file("element: two changes", "x.dcm", rng.choice(both))


def with_unknown_vr(valid: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Each element of each file, and the file in which its VR is none."""
    for content in valid.values():
        for element in elements(content):
            if element.tag != ITEM:
                yield element.keyword, content[: element.start + 4] + b"C\x7f" + content[element.start + 6 :]
