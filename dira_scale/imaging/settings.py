"""Settings for reading images and volumes. The keys are explained in ``configs/shard.yaml``."""

from dataclasses import dataclass

from dira_scale.errors import UserError, nearest

BURNED_IN = ("refuse", "tagged", "keep")
CROPS = ("none", "body")
IRREGULAR = ("resample", "refuse")


@dataclass(frozen=True)
class VolumeSettings:
    """``recipe.volume``: how a volume's voxels are processed. Raises UserError for an invalid value.

    Attributes:
        spacing: millimetres in z, y and x to resample to; None: unchanged.
        clip: values are clipped to [low, high]; None: unchanged.
        range: the values that become 0 and 1; None: the volume's 0.5 and 99.5 percentiles.
        crop: ``body`` cuts away the air around the patient.
        irregular: for slices that do not form a rectangular grid: ``resample`` or ``refuse``.
    """

    spacing: tuple[float, float, float] | None
    clip: tuple[float, float] | None
    range: tuple[float, float] | None
    crop: str
    irregular: str

    def __post_init__(self) -> None:
        if self.spacing is not None and (len(self.spacing) != 3 or not all(0.05 <= s <= 50 for s in self.spacing)):
            raise UserError(f"recipe.volume.spacing={list(self.spacing)}: give [z, y, x] in mm, 0.05 to 50, or null")
        for name, values in (("clip", self.clip), ("range", self.range)):
            if values is not None and (len(values) != 2 or not -32768 <= values[0] < values[1] <= 32767):
                raise UserError(f"recipe.volume.{name}={list(values)}: give [low, high] within 16 bits, or null")
        for name, value, known in (("crop", self.crop, CROPS), ("irregular", self.irregular, IRREGULAR)):
            if value not in known:
                hint = nearest(str(value), known) or ":"
                raise UserError(f"recipe.volume.{name}={value}{hint} use {' or '.join(known)}")


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
    """

    dims: int
    modality: str
    bits: int
    burned_in: str
    volume: VolumeSettings

    def __post_init__(self) -> None:
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
