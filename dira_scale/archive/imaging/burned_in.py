"""Detect pixels that may show a name: from the DICOM header, and from the pixels themselves.

``ReadSettings.burned_in`` selects the checks: ``refuse`` header and pixels, ``tagged`` the header only, ``keep`` none.
Error rates of the pixel check, both ways: ``docs/evidence/proof.md``.

Pixels are searched for rows of thin, sharp strokes of one brightness, without a trained network. Text is a row of small
pieces on a line, equal in height and brightness, with many strokes. Anatomy has thin bright and dark structures too,
but rarely six in such a row. A side marker has one or two letters; words for views (``view_words``) are read and do not
count.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import attrgetter, itemgetter
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
from pydicom.dataset import Dataset

from dira_scale.archive.imaging.grey import GreyImage, luminance
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.view_words import is_view_word

STROKES = 6  # in a row of lettering; a side marker has fewer, a name or a date has more
LARGEST, SMALLEST = 1024, 100  # pixels: range of the longer side that is searched
NARROWEST = 16  # pixels of the shorter side
THICKEST = 9  # pixels: a stroke is thinner
CONTRAST = 40  # of 255, between a stroke and its surroundings
HEIGHTS = 5, 32  # pixels of a letter; doubled with each halving of the image
NEAR = 16  # brightness difference that counts as equal

SC, STORAGE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1."
TEXT_CLASSES = {  # screenshots, scanned films and ultrasound often show the patient's name (PS3.4 B.5, PS3.6 A)
    **dict.fromkeys([SC, *(f"{SC}.{kind}" for kind in range(1, 5))], "secondary capture"),
    **dict.fromkeys([STORAGE + kind for kind in ("3", "3.1", "6", "6.1", "6.2")], "ultrasound"),
}


class LetteringError(RejectedError):
    """The pixels seem to show a name, a date or other text."""

    stage = "lettering"


def check_header(header: Dataset) -> None:
    """Raises RejectedError if the file declares burned-in text, or is of a class that usually has it.

    ``header`` needs BurnedInAnnotation, SOPClassUID and ImageType. For such a class BurnedInAnnotation NO is ignored:
    many machines write NO regardless of what they draw.
    """
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise RejectedError("DICOM says that text is burned in", decided_by="header")
    if kind := TEXT_CLASSES.get(str(header.get("SOPClassUID"))):
        raise RejectedError(f"DICOM {kind}, which may show names", decided_by="header")
    if "SCREEN" in str(header.get("ImageType") or "").upper():  # as in DERIVED\\SECONDARY\\SCREEN SAVE
        raise RejectedError("DICOM screen shot, which may show names", decided_by="header")


def check_pixels(image: GreyImage) -> None:
    """Raises LetteringError if the image, as it would be stored, seems to contain a row of lettering."""
    pixels = luminance(image.pixels) if image.pixels.ndim == 3 else image.pixels
    if pixels.dtype != np.uint8:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / image.high)
    if count_strokes(pixels) >= STROKES:
        raise LetteringError("the pixels seem to contain lettering", decided_by="lettering")


class Piece(NamedTuple):
    """A letter, or several that touch."""

    x: int
    y: int
    w: int
    h: int
    value: int  # of the ink
    even: float  # share of the piece that has this brightness
    strokes: float  # crossed by a horizontal line; median over its rows
    ink: np.ndarray  # bool [h, w]


def count_strokes(pixels: np.ndarray) -> int:
    """The number of strokes in the longest row of lettering in uint8 [H, W], without words for views; 0 if none."""
    while max(pixels.shape) > LARGEST and min(pixels.shape) >= 2 * NARROWEST:
        pixels = _halved(pixels)
    written = list(_written(pixels))
    if _longest(written) >= STROKES and (words := list(_view_words(written))):
        covered = np.zeros(pixels.shape, np.uint8)
        for left, top, right, foot in words:
            covered[max(0, top - 2) : foot + 2, max(0, left - 2) : right + 2] = 1
        written = list(_written(cv2.inpaint(pixels, covered, 3, cv2.INPAINT_TELEA)))
    return int(_longest(written))


def _longest(written: Iterable[tuple[int, list[Piece]]]) -> float:
    return max((sum(piece.strokes for piece in row) for _, row in written), default=0.0)


def _written(pixels: np.ndarray) -> Iterator[tuple[int, list[Piece]]]:
    """Rows of bright and of dark writing at each size of the image, with the factor by which it was made smaller."""
    factor = 1
    while max(pixels.shape) >= SMALLEST and min(pixels.shape) >= NARROWEST:
        for bright in (True, False):
            pieces = sorted(_pieces(pixels, bright), key=attrgetter("y"))
            tops = [piece.y for piece in pieces]
            for top in range(0, max(tops, default=-1) + 1, HEIGHTS[1]):
                # those of one row start within two letter heights of each other
                band = pieces[bisect_left(tops, top) : bisect_left(tops, top + 2 * HEIGHTS[1])]
                rows = _rows(sorted(band, key=itemgetter(0, 1, 2)))
                yield from ((factor, row) for row in rows if _is_written(row))
        pixels, factor = _halved(pixels), 2 * factor


def _view_words(written: Iterable[tuple[int, list[Piece]]]) -> Iterator[tuple[int, int, int, int]]:
    """Return where words for views are: left, top, right and bottom in the whole image."""
    for factor, row in written:
        height = median(piece.h for piece in row)
        for space in (0.3 * height, 0.5 * height):  # between words: fonts differ
            words = [row[:1]]
            for last, piece in pairwise(row):
                if piece.x - (last.x + last.w) > space:
                    words.append([])
                words[-1].append(piece)
            for word in words:
                if is_view_word([piece.ink for piece in word]):
                    corner = min(piece.x for piece in word), min(piece.y for piece in word)
                    end = max(piece.x + piece.w for piece in word), max(piece.y + piece.h for piece in word)
                    left, top, right, foot = (factor * side for side in (*corner, *end))
                    yield left, top, right, foot


def _halved(pixels: np.ndarray) -> np.ndarray:
    return cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _pieces(pixels: np.ndarray, bright: bool) -> list[Piece]:
    """Connected pieces that are thin, brighter or darker than their surroundings, and as high as a letter."""
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (THICKEST, THICKEST))
    shape = cv2.MORPH_TOPHAT if bright else cv2.MORPH_BLACKHAT
    relief = cv2.morphologyEx(pixels, shape, kernel, borderType=cv2.BORDER_REPLICATE)
    labels, boxes = cv2.connectedComponentsWithStats((relief >= CONTRAST).astype(np.uint8), connectivity=8)[1:3]
    w, h, area = boxes[:, 2:].T
    letters = (h >= HEIGHTS[0]) & (h <= HEIGHTS[1]) & (w <= 20 * h) & (area >= 0.12 * w * h) & (area >= 6)
    letters &= (area <= 0.9 * w * h) | (w <= h / 2)  # only a letter I fills its box
    letters[0] = False  # the background
    pieces = []
    for number in np.flatnonzero(letters):
        left, top, width, height = (int(side) for side in boxes[number][:4])
        window = np.s_[top : top + height, left : left + width]
        inked = labels[window] == number
        values = np.sort(pixels[window][inked]).astype(int)
        value = int(values[int((0.9 if bright else 0.1) * len(values))])
        even = float(np.mean(abs(values - value) <= NEAR))
        strokes = float(np.median((np.diff(inked.astype(np.int8), axis=1, prepend=0) == 1).sum(1)))
        pieces.append(Piece(left, top, width, height, value, even, strokes, inked))
    return pieces


def _rows(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Runs of pieces, given from left to right, of similar height and brightness on one line."""
    left = list(pieces)
    while left:
        row, rest = [left[0]], []
        height, value, end = float(row[0].h), float(row[0].value), row[0].x + row[0].w
        for number, piece in enumerate(left[1:], 1):
            if piece.x - end > 1.5 * height:
                rest += left[number:]
                break
            last = row[-1]
            shared = min(piece.y + piece.h, last.y + last.h) - max(piece.y, last.y)
            follows = piece.x - end >= -0.3 * height and shared >= 0.6 * min(piece.h, last.h)
            if follows and 0.6 <= piece.h / height <= 1.6 and abs(piece.value - value) <= 20:
                row.append(piece)
                height, value = median(p.h for p in row), median(p.value for p in row)
                end = max(end, piece.x + piece.w)
            else:
                rest.append(piece)
        yield row
        left = rest


def _is_written(row: list[Piece]) -> bool:
    """Return whether a row is as regular as writing: pieces aligned at the bottom or top, of one brightness."""
    if len(row) < 3:  # nearly all rows of most images
        return False
    height = np.median([piece.h for piece in row])
    tops, feet = np.array([piece.y for piece in row]), np.array([piece.y + piece.h for piece in row])
    uneven = min(np.median(np.abs(edge - np.median(edge))) for edge in (tops, feet))
    return bool(
        uneven <= 0.15 * height
        and max(feet) - min(tops) <= 1.7 * height
        and np.mean([piece.even for piece in row]) >= 0.3
    )
