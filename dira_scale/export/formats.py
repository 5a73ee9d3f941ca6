"""Trained networks as files for other libraries, each with the code that loads it there."""

import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import torch
from torch import Tensor, nn

from dira_scale.base.errors import UserError, require
from dira_scale.base.storage.atomic import as_user_error, write_atomic
from dira_scale.base.storage.owned import own
from dira_scale.export.bundle import BUNDLE, to_monai_bundle
from dira_scale.export.bundle import FILES as OF_BUNDLE
from dira_scale.export.network import Exported, TrainedNetwork, weights_file
from dira_scale.export.timm_files import config, encoder_state, features, head_state
from dira_scale.export.volume_formats import MONAI_FILE, NNSSL_FILE, NNUNET_FILE, to_monai_swinunetr, to_nnunet
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.classifier import Classifier
from dira_scale.train.models.encoder import timm_names
from dira_scale.train.models.network import Encoder
from dira_scale.train.models.pyramid import TimmEncoder
from dira_scale.train.models.timm_head import timm_head_names
from dira_scale.train.models.unet import UNet
from dira_scale.train.models.vit import PlainEncoder
from dira_scale.train.models.volume.swinunetr import SwinEncoder

# MONAI's other ResNets have shortcuts without weights (18, 34) or no counterpart in timm.
MONAI = ("resnet50", "resnet101", "resnet152", "resnet200")
EXPORT = "an export"  # the mark of its folder
OPSET = 20
_DECODER = re.compile(r"decoder\.blocks\.(\d)\.conv([12])\.([01])\.(\w+)")


def require_timm(format: str, network: TrainedNetwork) -> TimmEncoder:
    """The encoder of ``network``; ``UserError`` if ``format`` has none such."""
    check(format, network.encoder, network.unet is not None, network.classifier is not None)
    assert isinstance(network.encoder, TimmEncoder)
    return network.encoder


def require_unet(format: str, network: TrainedNetwork) -> UNet:
    """Its U-Net; ``UserError`` if there is none, or none in this format."""
    require_timm(format, network)
    if not isinstance(network.network, UNet):
        raise UserError(f"formats: {format} has no decoder such as {type(network.network).__name__}'s; use plain")
    return network.network


def _arguments(network: TrainedNetwork) -> str:
    """The constructor's arguments beside the name, as source text."""
    return "".join(f", {key}={value!r}" for key, value in require_timm("timm", network).arguments.items())


def _in_timms_names(encoder: TimmEncoder) -> dict[str, Tensor]:
    state = encoder.state_dict()
    return {timm_name: state[name] for name, timm_name in timm_names(encoder).items()}


def to_timm(network: TrainedNetwork) -> Exported:
    """``encoder.safetensors``: the state of ``timm.create_model(NAME, num_classes=0)``.

    Layers after the pyramid (such as a final norm) get timm's initial values, the same at every call.
    """
    encoder = require_timm("timm", network)
    state = _in_timms_names(encoder)
    whole = encoder_state(encoder, state)
    files = {"encoder.safetensors": weights_file(whole, network.run)}
    code = f"""
        import timm
        from safetensors.torch import load_file

        encoder = timm.create_model("{network.name}", num_classes=0{_arguments(network)}).eval()
        encoder.load_state_dict(load_file("encoder.safetensors"))
        features = {features(encoder)}
    """
    code = dedent(code).strip()
    if network.classifier:
        state |= head_state(network, encoder)
        files["classifier.safetensors"] = weights_file(state, network.run)
        code += f"""

classifier = timm.create_model("{network.name}", num_classes={network.classes}{_arguments(network)}).eval()
classifier.load_state_dict(load_file("classifier.safetensors"))
{network.result} = classifier(image){network.last}"""
    return Exported(files, code, [entry for entry in whole if entry not in state])


def to_huggingface(network: TrainedNetwork) -> Exported:
    """``config.json`` and ``model.safetensors``: timm's encoder, or its classifier. With the card it is a folder for
    ``timm.create_model("local-dir:FOLDER", pretrained=True)``, for transformers' TimmWrapper and for Hugging Face."""
    encoder = require_timm("huggingface", network)
    trained = _in_timms_names(encoder)
    whole, trained = encoder_state(encoder, trained), trained | head_state(network, encoder)
    variable, loader, result = "encoder", "AutoModel", f"features = {features(encoder)}"
    if network.classifier:
        variable, loader = "classifier", "TimmWrapperForImageClassification"
        result = f"{network.result} = classifier(image){network.last}"
    code = f"""
        import timm

        {variable} = timm.create_model("local-dir:.", pretrained=True).eval()  # the folder of these files
        {result}
    """
    use = f"transformers loads the folder, too: `{loader}.from_pretrained(FOLDER)`."
    if isinstance(network.network, UNet):
        use += " Such a folder has no place for the decoder: that is in another format."
    files = {
        "config.json": (json.dumps(config(network, encoder), indent=2, ensure_ascii=False) + "\n").encode(),
        "model.safetensors": weights_file(whole | trained, network.run),
    }
    return Exported(files, dedent(code).strip(), [entry for entry in whole if entry not in trained], use)


