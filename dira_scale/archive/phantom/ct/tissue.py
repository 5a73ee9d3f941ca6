"""Hounsfield units of tissues, unenhanced and with contrast medium.

Unenhanced values are typical of a 120 kVp scan (Kalender, Computed Tomography, 3rd ed., fig. 1.10).
"""

from dataclasses import dataclass

AIR = -1000.0
FAT = -100.0
MUSCLE = 50.0
DISC = 85.0
CORTEX = 1000.0  # of bone
LUNG = -845.0  # at full inspiration, excluding visible vessels
FLUID = 14.0  # in stomach and bowel
WALL = 38.0  # of bowel and bronchi


@dataclass(frozen=True)
class Contrast:
    """HU of the tissues that contrast medium changes."""

    blood: float = 42.0  # arteries
    veins: float = 40.0
    heart: float = 44.0  # muscle
    liver: float = 57.0
    spleen: float = 48.0
    kidney: float = 32.0


PLAIN = Contrast()
ARTERIAL = Contrast(290, 190, 95, 68, 105, 150)
VENOUS = Contrast(150, 160, 100, 105, 118, 185)
