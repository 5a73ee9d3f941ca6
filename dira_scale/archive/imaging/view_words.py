"""Read the words that radiographers put on films: PORTABLE and ERECT say how an image was taken, not of whom.

A word is read letter by letter, by the correlation of each letter's shape with the same letter in two plain fonts
(OpenCV's and Pillow's). Each must be more alike than any other letter is: CREST is not CHEST, nor RIGHI, a name, RIGHT.
What is not read remains lettering.
"""

from collections.abc import Sequence
from functools import cache
from string import ascii_uppercase

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORDS = (  # of three letters at least: shorter ones, as AP and PA, have too few strokes to count as lettering
    "BEDSIDE", "CHEST", "DECUB", "DECUBITUS", "ERECT", "EXP", "EXPIRATION", "INSP", "INSPIRATION", "LAT", "LATERAL",
    "LEFT", "MOBILE", "OBLIQUE", "PORTABLE", "PRONE", "RIGHT", "SEMI", "SITTING", "STANDING", "SUPINE", "UPRIGHT",
)  # fmt: skip
SHAPE = (16, 12)  # pixels to which letters are scaled
ALIKE = 0.6  # least correlation of each letter
LENGTHS = {len(word) for word in WORDS}


def is_view_word(letters: Sequence[np.ndarray]) -> bool:
    """Return whether letters, each a tight bool [H, W], left to right, spell one of ``WORDS`` in capitals."""
    if len(letters) not in LENGTHS:
        return False
    word = ""
    for ink in letters:
        alike = (_fonts() @ _normalised(ink)).max(1)
        word += ascii_uppercase[alike.argmax()] if alike.max() >= ALIKE else "?"
    return word in WORDS


@cache
def _fonts() -> np.ndarray:
    """[26, 3, 192]: the normalised letters, thin and bold in OpenCV's font, and in Pillow's."""
    letters = []
    for letter in ascii_uppercase:
        pictures = [cv2.putText(np.zeros((90, 120), np.uint8), letter, (20, 70), 0, 2, 255, thick) for thick in (3, 7)]
        picture = Image.new("L", (120, 120))
        ImageDraw.Draw(picture).text((20, 10), letter, fill=255, font=ImageFont.load_default(60))
        inks = [drawn > 127 for drawn in (*pictures, np.asarray(picture))]
        boxes = (cv2.boundingRect(ink.astype(np.uint8)) for ink in inks)
        tight = (ink[y : y + h, x : x + w] for ink, (x, y, w, h) in zip(inks, boxes, strict=True))
        letters.append([_normalised(ink) for ink in tight])
    return np.array(letters)


def _normalised(ink: np.ndarray) -> np.ndarray:
    """[192]: the letter scaled to ``SHAPE``, of mean 0 and length 1; an I stays narrow."""
    height, width = ink.shape
    margin = max(0, round((height / 2 - width) / 2))
    wide = np.pad(ink, ((0, 0), (margin, margin))).astype(np.float32)
    shape = cv2.resize(
        wide, SHAPE[::-1], interpolation=cv2.INTER_AREA if height > SHAPE[0] else cv2.INTER_LINEAR
    ).ravel()
    shape -= shape.mean()
    return shape / (np.linalg.norm(shape) + 1e-6)