def to_smp(network: TrainedNetwork) -> Exported:
    """``unet.safetensors``: the state of ``smp.Unet("tu-NAME")``, without a sigmoid."""
    unet = require_unet("smp", network)
    state = {_smp_name(name): tensor for name, tensor in unet.state_dict().items()}
    more = network.number_of_classes + _arguments(network)
    code = f"""
        import segmentation_models_pytorch as smp
        from safetensors.torch import load_file

        channels = {network.decoder_channels}
        unet = smp.Unet("tu-{network.name}", encoder_weights=None, decoder_channels=channels{more}).eval()
        unet.load_state_dict(load_file("unet.safetensors"))
        {network.result} = unet(image){network.last}
    """
    return Exported({"unet.safetensors": weights_file(state, network.run)}, dedent(code).strip())


def to_monai(network: TrainedNetwork) -> Exported:
    """``monai_unet.safetensors``: the state of MONAI's ``FlexibleUNet`` over a bottleneck ResNet; of a Swin UNETR
    ``monai_swinunetr.safetensors``.

    MONAI concatenates the skip before the upsampled features, smp after them: those input channels are swapped.
    """
    if isinstance(network.encoder, SwinEncoder):
        check("monai", network.encoder, network.unet is not None)
        return to_monai_swinunetr(network)
    unet = require_unet("monai", network)
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
    return Exported({"monai_unet.safetensors": weights_file(state, network.run)}, dedent(code).strip())


def to_onnx(network: TrainedNetwork) -> Exported:
    """``encoder.onnx``: a grey image [b, 1, S, S] to the last map; with a decoder also ``unet.onnx``, to logits, or to
    the restored image if no sigmoid follows; of a classifier ``classifier.onnx``, to logits.

    The batch size is dynamic, S is the run's view size.
    """
    whole: nn.Module | None = None
    if network.network is not None:  # refused before anything is traced, which takes seconds
        whole = network.classifier or require_unet("onnx", network)
    size = network.run.input.size[0]
    files = {"encoder.onnx": _onnx(nn.Sequential(require_timm("onnx", network), _Last()), size, "features")}
    code = """
        import onnxruntime

        grey = {"image": image[:, :1].numpy()}
        (last_map,) = onnxruntime.InferenceSession("encoder.onnx").run(None, grey)
    """
    if whole is not None:
        output = "logits" if network.last or network.run.output.names else "restored"
        file = "classifier.onnx" if network.classifier else "unet.onnx"
        files[file] = _onnx(whole, size, output)
        code += f"""({output},) = onnxruntime.InferenceSession("{file}").run(None, grey)\n"""
    return Exported(files, "\n".join(line.strip() for line in code.strip().splitlines()))


def to_plain(network: TrainedNetwork) -> Exported:
    """``plain_encoder.safetensors`` and, with a decoder or classifier, ``plain_network.safetensors``: states of any
    architecture."""
    own = architecture(network.run.network.architecture).channels
    channels = "" if network.run.network.channels == own else f", channels={network.run.network.channels}"
    files = {"plain_encoder.safetensors": weights_file(network.encoder.state_dict(), network.run)}
    code = f"""
        from dira_scale.train.models.architecture import architecture
        from safetensors.torch import load_file

        model = architecture({dict(network.run.network.architecture) | {"weights": None}})
        encoder = model.build_encoder({network.run.input.sides}{channels}).eval()
        encoder.load_state_dict(load_file("plain_encoder.safetensors"))
        pyramid = encoder(image)
    """
    code = dedent(code).strip()
    if network.network is not None:
        files["plain_network.safetensors"] = weights_file(network.network.state_dict(), network.run)
        build = {
            "dense": f"build_network(encoder{network.number_of_classes})",
            "linear": f"build_linear(encoder, classes={network.classes})",
            "fcn": f"build_fcn(encoder, classes={network.classes})",
            "pooled": f"build_classifier(encoder, classes={network.classes})",
        }[network.run.network.head]
        code += f"""
network = model.{build}.eval()
network.load_state_dict(load_file("plain_network.safetensors"))
output = network(image){network.last}"""
    return Exported(files, code)


