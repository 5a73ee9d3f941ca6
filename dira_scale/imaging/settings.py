"""Settings for reading images and volumes. The keys are explained in ``configs/shard.yaml``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dira_scale.errors import UserError, nearest
from dira_scale.imaging.colour import COLOURS, GREY, RGB

BURNED_IN = ("refuse", "tagged", "keep")
CROPS = ("none", "body")
IRREGULAR = ("resample", "refuse")
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
    """``recipe.volume``: how a volume's voxels are processed. Raises UserError for an invalid value.

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
    irregular: str

    def __post_init__(self) -> None:
        if self.spacing is not None and not (_are(self.spacing, 3) and all(0.05 <= s <= 50 for s in self.spacing)):
            raise UserError(f"recipe.volume.spacing={_shown(self.spacing)}: give [z, y, x] in mm, 0.05 to 50, or null")
        for name, values in (("clip", self.clip), ("range", self.range)):
            if values is not None and not (_are(values, 2) and -32768 <= values[0] < values[1] <= 32767):
                raise UserError(f"recipe.volume.{name}={_shown(values)}: give [low, high] within 16 bits, or null")
        _check_around(self.crop)
        crop = "none" if isinstance(self.crop, Mapping) else self.crop
        for name, value, known in (("crop", crop, CROPS), ("irregular", self.irregular, IRREGULAR)):
            if value not in known:
                hint = nearest(str(value), known) or ":"
                raise UserError(f"recipe.volume.{name}={value}{hint} use {' or '.join(known)}")


def _check_around(crop: Any) -> None:
    """Raise UserError for a mapping that says no crop."""
    if not isinstance(crop, Mapping):
        return
    (kind, size), *others = [*crop.items()] or [("", None)]
    margin, block = type(size) is int and size >= 0, _are(size, 3) and all(type(n) is int and n > 0 for n in size)
    if others or not {"mask": margin, "boxes": block}.get(kind):
        raise UserError(f"recipe.volume.crop={dict(crop)}: give {{mask: 30}}, voxels around the mask, or "
                        "{boxes: [32, 64, 64]}, voxels in z, y and x around the middle of the boxes")  # fmt: skip


def _are(values: object, count: int) -> bool:
    """Return whether ``values``, typed by a user, are so many numbers."""
    return isinstance(values, list | tuple) and len(values) == count and all(type(v) in (int, float) for v in values)


def _shown(values: object) -> object:
    return list(values) if isinstance(values, tuple) else values


@dataclass(frozen=True)
class SliceSettings:
    """``recipe.slices``, ``every`` and ``window``: slices as 2D images. Raises UserError for an invalid value.

    Attributes:
        plane: ``axial``.
        every: store every n-th slice.
        window: centre and width in HU; None: ``recipe.volume.range``.
    """

    plane: str
    every: int
    window: tuple[float, float] | None

    @classmethod
    def from_keys(cls, plane: Any, every: Any, window: Any) -> "SliceSettings | None":
        """None without ``recipe.slices``. ``window`` may be a name of ``WINDOWS``."""
        if plane is None:
            if every != 1 or window is not None:
                raise UserError("recipe.every and recipe.window apply to slices: add recipe.slices=axial")
            return None
        if plane not in PLANES:
            raise UserError(
                f"recipe.slices={plane}{nearest(str(plane), PLANES) or ':'} use {', '.join(PLANES)} or null"
            )
        if type(every) is not int or every < 1:
            raise UserError(f"recipe.every={every}: must be an integer of at least 1")
        return cls(plane, every, None if window is None else _window(window))

    def range_of(self, modality: str, stored: tuple[float, float] | None) -> tuple[float, float] | None:
        """The values that become black and white; None: the volume's 0.5 and 99.5 percentiles."""
        if modality == "CT":
            if self.window is None:
                return stored
            centre, width = self.window
            return centre - width / 2, centre + width / 2
        if self.window is not None:
            raise UserError(f"recipe.window with recipe.modality={modality}: windows are in HU, which only CT has; use "
                            "null and recipe.volume.range=null for the volume's own percentiles")  # fmt: skip
        if stored and stored[0] < 0:
            raise UserError(f"recipe.volume.range={list(stored)} with recipe.modality={modality}: these are HU, which "
                            "only CT has; use recipe.volume.range=null for the volume's own percentiles")  # fmt: skip
        return stored


def _window(window: Any) -> tuple[float, float]:
    if isinstance(window, str) and window in WINDOWS:
        return WINDOWS[window]
    numbers = isinstance(window, Sequence) and not isinstance(window, str) and len(window) == 2
    if not numbers or not all(type(value) in (int, float) and abs(value) <= 32767 for value in window):
        raise UserError(f"recipe.window={window}{nearest(str(window), WINDOWS) or ':'} use {', '.join(WINDOWS)} or "
                        "[centre,width] in HU")  # fmt: skip
    if window[1] <= 0:
        raise UserError(f"recipe.window={list(window)}: the width, {window[1]}, must be above 0")
    return window[0], window[1]


@dataclass(frozen=True)
class ReadSettings:
    """How a file becomes pixels or voxels. Raises UserError for an invalid value.

    Attributes:
        dims: 2: images, 3: volumes.
        modality: DICOM's name, such as CT; CT values are HU.
        bits: 8 or 16 per pixel of an image; volumes always have 16.
        burned_in: checks for pixels that may show a name: ``refuse`` header and pixels, ``tagged`` the header only,
            ``keep`` none.
        volume: for volumes.
        colour: ``grey`` refuses images in colour, ``luminance`` makes them grey, ``rgb`` stores them and refuses grey.
    """

    dims: int
    modality: str
    bits: int
    burned_in: str
    volume: VolumeSettings
    colour: str = GREY

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            hint = nearest(str(self.colour), COLOURS) or ":"
            raise UserError(f"recipe.colour={self.colour}{hint} use {', '.join(COLOURS)}")
        if self.colour == RGB and self.dims != 2:
            raise UserError("recipe.colour=rgb with recipe.dims=3: volumes are grey, leave it out")
        if self.dims not in (2, 3):
            raise UserError(f"recipe.dims={self.dims}: use 2 or 3")
        if self.bits not in (8, 16):
            raise UserError(f"recipe.bits={self.bits}: use 8 or 16")
        if self.burned_in not in BURNED_IN:
            raise UserError(f"recipe.burned_in={self.burned_in}: use {', '.join(BURNED_IN)}")
        if self.dims == 3 and self.volume.crop == "body" and self.modality != "CT":
            raise UserError(
                f"recipe.volume.crop=body with recipe.modality={self.modality}: the body is separated from air by "
                "HU, which only CT has; use none"
            )
