"""``model.*``: which network, and its settings. Reading them needs no torch.

``model._target_`` names an architecture, ours or yours, which builds the network.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from etils.epy import lazy_imports
from omegaconf import MISSING, DictConfig, OmegaConf

from dira_scale.base.arguments import ArgumentError, AtLeast, check_arguments
from dira_scale.base.config.border import at
from dira_scale.base.config.registry import TARGET, chosen_class
from dira_scale.base.config.schema import Schema, one_of, path_field, setting
from dira_scale.base.errors import UserError
from dira_scale.train.runs.description import FILE, NORMALISATIONS, InputDescription, read_description
from dira_scale.train.runs.files import DAMAGED, parse_json
from dira_scale.train.runs.shape import shaped

with lazy_imports():
    import safetensors

    from dira_scale.train.models import classifier as classifiers
    from dira_scale.train.models import encoder as encoders
    from dira_scale.train.models import fcn, linear, pyramid, timm_head, unet

if TYPE_CHECKING:
    from dira_scale.train.models.classifier import Classifier
    from dira_scale.train.models.network import Encoder, Network


@dataclass
class Architecture(Schema):
    """A network's configuration, ``configs/model/*.yaml``. A subclass adds its own keys, and builds from them.

    Encoder and decoder are built apart: what only discriminates has no decoder.
    """

    _target_: str = MISSING
    weights: str | None = path_field(None)
    bn_groups: int | None = setting(AtLeast(1))
    bn_group_size: int | None = setting(AtLeast(2), None)

    dimensions: ClassVar[int]
    channels: ClassVar[int] = 1  # that its first layer takes; an image of one channel is repeated

    def __post_init__(self) -> None:
        """Raises ArgumentError unless BatchNorm's groups are given by their number or by their size."""
        super().__post_init__()
        if self.bn_groups and self.bn_group_size:
            expected = f"null beside bn_group_size, {self.bn_group_size}: BatchNorm's groups have a number or a size"
            raise ArgumentError("bn_groups", self.bn_groups, expected)
        if not (self.bn_groups or self.bn_group_size):
            raise ArgumentError("bn_groups", None, "the number of BatchNorm's groups, or their size as bn_group_size")

    def groups(self, batch: int) -> int:
        """BatchNorm groups of a global ``batch``. Raises ArgumentError if it does not divide into them."""
        size, sizes = self.bn_group_size, [n for n in range(2, batch + 1) if batch % n == 0]
        if size is None:
            numbers = [batch // n for n in reversed(sizes)]
            if self.bn_groups not in numbers:
                expected = f"one of {', '.join(map(str, numbers)) or 'none'}, groups of at least 2 of {batch} samples"
                raise ArgumentError("bn_groups", self.bn_groups, expected)
            return self.bn_groups
        if size not in sizes:
            expected = f"one of {', '.join(map(str, sizes)) or 'none'}, which divide the batch of {batch}"
            raise ArgumentError("bn_group_size", size, expected)
        return batch // size

    @property
    def name(self) -> str:
        """The network's name in tables."""
        return type(self).__name__

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> "Encoder":
        """For views of ``size`` (``ViewSpec.size``), with random weights. Raises ArgumentError.

        ``channels``: of its first layer; None: the architecture's own.
        """
        raise NotImplementedError

    def check_view(self, encoder: "Encoder", size: int | tuple[int, ...]) -> None:
        """Raise ArgumentError unless ``encoder``, built for views of another size, takes ``size``."""

    def build_network(self, encoder: "Encoder", classes: int = 1) -> "Network":
        """``encoder`` with a decoder and a head of ``classes`` channels, of random weights. Raises ArgumentError."""
        raise NotImplementedError

    def build_classifier(self, encoder: "Encoder", classes: int) -> "Classifier":
        """``encoder`` with a head of ``classes`` outputs for the whole image, of random weights."""
        return classifiers.Classifier(encoder, classes)

    def build_linear(self, encoder: "Encoder", classes: int) -> "Network":
        """``encoder`` with a linear classifier of every pixel's features, of random weights."""
        return linear.LinearNetwork(encoder, classes)

    def build_fcn(self, encoder: "Encoder", classes: int) -> "Network":
        """``encoder``, a ResNet that is changed by it, with the head of an FCN, of random weights."""
        return fcn.FCN(encoder, classes)

    def build(self, head: str, encoder: "Encoder", classes: int) -> "Network":
        """``encoder`` with what ``NetworkDescription.head`` is, of random weights."""
        builds: dict[str, Callable[[Encoder, int], Network]] = {
            "pooled": self.build_classifier, "dense": self.build_network, "linear": self.build_linear,
            "fcn": self.build_fcn,
        }  # fmt: skip
        return builds[head](encoder, classes)


@dataclass
class TimmUNet(Architecture):
    """A timm backbone and, over it, the U-Net's decoder (``configs/model/unet.yaml``)."""

    encoder: str = MISSING
    decoder_channels: list[int] = setting(AtLeast(1))
    zero_init_residual: bool = MISSING
    arguments: dict[str, Any] | None = None
    positions: str | None = setting(one_of("timm", "dino", "transformers"), None)

    dimensions: ClassVar[int] = 2
    channels: ClassVar[int] = 3

    @property
    def name(self) -> str:
        return self.encoder

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> "Encoder":
        if not isinstance(size, int):
            raise ArgumentError("size", size, "one number, the side of a square")
        return encoders.build_encoder(
            self.encoder, channels or self.channels, size, self.zero_init_residual is True, self.arguments or {},
            self.positions or "timm",
        )  # fmt: skip

    def check_view(self, encoder: "Encoder", size: int | tuple[int, ...]) -> None:
        assert isinstance(encoder, pyramid.TimmEncoder) and isinstance(size, int)
        encoders.check_view(encoder, size)

    def build_network(self, encoder: "Encoder", classes: int = 1) -> "Network":
        assert isinstance(encoder, pyramid.TimmEncoder)
        return unet.UNet(encoder, self.decoder_channels, classes)

    def build_classifier(self, encoder: "Encoder", classes: int) -> "Classifier":
        assert isinstance(encoder, pyramid.TimmEncoder)
        return classifiers.Classifier(encoder, classes, timm_head.timm_head(encoder, classes))


OF_TRAINING = ("weights", "bn_groups", "bn_group_size")  # keys of every architecture that are not of the network
AXES, ZYX, XYZ = "axes", "zyx", "xyz"  # in that metadata: of the volumes that the tensors are for; by default ours
INPUT = "input"  # in that metadata: a run's ``InputDescription``, whose channels are those of the first layer
ARCHITECTURE = "architecture"  # in the metadata of exported files: the node ``model`` as JSON, without those


def architecture(config: Mapping[Any, Any]) -> Architecture:
    """The object of a ``model`` node: of a composed configuration, or of a run's.

    Raises ``UserError`` if ``_target_`` names no architecture, or one with other keys.
    """
    node: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else dict(config)
    kind = chosen_class(Architecture, f"model.{TARGET}", str(node.get(TARGET)))
    settings = [field.name for field in fields(kind)]
    if unknown := [name for name in node if name not in settings]:
        raise UserError(f"model.{unknown[0]}: {kind.__name__} has no such setting, only {', '.join(settings)}")
    with at("model"):
        check_arguments(kind, {name: value for name, value in node.items() if value != MISSING})
        built = kind(**node)
    assert isinstance(built, Architecture)
    return built


def architecture_metadata(node: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a file with weights of the network of a ``model`` node."""
    network = {key: value for key, value in node.items() if key not in OF_TRAINING}
    return {ARCHITECTURE: json.dumps(network, ensure_ascii=False)}


def exported_architecture(path: Path) -> dict[str, Any]:
    """The ``model`` node of an exported file, or of a folder of them; empty where nothing says it. Raises UserError."""
    try:
        return dict(parse_json(exported_metadata(path).get(ARCHITECTURE, "{}")))
    except (*DAMAGED, TypeError) as error:
        raise UserError(f"{path} is damaged (its metadata {ARCHITECTURE}: {error}): export it again") from error


def exported_input(path: Path) -> InputDescription | None:
    """Return what an exported network takes; None of files of other origin. Raises UserError for a damaged one."""
    stored = exported_metadata(path).get(INPUT)
    if stored is None:
        return None
    return shaped(InputDescription, parse_json(stored), "export it again", f"{path}: {INPUT}")


def normalisation_of(path: Path) -> str | None:
    """Return how the images were normalised on which the weights at ``path`` were trained, a run's or exported ones."""
    input = read_description(path).input if (path / FILE).is_file() else exported_input(path)
    known = (name for name, values in NORMALISATIONS.items() if input and values["mean"] == input.mean)
    return next(known, None)


def exported_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of an exported file, or of a folder of them; empty for files of other origin."""
    file = min(path.glob("*.safetensors"), default=path)
    if not file.is_file() or file.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(file, "np") as stored:
            metadata = stored.metadata() or {}
    except safetensors.SafetensorError:  # reported when its weights are read
        return {}
    return metadata if ARCHITECTURE in metadata else {}
