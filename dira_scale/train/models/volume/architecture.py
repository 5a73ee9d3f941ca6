"""``model.*`` of the networks of volumes, and the sizes that they take. Reading it needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from etils.epy import lazy_imports
from omegaconf import MISSING

from dira_scale.base.arguments import UNSHOWN, Above, ArgumentError, AtLeast
from dira_scale.base.config.schema import one_of, setting
from dira_scale.train.models.architecture import XYZ, ZYX, Architecture
from dira_scale.train.models.volume import GROUPS

with lazy_imports():
    from dira_scale.train.models.volume import inflated, resenc, swinunetr, unet3d, vit3d

if TYPE_CHECKING:
    from dira_scale.train.models.network import Encoder, Network


@dataclass
class VolumeArchitecture(Architecture):
    """A network of volumes [depth, height, width]."""

    dimensions: ClassVar[int] = 3

    @property
    def stride(self) -> int:
        """Voxels of a volume for one of the coarsest map, along each side."""
        raise NotImplementedError

    @property
    def divides(self) -> str:
        """A verb phrase for messages: what the network does with a side."""
        return f"halves each side down to 1/{self.stride}"

    @property
    def instance_norm(self) -> str:
        """The layer that normalises each channel of the coarsest map by itself, for messages; empty if none does."""
        return "InstanceNorm"

    def check_view(self, encoder: "Encoder", size: int | tuple[int, ...]) -> None:
        self.check_size(size)

    def check_size(self, size: int | Sequence[int]) -> None:
        """Raise ArgumentError unless the network takes views of ``size``."""
        if isinstance(size, int):
            raise ArgumentError("size", size, f"three numbers, such as {[64] * 3}: {self.name} takes volumes")
        step, fitting = self.stride, dict[str, None]()
        below, over = ([max(step, (side + more) // step * step) for side in size] for more in (0, step - 1))
        for sides in (below, over):  # at twice the height and width the coarsest map is more than one voxel
            alone = self.instance_norm and all(side == step for side in sides)
            fitting[str([sides[0], *(2 * side for side in sides[1:])] if alone else sides)] = None
        suitable = " or ".join(fitting)
        if below != [*size]:
            expected = f"multiples of {step}, such as {suitable}: {self.name} {self.divides}"
            raise ArgumentError("size", size, expected)
        if suitable != str([*size]):
            one = f"the coarsest map of {self.name} is one voxel, which {self.instance_norm} cannot normalise"
            raise ArgumentError("size", size, f"{suitable} or larger: {one}")


@dataclass
class UNet3D(VolumeArchitecture):
    """The 3D U-Net of Models Genesis and TransVW (``configs/model/unet3d.yaml``)."""

    width: float = setting(Above(0))
    norm: str = setting(one_of("batch", "instance", "group"))
    up: str = setting(one_of("transposed", "nearest"))

    name: ClassVar[str] = "unet3d"
    stride: ClassVar[int] = 8

    def __post_init__(self) -> None:
        """Raises ArgumentError if ``width`` does not give whole channels, or GroupNorm none for each group."""
        super().__post_init__()
        if MISSING in (self.width, self.norm):
            return
        least = GROUPS if self.norm == "group" else 1
        if 32 * self.width % least:
            divisible = f"a multiple of the {least} groups of its norm" if least > 1 else "a whole number"
            raise ArgumentError("width", self.width, f"a share of 32 channels that is {divisible}, such as 0.25")

    @property
    def instance_norm(self) -> str:
        return "InstanceNorm" if self.norm == "instance" else ""

    @property
    def base(self) -> int:
        """Channels of the first layer."""
        return round(32 * self.width)

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> "Encoder":
        self.check_size(size)
        return unet3d.UNet3DEncoder(self.base, self.norm, channels or self.channels)

    def build_network(self, encoder: "Encoder", classes: int = 1) -> "Network":
        assert isinstance(encoder, unet3d.UNet3DEncoder)
        return unet3d.UNet3DNetwork(encoder, self.norm, self.up, classes)


@dataclass
class ResEnc(VolumeArchitecture):
    """nnU-Net's U-Net with a residual encoder (``configs/model/resenc_l.yaml``)."""

    features: list[int] = setting(AtLeast(1))
    blocks: list[int] = setting(AtLeast(1))

    name: ClassVar[str] = "resenc"

    def __post_init__(self) -> None:
        """Raises ArgumentError unless each stage has a number of features and of blocks."""
        super().__post_init__()
        if MISSING not in (self.features, self.blocks) and len(self.features) != len(self.blocks):
            expected = f"a number for each of the {len(self.features)} stages, whose features are {self.features}"
            raise ArgumentError("blocks", self.blocks, expected)

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.features) - 1))

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> "Encoder":
        self.check_size(size)
        return resenc.ResEncEncoder(self.features, self.blocks, channels or self.channels)

    def build_network(self, encoder: "Encoder", classes: int = 1) -> "Network":
        assert isinstance(encoder, resenc.ResEncEncoder)
        return resenc.ResEncNetwork(encoder, classes)


