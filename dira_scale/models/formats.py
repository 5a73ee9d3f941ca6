"""Trained networks as files for other libraries, each with the code that loads it there."""

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import timm
import torch
from torch import Tensor, nn

from dira_scale.errors import UserError
from dira_scale.models.architecture import architecture, architecture_metadata
from dira_scale.models.classifier import Classifier
from dira_scale.models.encoder import timm_names
from dira_scale.models.network import Encoder, Network
from dira_scale.models.pyramid import TimmEncoder
from dira_scale.models.stored import to_safetensors
from dira_scale.models.timm_head import timm_head_names
from dira_scale.models.unet import UNet
from dira_scale.models.vit import PlainEncoder
from dira_scale.places.atomic import as_user_error, write_atomic
from dira_scale.runs.description import Description

# ResNets with the same name, layers and entries in timm and torchvision.
TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
# MONAI's other ResNets have shortcuts without weights (18, 34) or no counterpart in timm.
MONAI = ("resnet50", "resnet101", "resnet152", "resnet200")
OPSET = 20
_DECODER = re.compile(r"decoder\.blocks\.(\d)\.conv([12])\.([01])\.(\w+)")


@dataclass(frozen=True)
class Trained:
    """What to export of ``run``: an encoder, and the whole network if a decoder or a classifier was trained."""

    run: Description
    encoder: Encoder
    network: Network | None = None

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def size(self) -> int:
        """Of the run's views, in pixels a side."""
        return self.run.input.size[0]

    @property
    def decoder_channels(self) -> Sequence[int]:
        return tuple(self.run.network.architecture["decoder_channels"])

    @property
    def arguments(self) -> str:
        """The constructor's arguments beside the name, as source text."""
        return "".join(f", {key}={value}" for key, value in self.require_timm("timm").arguments.items())

    @property
    def classifier(self) -> Classifier | None:
        return self.network if isinstance(self.network, Classifier) else None

    @property
    def classes(self) -> int:
        """Channels of the head."""
        return self.run.output.channels

    @property
    def number_of_classes(self) -> str:
        """An argument of smp's and our own U-Net, as source text; empty for one channel, their default."""
        return f", classes={self.classes}" if self.classes > 1 else ""

    @property
    def result(self) -> str:
        """What the network returns after ``last``, as source text."""
        if not self.run.output.names:
            return "restored"
        return "probabilities" if self.last else "outputs"

    @property
    def last(self) -> str:
        """What follows the network in the restoration of an image or the probabilities, as source text."""
        return {None: "", "sigmoid": ".sigmoid()", "softmax": ".softmax(1)"}[self.run.output.activation]

    def require_timm(self, format: str) -> TimmEncoder:
        """The encoder; ``UserError`` if ``format`` has none such."""
        classifier = self.classifier is not None
        check(format, self.encoder, self.network is not None and not classifier, classifier)
        assert isinstance(self.encoder, TimmEncoder)
        return self.encoder

    def require_unet(self, format: str) -> UNet:
        """The U-Net; ``UserError`` if there is none, or none in this format."""
        self.require_timm(format)
        if not isinstance(self.network, UNet):
            raise UserError(f"formats: {format} has no decoder such as {type(self.network).__name__}'s; use plain")
        return self.network


@dataclass(frozen=True)
class Exported:
    """Files of one format. ``code``, beside them, loads them, given an ``image`` [b, 3, S, S]; tests run it."""

    files: dict[str, bytes]
    code: str
    initial: list[str] = field(default_factory=list)  # untrained entries


