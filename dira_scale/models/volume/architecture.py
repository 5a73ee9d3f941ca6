"""``model.*`` of the networks of volumes, and the sizes that they take. Reading it needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from dira_scale.config.schema import above, one_of
from dira_scale.errors import UserError
from dira_scale.models.architecture import Architecture
from dira_scale.models.volume import GROUPS

if TYPE_CHECKING:
    from dira_scale.models.network import Encoder
    from dira_scale.models.volume import unet3d


@dataclass
class VolumeArchitecture(Architecture):
    """A network of volumes [depth, height, width], whose coarsest map has 1/``stride`` of the voxels a side."""

    dimensions: ClassVar[int] = 3
    label: ClassVar[str]  # that tables and messages call it
    stride: ClassVar[int]

    @property
    def name(self) -> str:
        return self.label

    @property
    def instance_norm(self) -> str:
        """What has each channel of a volume's coarsest map normalised by itself, for messages; empty if nothing."""
        return ""

    def check_size(self, size: int | Sequence[int]) -> None:
        """Raise UserError, naming ``data.size``, unless the network takes views of ``size``."""
        if isinstance(size, int):
            raise UserError(f"data.size={size}: {self.name} takes volumes: give three, as data.size={[size] * 3}")
        step = self.stride
        if any(side % step for side in size):
            below, over = ([max(step, (side + more) // step * step) for side in size] for more in (0, step - 1))
            sizes = f"data.size={below}" + (f" or {over}" if over != below else "")
            raise UserError(
                f"data.size={list(size)}: {self.name} halves each side down to 1/{step}: give multiples of {step}, "
                f"such as {sizes}"
            )
        if self.instance_norm and all(side == step for side in size):
            raise UserError(
                f"data.size={list(size)}: the coarsest map of {self.name} is one voxel, and {self.instance_norm} makes "
                f"it 0 whatever the volume; use data.size={[2 * step, *size[1:]]} or larger"
            )


@dataclass
class UNet3D(VolumeArchitecture):
    """The 3D U-Net of Models Genesis and TransVW (``configs/model/unet3d.yaml``)."""

    width: float = above(0)
    norm: str = one_of("batch", "instance", "group")
    up: str = one_of("transposed", "nearest")

    label: ClassVar[str] = "unet3d"
    stride: ClassVar[int] = 8

    def __post_init__(self) -> None:
        """Raises UserError if ``width`` does not give whole channels, or GroupNorm none for each group."""
        super().__post_init__()
        if MISSING in (self.width, self.norm):
            return
        least = GROUPS if self.norm == "group" else 1
        if 32 * self.width % least:
            raise UserError(
                f"width={self.width:g}: 32 channels times that must be a multiple of {least}"
                f"{', the groups of norm=group' * (least > 1)}; 0.25 is a quarter of the channels"
            )

    @property
    def instance_norm(self) -> str:
        return "model.norm=instance" if self.norm == "instance" else ""

    @property
    def base(self) -> int:
        """Channels of the first layer."""
        return round(32 * self.width)

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> "Encoder":
        from dira_scale.models.volume.unet3d import UNet3DEncoder

        self.check_size(size)
        return UNet3DEncoder(self.base, self.norm, channels or self.channels)

    def build_network(self, encoder: "Encoder", classes: int = 1) -> "unet3d.UNet3DNetwork":
        from dira_scale.models.volume.unet3d import UNet3DEncoder, UNet3DNetwork

        assert isinstance(encoder, UNet3DEncoder)
        return UNet3DNetwork(encoder, self.norm, self.up, classes)