FORMATS: Mapping[str, Callable[[TrainedNetwork], Exported]] = {
    "timm": to_timm,
    "huggingface": to_huggingface,
    "smp": to_smp,
    "monai": to_monai,
    "onnx": to_onnx,
    "plain": to_plain,
    "nnunet": to_nnunet,
    BUNDLE: to_monai_bundle,
}

# All that the formats write.
FILES = frozenset({
    "encoder.safetensors", "classifier.safetensors", "config.json", "model.safetensors", "unet.safetensors",
    "monai_unet.safetensors", "encoder.onnx", "unet.onnx", "classifier.onnx", "plain_encoder.safetensors",
    "plain_network.safetensors", "predict.json", MONAI_FILE, NNUNET_FILE, NNSSL_FILE,
    *OF_BUNDLE,
})  # fmt: skip


def check(format: str, encoder: Encoder, decoder: bool, classifier: bool = False) -> None:
    """Raise ``UserError`` if ``format`` has no such network. ``decoder``, ``classifier``: whether one was trained."""
    if format in ("plain", "nnunet", BUNDLE):  # which say it themselves
        return
    if format in ("smp", "monai") and not decoder:
        raise UserError(f"formats: {format} needs a U-Net, and no stage up to this one trained a decoder; drop it")
    if format == "monai" and isinstance(encoder, SwinEncoder):
        return
    if not isinstance(encoder, TimmEncoder):
        taken = "encoders of timm" + (" and model=swinunetr" if format == "monai" else "")
        raise UserError(f"formats: {format} takes {taken}; this run has {encoder.name}: use plain")
    if encoder.dimensions == 3:
        raise UserError(f"formats: {format} takes networks of images, and this run's is of volumes: use plain")
    if (channels := encoder.channels[0]) != 3 and format != "huggingface":
        raise UserError(f"formats: {format} takes networks of three channels; this run has {channels}: use plain")
    if format == "smp" and isinstance(encoder, PlainEncoder):
        raise UserError(f"formats: smp has no U-Net over {encoder.name}: use plain, with its light pyramid")
    if format in ("timm", "huggingface") and classifier and timm_head_names(encoder) is None:
        raise UserError(
            f"formats: {format} has another classification head over {encoder.name} than was trained; use plain"
        )
    if format == "monai" and encoder.name not in MONAI:
        raise UserError(
            f"formats: MONAI's FlexibleUNet has no encoder laid out as {encoder.name}; it has {', '.join(MONAI)}"
        )


def default_formats(network: TrainedNetwork) -> list[str]:
    """timm and, if a decoder was trained, smp, or plain if smp has no such U-Net; plain alone for other networks, and
    for classifiers with another head than timm's."""
    if not isinstance(network.encoder, TimmEncoder) or not isinstance(network.network, UNet | Classifier | None):
        return ["plain"]
    if network.encoder.channels[0] != 3 or network.encoder.dimensions == 3:
        return ["plain"]
    if network.classifier:
        return ["timm"] if timm_head_names(network.encoder) else ["plain"]
    unet = "plain" if isinstance(network.encoder, PlainEncoder) else "smp"
    return ["timm", unet] if network.network is not None else ["timm"]


def replace_export(out: Path, files: Mapping[str, bytes], card: str) -> list[str]:
    """Write ``files`` and the card ``README.md`` to ``out``; remove other formats' files, which the card does not
    describe, and return their names."""
    with as_user_error(out, "out"):
        own(out, EXPORT, "out")
        removed = [name for name in sorted(FILES - files.keys()) if (out / name).exists()]
        for name in removed:
            (out / name).unlink()
            for folder in [*(out / name).parents][: name.count("/")]:
                if not any(folder.iterdir()):
                    folder.rmdir()
        for name, content in (dict(files) | {"README.md": card.encode()}).items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out / name, content)
    return removed


class _Last(nn.Module):
    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return pyramid[-1]


def _onnx(module: nn.Module, size: int, output: str) -> bytes:
    require("formats: onnx needs", "onnx", "onnx", "onnxscript")
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
    return program.model_proto.SerializeToString()


def _smp_name(name: str) -> str:
    return name.replace("head.", "segmentation_head.0.", 1) if name.startswith("head.") else name
