"""From stored values to modality values and display windows (PS3.3 C.11.1, C.11.2, C.7.5.1.1.2)."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dira_scale.archive.imaging.grey import GreyWindow, own_range
from dira_scale.dataset.pixels.limits import MAX_SPACING, MIN_SPACING


def find_padding(header: Dataset, stored: np.ndarray) -> np.ndarray:
    """Pixels that the file marks as padding (PS3.3 C.7.5.1.1.2), from stored values, before rescaling."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None else limit)]
    if header.PixelRepresentation == 1:  # some files write a negative value's bits as an unsigned number
        ends = [end - (1 << header.BitsAllocated if end >= 1 << (header.BitsAllocated - 1) else 0) for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def modality_values(header: Dataset, stored: np.ndarray) -> tuple[np.ndarray, float]:
    """Modality values (PS3.3 C.11.1) and their step; the stored values if the rule is incomplete.

    Integers if slope and intercept are, else float64.
    """
    if header.get("ModalityLUTSequence"):
        return _through_table(header, "ModalityLUTSequence", stored)[0], 1
    slope, intercept = first_number(header.get("RescaleSlope")), first_number(header.get("RescaleIntercept"))
    if slope is None or intercept is None:
        return stored, 1
    if not (slope.is_integer() and intercept.is_integer() and max(abs(slope), abs(intercept) / 2**14) <= 2**14):
        return stored * slope + intercept, abs(slope) or 1
    ends = [int(end) * int(slope) + int(intercept) for end in (stored.min(), stored.max())]
    fits = min(ends) >= -(2**15) and max(ends) < 2**15  # int16, for CT, takes half the time of int32
    # an overflow of the product cancels in the sum: both wrap at 2**16
    values: np.ndarray = np.multiply(stored, int(slope), dtype=np.int16 if fits else np.int32, casting="unsafe")
    values += np.int64(intercept).astype(values.dtype)
    return values, abs(slope) or 1


def windowed(
    header: Dataset, values: np.ndarray, step: float, inside: np.ndarray
) -> Iterator[tuple[np.ndarray, GreyWindow]]:  # fmt: skip
    """Values and their black and white points: by the file's first window, then by the image's own range."""
    center, width = first_number(header.get("WindowCenter")), first_number(header.get("WindowWidth"))
    if center is not None and width is not None:
        function = str(header.get("VOILUTFunction") or "LINEAR").strip()
        if function == "LINEAR" and width > 1:
            yield values, GreyWindow(center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2, step)
        elif function == "LINEAR_EXACT" and width > 0:
            yield values, GreyWindow(center - width / 2, center + width / 2, step)
        elif function == "SIGMOID" and width > 0:  # 1 / (1 + exp(-x)) without overflow
            # The curve's slope at the centre is 1 / width, so a source step is one stored step there.
            yield 0.5 + 0.5 * np.tanh(2 * (values - center) / width), GreyWindow(0, 1, step / width)
    elif header.get("VOILUTSequence"):
        mapped, table = _through_table(header, "VOILUTSequence", np.rint(values).astype(np.int64))
        yield mapped, own_range(table)  # 12-bit tables that claim 16 bits are common, so use their own range
    if inside.any():
        yield values, own_range(values[inside], step)


def spacing(header: Dataset) -> tuple[float, float] | None:
    """Millimetres between pixels in y and x; None if the file gives no two lengths that a scanner may have."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            y, x = (float(value) for value in header.get(name))
        except (TypeError, ValueError):
            continue
        if min(y, x) >= MIN_SPACING and max(y, x) <= MAX_SPACING:
            return y, x
    return None


def first_number(value: Any) -> float | None:
    """The first of one or several numbers; None if there is none."""
    if isinstance(value, MultiValue | list):
        value = value[0] if value else None
    return None if value in (None, "") or not math.isfinite(float(value)) else float(value)


def _through_table(header: Dataset, sequence: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``values`` mapped through the first table of ``sequence`` (PS3.3 C.11.1.1.1), clamped at its ends; the table."""
    item = header[sequence][0]
    count, start, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16
    if start >= 2**15 and values.min() < 0:  # a negative number's bits, read as unsigned
        start -= 2**16
    data, order = item.LUTData, "<" if header.original_encoding[1] else ">"
    raw = data if isinstance(data, bytes) else np.asarray(data, f"{order}u2").tobytes()
    packed = bits <= 8 and len(raw) < 2 * count  # 8-bit tables have one or two entries per word
    table = np.frombuffer(raw, np.uint8 if packed else f"{order}u2")[:count].astype(np.int32)
    if len(table) < count:
        raise ValueError("the table is shorter than it says")
    return table[np.clip(values.astype(np.int64) - start, 0, count - 1)], table