@dataclass
class SwinUNETR(VolumeArchitecture):
    """MONAI's Swin UNETR (``configs/model/swinunetr.yaml``)."""

    feature_size: int = setting(AtLeast(12))
    bias_axes: str = setting(one_of(XYZ, ZYX), ZYX)  # of older runs and exports, which do not say it

    name: ClassVar[str] = "swinunetr"
    stride: ClassVar[int] = 32

    def __post_init__(self) -> None:
        """Raises ArgumentError unless the features divide over the attention's heads."""
        super().__post_init__()
        if self.feature_size != MISSING and self.feature_size % 12:
            raise ArgumentError("feature_size", self.feature_size, "a multiple of 12, such as 12, 24 or 48")

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> "Encoder":
        self.check_size(size)
        return swinunetr.SwinEncoder(self.feature_size, channels or self.channels, self.bias_axes)

    def build_network(self, encoder: "Encoder", classes: int = 1) -> "Network":
        assert isinstance(encoder, swinunetr.SwinEncoder)
        return swinunetr.SwinNetwork(encoder, classes)


def primus_widths(embed_dim: int, classes: int = 1, stages: int = 2) -> list[int]:
    """Return the channels of Primus' decoder by its authors' rule: from embed_dim to twice the classes in equal ratios,
    and multiples of 8. ``stages``: doublings before the head's."""
    ends, steps = 2 * classes, stages + 1
    return [max(8, 8 * round(ends * (embed_dim / ends) ** (left / steps) / 8)) for left in range(stages, 0, -1)]


@dataclass
class ViT3D(VolumeArchitecture):
    """Primus, a plain transformer with a light decoder (``configs/model/vit3d.yaml``)."""

    embed_dim: int = setting(AtLeast(6))
    depth: int = setting(AtLeast(1))
    num_heads: int = setting(AtLeast(1))
    reg_tokens: int = setting(AtLeast(0))
    decoder_channels: list[int] | None = setting(AtLeast(1), None)

    name: ClassVar[str] = "vit3d"
    stride: ClassVar[int] = 8
    divides: ClassVar[str] = "cuts each side into patches of 8"
    instance_norm: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raises ArgumentError unless each head has channels for turns about three axes, and the decoder two stages."""
        super().__post_init__()
        if MISSING in (self.embed_dim, self.num_heads):
            return
        if self.embed_dim % (step := 6 * self.num_heads):
            below = max(self.embed_dim // step, 1) * step
            reason = f"rotary positions on three axes take a multiple of 6 for each of {self.num_heads} heads"
            raise ArgumentError("embed_dim", self.embed_dim, f"{below} or {below + step}: {reason}")
        if len(self.widths) != 2:
            expected = "two numbers, of the maps at 1/4 and 1/2 of a volume's sides"
            raise ArgumentError("decoder_channels", self.decoder_channels, expected)

    @property
    def widths(self) -> list[int]:
        """Channels of the decoder's maps."""
        return self.decoder_channels or primus_widths(self.embed_dim)

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> "Encoder":
        self.check_size(size)
        assert not isinstance(size, int)
        return vit3d.ViT3DEncoder(
            self.embed_dim, self.depth, self.num_heads, size, self.reg_tokens, channels or self.channels
        )

    def build_network(self, encoder: "Encoder", classes: int = 1) -> "Network":
        assert isinstance(encoder, vit3d.ViT3DEncoder)
        return vit3d.ViT3DNetwork(encoder, self.widths, classes)


@dataclass
class InflatedViT(VolumeArchitecture):
    """timm's vision transformers over volumes, with Primus' decoder (``configs/model/inflated_vit.yaml``)."""

    encoder: str = MISSING
    patch_size: int = setting(AtLeast(4))
    decoder_channels: list[int] | None = setting(AtLeast(1), None)
    arguments: dict[str, Any] | None = None

    instance_norm: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raises ArgumentError for a patch that no doublings lead back from, another number of ``decoder_channels``
        than the decoder has stages, and a patch's side among ``arguments``."""
        super().__post_init__()
        if self.patch_size not in (MISSING, 4, 8, 16, 32):
            raise ArgumentError("patch_size", self.patch_size, "4, 8, 16 or 32, as the decoder doubles")
        if "patch_size" in (self.arguments or {}):
            raise ArgumentError("arguments.patch_size", UNSHOWN, "to be left out: a patch's side is patch_size")
        complete = MISSING not in (self.patch_size, self.decoder_channels)
        if complete and self.decoder_channels and len(self.decoder_channels) != self.stages:
            sides = " and ".join(f"1/{2**level}" for level in range(self.stages, 0, -1))
            expected = f"{self.stages} numbers, of the maps at {sides} of a volume's sides"
            raise ArgumentError("decoder_channels", self.decoder_channels, expected)

    @property
    def name(self) -> str:
        return self.encoder

    @property
    def stride(self) -> int:
        return self.patch_size

    @property
    def divides(self) -> str:
        return f"cuts each side into patches of {self.patch_size}"

    @property
    def stages(self) -> int:
        """Doublings of the decoder before the head's."""
        return self.patch_size.bit_length() - 2

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> "Encoder":
        self.check_size(size)
        assert not isinstance(size, int)
        return inflated.build_inflated(
            self.encoder, self.patch_size, size, channels or self.channels, self.arguments or {}
        )

    def build_network(self, encoder: "Encoder", classes: int = 1) -> "Network":
        widths = self.decoder_channels or primus_widths(encoder.channels[-1], stages=self.stages)
        return vit3d.ViT3DNetwork(encoder, widths, classes)
