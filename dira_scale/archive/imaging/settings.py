"""Settings for reading images and volumes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dira_scale.archive.imaging.colour import ANY, GREY, RGB, ColourMode
from dira_scale.base.arguments import UNSHOWN, ArgumentError, AtLeast, check_fields, converted
from dira_scale.base.errors import nearest

BurnedIn = Literal["refuse", "tagged", "keep"]
PLANES = ("axial",)
WINDOWS = {  # centre and width in HU
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "soft": (50, 400),
    "liver": (30, 150),
    "brain": (40, 80),
    "bone": (400, 1800),
}


@dataclass(frozen=True)
class VolumeSettings:
    """The settings for processing a volume's voxels. Raises ArgumentError for an invalid value.

    Attributes:
        spacing: millimetres in z, y and x to resample to; None: unchanged.
        clip: values are clipped to [low, high]; None: unchanged.
        range: the values that become 0 and 1; None: the volume's 0.5 and 99.5 percentiles.
        crop: ``body`` cuts away the air around the patient; ``{"mask": n}`` what is more than n voxels away from the
            block around the mask; ``{"boxes": [z, y, x]}`` what is outside a block of so many voxels in the middle of
            the boxes: voxels after resampling.
        irregular: for slices that do not form a rectangular grid: ``resample`` or ``refuse``.
    """

    spacing: tuple[float, float, float] | None
    clip: tuple[float, float] | None
    range: tuple[float, float] | None
    crop: str | Mapping[str, Any]
    irregular: Literal["resample", "refuse"]

    def __post_init__(self) -> None:
        if self.spacing is not None and not (_are(self.spacing, 3) and all(0.05 <= s <= 50 for s in self.spacing)):
            raise ArgumentError("spacing", self.spacing, "[z, y, x] in mm, 0.05 to 50, or null")
        for name, values in (("clip", self.clip), ("range", self.range)):
            if values is not None and not (_are(values, 2) and -32768 <= values[0] < values[1] <= 32767):
                raise ArgumentError(name, values, "[low, high] within 16 bits, or null")
        if isinstance(self.crop, Mapping):
            (kind, size), *others = [*self.crop.items()] or [("", None)]
            is_margin = type(size) is int and size >= 0
            is_block = _are(size, 3) and all(type(side) is int and side > 0 for side in size)
            if others or not {"mask": is_margin, "boxes": is_block}.get(kind):
                raise ArgumentError("crop", dict(self.crop), "{mask: 30}, voxels around the mask, or {boxes: "
                                    "[32, 64, 64]}, voxels in z, y and x around the middle of the boxes")  # fmt: skip
        else:
            converted(Literal["none", "body"], self.crop, "crop")
        check_fields(self)


def _are(values: object, count: int) -> bool:
    """Return whether ``values``, typed by a user, are so many numbers."""
    return isinstance(values, list | tuple) and len(values) == count and all(type(v) in (int, float) for v in values)


@dataclass(frozen=True)
class SliceSettings:
    """Slices as 2D images.

    Attributes:
        plane: ``axial``.
        every: store every n-th slice.
        window: centre and width in HU; None: the volume's ``range``.
    """

    plane: str
    every: int
    window: tuple[float, float] | None

    @classmethod
    def from_keys(cls, plane: Any, every: Any, window: Any) -> "SliceSettings | None":
        """None without a ``plane``. ``window`` may be a name of ``WINDOWS``.

        Raises ArgumentError of ``slices``, ``every`` or ``window`` for an invalid value.
        """
        if plane is None:
            if every != 1 or window is not None:
                raise ArgumentError("slices", plane, "axial, as every and window are of slices")
            return None
        if plane not in PLANES:
            expected = f"{', '.join(PLANES)} or null{nearest(str(plane), PLANES)}"
            raise ArgumentError("slices", plane, expected)
        converted(Annotated[int, AtLeast(1)], every, "every")
        if isinstance(window, str):
            window = WINDOWS.get(window, window)
        if window is not None and not (_are(window, 2) and all(abs(n) <= 32767 for n in window) and window[1] > 0):
            expected = f"{', '.join(WINDOWS)} or [centre,width] in HU, of a width above 0"
            raise ArgumentError("window", window, expected + nearest(str(window), WINDOWS))
        return cls(plane, every, None if window is None else (window[0], window[1]))

    def range_of(self, modality: str, stored: tuple[float, float] | None) -> tuple[float, float] | None:
        """The values that become black and white; None: the volume's 0.5 and 99.5 percentiles.

        Raises ArgumentError of ``window`` or ``volume.range`` for Hounsfield units of another ``modality`` than CT.
        """
        if modality == "CT":
            if self.window is None:
                return stored
            centre, width = self.window
            return centre - width / 2, centre + width / 2
        if self.window is not None:
            raise ArgumentError("window", UNSHOWN, "null, and volume.range null for the volume's own percentiles: "
                                f"windows are in HU, which only CT has, not {modality}")  # fmt: skip
        if stored and stored[0] < 0:
            raise ArgumentError("volume.range", stored, "null, for the volume's own percentiles: these are HU, which "
                                f"only CT has, not {modality}")  # fmt: skip
        return stored


@dataclass(frozen=True)
class ReadSettings:
    """The settings for reading a file as pixels or voxels. Raises ArgumentError for an invalid value.

    Attributes:
        dims: 2: images, 3: volumes.
        modality: DICOM's name, such as CT; CT values are HU.
        bits: 8 or 16 per pixel of an image; volumes always have 16.
        burned_in: checks for pixels that may show a name: ``refuse`` header and pixels, ``tagged`` the header only,
            ``keep`` none.
        volume: for volumes.
        colour: ``grey`` refuses images in colour, ``luminance`` makes them grey, ``rgb`` stores them and refuses grey,
            ``any`` repeats grey.
    """

    dims: Literal[2, 3]
    modality: str
    bits: Literal[8, 16]
    burned_in: BurnedIn
    volume: VolumeSettings
    colour: ColourMode = GREY

    def __post_init__(self) -> None:
        check_fields(self)
        if self.colour in (RGB, ANY) and self.dims != 2:
            raise ArgumentError("colour", self.colour, f"{GREY} where dims are 3: volumes are grey")
        if self.dims == 3 and self.volume.crop == "body" and self.modality != "CT":
            raise ArgumentError("volume.crop", "body", f"none for {self.modality}: the body is separated from air by "
                                "HU, which only CT has")  # fmt: skip
