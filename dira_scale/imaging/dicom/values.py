"""From stored values to modality values, and to what is shown (PS3.3 C.11.1, C.11.2, C.7.5.1.1.2)."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dira_scale.imaging.grey import Window, own_range


def find_padding(header: Dataset, stored: np.ndarray) -> np.ndarray:
    """Where the file says that nothing was recorded (PS3.3 C.7.5.1.1.2), in stored values, before any rescaling."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None else limit)]
    if header.PixelRepresentation == 1:  # some write the bits of a negative value as a number without a sign
        ends = [end - (1 << header.BitsAllocated if end >= 1 << (header.BitsAllocated - 1) else 0) for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def modality_values(header: Dataset, stored: np.ndarray) -> tuple[np.ndarray, float]:
    """Modality values (PS3.3 C.11.1) and their step; without a whole rule the stored values.

    Integers as long as the rule is one of whole numbers, else float64.
    """
    if header.get("ModalityLUTSequence"):
        return _looked_up(header, "ModalityLUTSequence", stored)[0], 1
    slope, intercept = first(header.get("RescaleSlope")), first(header.get("RescaleIntercept"))
    if slope is None or intercept is None:
        return stored, 1
    if slope.is_integer() and intercept.is_integer() and max(abs(slope), abs(intercept) / 2**14) <= 2**14:
        return _scaled(stored, int(slope), int(intercept)), abs(slope) or 1
    return stored * slope + intercept, abs(slope) or 1


def _scaled(stored: np.ndarray, slope: int, intercept: int) -> np.ndarray:
    """slope * stored + intercept in the smallest type that holds it: of CT int16, in half the time of int32."""
    ends = [int(end) * slope + intercept for end in (stored.min(), stored.max())]
    fits = min(ends) >= -(2**15) and max(ends) < 2**15
    # what overflows on the way comes back with the sum: both wrap at 2**16
    values: np.ndarray = np.multiply(stored, slope, dtype=np.int16 if fits else np.int32, casting="unsafe")
    values += np.int64(intercept).astype(values.dtype)
    return values


def shown(
    header: Dataset, values: np.ndarray, step: float, inside: np.ndarray
) -> Iterator[tuple[np.ndarray, Window]]:  # fmt: skip
    """Values, and which of them are black and white: by the file's first window, then by the image's own range."""
    center, width = first(header.get("WindowCenter")), first(header.get("WindowWidth"))
    if center is not None and width is not None:
        function = str(header.get("VOILUTFunction") or "LINEAR").strip()
        if function == "LINEAR" and width > 1:
            yield values, Window(center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2, step)
        elif function == "LINEAR_EXACT" and width > 0:
            yield values, Window(center - width / 2, center + width / 2, step)
        elif function == "SIGMOID" and width > 0:  # 1 / (1 + exp(-x)), in a form that cannot overflow
            # The curve's slope in the middle is 1 / width, so a step of the source is a stored step there.
            yield 0.5 + 0.5 * np.tanh(2 * (values - center) / width), Window(0, 1, step / width)
    elif header.get("VOILUTSequence"):
        mapped, table = _looked_up(header, "VOILUTSequence", np.rint(values).astype(np.int64))
        yield mapped, own_range(table)  # tables of 12 bits that claim to be of 16 are common: their own range counts
    if inside.any():
        yield values, own_range(values[inside], step)


def spacing(header: Dataset) -> tuple[float, float] | None:
    """Millimetres between pixels in y and x; None where the file has no two lengths there."""
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            y, x = (float(value) for value in header.get(name))
        except (TypeError, ValueError):
            continue
        if 0 < y < math.inf and 0 < x < math.inf:
            return y, x
    return None


def first(value: Any) -> float | None:
    """The first of one or several numbers; None where there is none."""
    if isinstance(value, MultiValue | list):
        value = value[0] if value else None
    return None if value in (None, "") or not math.isfinite(float(value)) else float(value)


def _looked_up(header: Dataset, sequence: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``values`` through the first table of ``sequence`` (PS3.3 C.11.1.1.1), beyond its ends to them; and the table."""
    item = header[sequence][0]
    count, start, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16
    if start >= 2**15 and values.min() < 0:  # the bits of a negative number, read without its sign
        start -= 2**16
    data, order = item.LUTData, "<" if header.original_encoding[1] else ">"
    raw = data if isinstance(data, bytes) else np.asarray(data, f"{order}u2").tobytes()
    packed = bits <= 8 and len(raw) < 2 * count  # tables of 8 bits come with two entries to a word, or with one
    table = np.frombuffer(raw, np.uint8 if packed else f"{order}u2")[:count].astype(np.int32)
    if len(table) < count:
        raise ValueError("the table is shorter than it says")
    return table[np.clip(values.astype(np.int64) - start, 0, count - 1)], table