def to_timm(network: Trained) -> Exported:
    """``encoder.safetensors``: the state of ``timm.create_model(NAME, num_classes=0)``.

    Layers after the pyramid (such as a final norm) get timm's initial values, the same at every call.
    """
    encoder = network.require_timm("timm")
    state = {timm_name: encoder.state_dict()[name] for name, timm_name in timm_names(encoder).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(network.name, num_classes=0, **encoder.arguments)
    initial = [entry for entry in model.state_dict() if entry not in state]
    model.load_state_dict(state, strict=False)
    files = {"encoder.safetensors": _bytes(model.state_dict(), network.run)}
    if isinstance(encoder, PlainEncoder):
        tokens = "encoder.forward_features(image)"
        if isinstance(encoder.model.norm, nn.Identity):
            tokens = f"encoder.fc_norm({tokens})"
        prefix = getattr(encoder.model, "num_prefix_tokens", 0)
        features = f"{tokens}[:, {prefix}:].mean(1)  # of the patches, as pooled in training"
    else:
        features = "encoder(image)"
    code = f"""
        import timm
        from safetensors.torch import load_file

        encoder = timm.create_model("{network.name}", num_classes=0{network.arguments}).eval()
        encoder.load_state_dict(load_file("encoder.safetensors"))
        features = {features}
    """
    code = dedent(code).strip()
    if network.classifier:
        names, head = timm_head_names(encoder), network.classifier.head.state_dict()
        assert names is not None, "checked"
        state |= {timm_name: head[name] for name, timm_name in names.items()}
        initial = [entry for entry in initial if entry not in state]  # the norm before the linear layer
        files["classifier.safetensors"] = _bytes(state, network.run)
        code += f"""

classifier = timm.create_model("{network.name}", num_classes={network.classes}{network.arguments}).eval()
classifier.load_state_dict(load_file("classifier.safetensors"))
{network.result} = classifier(image){network.last}"""
    return Exported(files, code, initial)


def to_smp(network: Trained) -> Exported:
    """``unet.safetensors``: the state of ``smp.Unet("tu-NAME")``, without a sigmoid."""
    unet = network.require_unet("smp")
    state = {_smp_name(name): tensor for name, tensor in unet.state_dict().items()}
    more = network.number_of_classes + network.arguments
    code = f"""
        import segmentation_models_pytorch as smp
        from safetensors.torch import load_file

        channels = {network.decoder_channels}
        unet = smp.Unet("tu-{network.name}", encoder_weights=None, decoder_channels=channels{more}).eval()
        unet.load_state_dict(load_file("unet.safetensors"))
        {network.result} = unet(image){network.last}
    """
    return Exported({"unet.safetensors": _bytes(state, network.run)}, dedent(code).strip())


def to_dira_scale(network: Trained) -> Exported:
    """``dira_scale_unet.safetensors``: our own U-Net, for encoders that no other library has a U-Net for."""
    unet, more = network.require_unet("dira_scale"), network.number_of_classes
    code = f"""
        from dira_scale.models.encoder import build_encoder
        from dira_scale.models.unet import UNet
        from safetensors.torch import load_file

        channels = {network.decoder_channels}
        unet = UNet(build_encoder("{network.name}", size={network.size}), decoder_channels=channels{more}).eval()
        unet.load_state_dict(load_file("dira_scale_unet.safetensors"))
        {network.result} = unet(image){network.last}
    """
    return Exported({"dira_scale_unet.safetensors": _bytes(unet.state_dict(), network.run)}, dedent(code).strip())


def to_torchvision(network: Trained) -> Exported:
    """``torchvision.safetensors``: the state of torchvision's ResNet of the same name, whose layers are timm's."""
    encoder = network.require_timm("torchvision")
    state = {timm_name: encoder.state_dict()[name] for name, timm_name in timm_names(encoder).items()}
    made, result = "().eval()\n        resnet.fc = torch.nn.Identity()", "pooled = resnet(image)"
    if network.classifier:
        state |= network.classifier.head.state_dict()  # fc.weight and fc.bias
        made, result = f"(num_classes={network.classes}).eval()", f"{network.result} = resnet(image){network.last}"
    code = f"""
        import torchvision
        from safetensors.torch import load_file

        resnet = torchvision.models.{network.name}{made}
        resnet.load_state_dict(load_file("torchvision.safetensors"))
        {result}
    """
    return Exported({"torchvision.safetensors": _bytes(state, network.run)}, dedent(code).strip())


def to_monai(network: Trained) -> Exported:
    """``monai_unet.safetensors``: the state of MONAI's ``FlexibleUNet`` over a bottleneck ResNet.

    MONAI concatenates the skip before the upsampled features, smp after them: those input channels are swapped.
    """
    unet = network.require_unet("monai")
    state = {}
    for name, tensor in unet.state_dict().items():
        name = _smp_name(name).replace("encoder.model.", "encoder.")
        if match := _DECODER.fullmatch(name):
            block, layer, part, entry = match.groups()
            part = "adn.N" if part == "1" else "conv"
            name = f"decoder.blocks.{block}.convs.conv_{int(layer) - 1}.{part}.{entry}"
            below = [network.encoder.channels[-1], *network.decoder_channels][int(block)]
            if layer == "1" and part == "conv":
                tensor = torch.cat([tensor[:, below:], tensor[:, :below]], dim=1)
        state[name] = tensor
    code = f"""
        from monai.networks.nets import FlexibleUNet
        from safetensors.torch import load_file

        flexible = FlexibleUNet(
            in_channels=3,
            out_channels={network.classes},
            backbone="{network.name}",
            decoder_channels={network.decoder_channels},
            norm="batch",
            pre_conv=None,
            is_pad=False,
        ).eval()
        flexible.load_state_dict(load_file("monai_unet.safetensors"))
        {network.result}_by_monai = flexible(image){network.last}
    """
    return Exported({"monai_unet.safetensors": _bytes(state, network.run)}, dedent(code).strip())


def to_onnx(network: Trained) -> Exported:
    """``encoder.onnx``: a grey image [b, 1, S, S] to the last map; with a decoder also ``unet.onnx``, to logits, or to
    the restored image if no sigmoid follows; of a classifier ``classifier.onnx``, to logits.

    The batch size is dynamic, S is the run's view size.
    """
    files = {"encoder.onnx": _onnx(nn.Sequential(network.require_timm("onnx"), _Last()), network.size, "features")}
    code = """
        import onnxruntime

        grey = {"image": image[:, :1].numpy()}
        (last_map,) = onnxruntime.InferenceSession("encoder.onnx").run(None, grey)
    """
    if network.network is not None:
        output = "logits" if network.last or network.run.output.names else "restored"
        file = "classifier.onnx" if network.classifier else "unet.onnx"
        files[file] = _onnx(network.classifier or network.require_unet("onnx"), network.size, output)
        code += f"""({output},) = onnxruntime.InferenceSession("{file}").run(None, grey)\n"""
    return Exported(files, "\n".join(line.strip() for line in code.strip().splitlines()))


def to_plain(network: Trained) -> Exported:
    """``plain_encoder.safetensors`` and, with a decoder or classifier, ``plain_network.safetensors``: states of any
    architecture."""
    own = architecture(network.run.network.architecture).channels
    channels = "" if network.run.network.channels == own else f", channels={network.run.network.channels}"
    files = {"plain_encoder.safetensors": _bytes(network.encoder.state_dict(), network.run)}
    code = f"""
        from dira_scale.models.architecture import architecture
        from safetensors.torch import load_file

        model = architecture({dict(network.run.network.architecture) | {"weights": None}})
        encoder = model.build_encoder({network.run.input.sides}{channels}).eval()
        encoder.load_state_dict(load_file("plain_encoder.safetensors"))
        pyramid = encoder(image)
    """
    code = dedent(code).strip()
    if network.network is not None:
        files["plain_network.safetensors"] = _bytes(network.network.state_dict(), network.run)
        build = f"build_network(encoder{network.number_of_classes})"
        if network.classifier:
            build = f"build_classifier(encoder, classes={network.classes})"
        code += f"""
network = model.{build}.eval()
network.load_state_dict(load_file("plain_network.safetensors"))
output = network(image){network.last}"""
    return Exported(files, code)


FORMATS: Mapping[str, Callable[[Trained], Exported]] = {
    "timm": to_timm,
    "smp": to_smp,
    "dira_scale": to_dira_scale,
    "torchvision": to_torchvision,
    "monai": to_monai,
    "onnx": to_onnx,
    "plain": to_plain,
}

FILES = frozenset(
    {"encoder.safetensors", "unet.safetensors", "dira_scale_unet.safetensors", "torchvision.safetensors"}
    | {"monai_unet.safetensors", "encoder.onnx", "unet.onnx", "plain_encoder.safetensors", "plain_network.safetensors"}
    | {"classifier.safetensors", "classifier.onnx", "predict.json"}
)  # all that the formats write


def check(format: str, encoder: Encoder, decoder: bool, classifier: bool = False) -> None:
    """Raise ``UserError`` if ``format`` has no such network. ``decoder``, ``classifier``: whether one was trained."""
    if format == "plain":
        return
    if not isinstance(encoder, TimmEncoder):
        raise UserError(f"formats: {format} has no encoder such as {encoder.name}, which is not timm's; use plain")
    if (channels := encoder.channels[0]) != 3:
        raise UserError(f"formats: {format} is written of networks of three channels, not {channels}; use plain")
    if format in ("smp", "dira_scale", "monai") and not decoder:
        raise UserError(f"formats: {format} needs a U-Net, and no stage up to this one trained a decoder; drop it")
    if format == "smp" and isinstance(encoder, PlainEncoder):
        raise UserError(f"formats: smp has no U-Net over {encoder.name}; use dira_scale, with its light pyramid")
    if format == "timm" and classifier and timm_head_names(encoder) is None:
        raise UserError(
            f"formats: timm has another classification head over {encoder.name} than was trained; use plain"
        )
    for library, known in (("torchvision", TORCHVISION), ("monai", MONAI)):
        if format == library and encoder.name not in known:
            what = "torchvision has no network" if format == "torchvision" else "MONAI's FlexibleUNet has no encoder"
            raise UserError(f"formats: {what} laid out as {encoder.name}; it has {', '.join(known)}")


def default_formats(network: Trained) -> list[str]:
    """timm and, if a decoder was trained, smp, or dira_scale if smp has no such U-Net; plain for other networks, and
    for classifiers with another head than timm's."""
    if not isinstance(network.encoder, TimmEncoder) or not isinstance(network.network, UNet | Classifier | None):
        return ["plain"]
    if network.encoder.channels[0] != 3:
        return ["plain"]
    if network.classifier:
        return ["timm"] if timm_head_names(network.encoder) else ["plain"]
    unet = "dira_scale" if isinstance(network.encoder, PlainEncoder) else "smp"
    return ["timm", unet] if network.network is not None else ["timm"]


def replace_export(out: Path, files: Mapping[str, bytes], card: str) -> list[str]:
    """Write ``files`` and the card ``README.md`` to ``out``; remove other formats' files, which the card does not
    describe, and return their names."""
    with as_user_error(out, "out"):
        out.mkdir(parents=True, exist_ok=True)
        removed = [name for name in sorted(FILES - files.keys()) if (out / name).exists()]
        for name in removed:
            (out / name).unlink()
        for name, content in (dict(files) | {"README.md": card.encode()}).items():
            write_atomic(out / name, content)
    return removed


class _Last(nn.Module):
    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return pyramid[-1]


def _onnx(module: nn.Module, size: int, output: str) -> bytes:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            "formats: onnx needs the extra `onnx`: python3 setup/install.py onnx in a checkout, or "
            "pip install 'dira_scale[onnx]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter calls torch's own deprecated functions
        program = torch.onnx.export(
            module.eval(),
            (torch.rand(2, 1, size, size),),
            input_names=["image"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _smp_name(name: str) -> str:
    return name.replace("head.", "segmentation_head.0.", 1) if name.startswith("head.") else name


def _bytes(state: Mapping[str, Tensor], run: Description) -> bytes:
    """A safetensors file. Its metadata has the ``run``'s architecture and its classes."""
    classes = {"classes": json.dumps(run.output.names, ensure_ascii=False)} if run.output.names else {}
    return to_safetensors(state, {"format": "pt"} | architecture_metadata(run.network.architecture) | classes)
