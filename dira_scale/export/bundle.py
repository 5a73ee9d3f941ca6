"""A bundle of MONAI: a folder of weights, metadata and a configuration that `monai.bundle` runs on volumes."""

import io
import json
import re
from importlib.metadata import version
from typing import Any

import torch

from dira_scale import __version__
from dira_scale.archive.imaging.settings import VolumeSettings
from dira_scale.base.errors import UserError, require
from dira_scale.export.network import Exported, TrainedNetwork
from dira_scale.export.volume_formats import swinunetr_state
from dira_scale.judge.evaluation.config import WHOLE
from dira_scale.judge.evaluation.finetuned_network import REPAIR
from dira_scale.train.models.translations import other_axes
from dira_scale.train.models.volume.swinunetr import SwinEncoder
from dira_scale.train.runs.shape import shaped

BUNDLE = "monai_bundle"
LICENSE, README, MODEL = "bundle/LICENSE", "bundle/docs/README.md", "bundle/models/model.pt"
METADATA, INFERENCE = "bundle/configs/metadata.json", "bundle/configs/inference.json"
FILES = (LICENSE, README, METADATA, INFERENCE, MODEL)
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
OURS = "$from dira_scale.train.models.architecture import architecture"
IGNITE = "0.5.5"  # by which bundles are tested
PERCENTILES = (0.5, 99.5)  # that become 0 and 1 without a range (imaging.volumes.values)


def to_monai_bundle(network: TrainedNetwork) -> Exported:
    """``bundle/``: ``configs/metadata.json``, ``configs/inference.json`` and ``models/model.pt``, tensors by name.

    A Swin UNETR is MONAI's own class; of other networks ours, for which dira_scale must be installed.

    Raises UserError unless the run learned masks of volumes of one channel.
    """
    about, unet = network.about, network.unet
    if about is None or unet is None or len(about["size"]) != 3 or network.encoder.channels[0] != 1:
        takes = "fine-tuned masks of volumes of one channel"
        raise UserError(f"formats: {BUNDLE} takes {takes}; this run has {network.name}: use plain")
    if "volume" not in (conversion := about["conversion"] or {}):
        raise UserError(f"formats: {BUNDLE} needs the dataset that the run was trained on, which says how files are "
                        "read, and which is not where it was: put it back")  # fmt: skip
    if about["stored"].get("range") and conversion.get("modality") != "CT":
        raise UserError(f"formats: {BUNDLE} cannot follow data.range, which is of stored values, but of CT: use plain")
    if about["evaluate"].get("window") == WHOLE:
        raise UserError(f"formats: {BUNDLE} predicts by windows, not evaluate.window={WHOLE}: use plain")
    require(f"formats: {BUNDLE} needs", "evaluation", "monai")
    state, file = unet.state_dict(), io.BytesIO()
    if isinstance(network.encoder, SwinEncoder):
        state = {name: other_axes(name, tensor) for name, tensor in swinunetr_state(network.encoder, unet).items()}
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, file)
    parts = {METADATA: as_text(metadata(network)), INFERENCE: inference(network)}
    files = {name: (json.dumps(content, indent=4) + "\n").encode() for name, content in parts.items()}
    code = "import monai.bundle\n\n"
    code += f'monai.bundle.run(config_file="{INFERENCE}", bundle_root="bundle", dataset_dir="IN", output_dir="OUT")'
    return Exported(files | {MODEL: file.getvalue()}, code, use="Needs pytorch-ignite and nibabel.")


def as_text(value: Any) -> Any:
    """Return ``value`` with texts that stay texts where MONAI parses them.

    It takes ``$`` at a text's start for code, ``@`` and ``%`` there for references, which a quote before them prevents;
    and ``@`` and ``%`` before ``#`` or ``::`` anywhere, between which a space comes.
    """
    if isinstance(value, dict):
        return {key: as_text(each) for key, each in value.items()}
    if isinstance(value, list):
        return [*map(as_text, value)]
    return re.sub("^(?=[$@%])", "'", re.sub("(?<=[@%])(?=#|::)", " ", value)) if isinstance(value, str) else value


def metadata(network: TrainedNetwork) -> dict[str, Any]:
    """``metadata.json``, by MONAI's schema."""
    assert network.about is not None
    conversion, size = network.about["conversion"], _sides(network)
    modality = str(conversion.get("modality") or "unknown")
    image = {"type": "image", "is_patch_data": True, "dtype": "float32", "spatial_shape": size}
    kind = {"format": "hounsfield" if modality == "CT" else "magnitude", "modality": modality}
    inputs = image | kind | {"num_channels": 1, "value_range": [0, 1], "channel_def": {"0": "image"}}
    classes = {str(number): name for number, name in enumerate(network.run.output.names)}
    outputs = image | {"format": "segmentation", "num_channels": network.classes, "value_range": [0, 1]}
    packages = {"nibabel": version("nibabel"), "pytorch-ignite": IGNITE}
    return {
        "schema": SCHEMA, "version": "1.0.0", "changelog": {"1.0.0": f"exported by dira_scale {__version__}"},
        "monai_version": version("monai"), "pytorch_version": torch.__version__, "numpy_version": version("numpy"),
        "required_packages_version": packages | ({"dira_scale": __version__} if _own(network) else {}),
        "name": network.about["network"], "task": f"segmentation of volumes: {', '.join(network.run.output.names)}",
        "description": f"A {network.name} that was fine-tuned on masks; docs/README.md is its card.",
        "authors": "see docs/README.md", "copyright": "see LICENSE",
        "network_data_format": {
            "inputs": {"image": inputs}, "outputs": {"pred": outputs | {"channel_def": classes}},
        },
    }  # fmt: skip


def inference(network: TrainedNetwork) -> dict[str, Any]:
    """``inference.json``: masks of all NIfTI files of ``dataset_dir``, on their grids, in ``output_dir``."""
    classes, size = network.classes, network.run.input.size
    chosen = repr(dict(network.run.network.architecture) | {"weights": None})
    chosen = chosen.replace("@", r"\x40").replace("%", r"\x25")  # which MONAI would read in a text, too
    definition: Any = f"$(lambda ours: ours.build_network(ours.build_encoder({tuple(size)}), {classes}))"
    definition += f"(architecture({chosen}))"
    if isinstance(network.encoder, SwinEncoder):
        definition = {"_target_": "SwinUNETR", "in_channels": 1, "out_channels": classes}
        definition |= {"feature_size": network.encoder.feature_size}
    softmax = network.run.output.activation == "softmax"
    last: dict[str, Any] = {"argmax": True} if softmax else {"threshold": 0.5}
    probabilities = "Softmax(1)" if softmax else "Sigmoid()"  # before windows are added up, as in `predict`
    undone = {"orig_keys": "image", "transform": "@preprocessing", "nearest_interp": False}
    saved = {"output_dir": "@output_dir", "output_postfix": "seg", "output_dtype": "$numpy.uint8"}
    return {
        "imports": ["$import glob", "$import numpy", "$import torch", *([OURS] if _own(network) else [])],
        "bundle_root": ".", "dataset_dir": "$@bundle_root + '/images'", "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": definition,
        "network": f"$torch.nn.Sequential(@network_def, torch.nn.{probabilities}).to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing(network)},
        "dataset": {
            "_target_": "Dataset", "transform": "@preprocessing",
            "data": "$[{'image': path} for path in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {
            "_target_": "SlidingWindowInferer", "roi_size": _sides(network), "sw_batch_size": 4, "mode": "gaussian",
            "overlap": 0.5,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                _of("Invert", "pred", **undone), _of("AsDiscrete", "pred", **last),
                _of("SaveImage", "pred", separate_folder=False, **saved),
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
            "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
        },
        "initialize": "$@network_def.load_state_dict(torch.load(@bundle_root + '/models/model.pt', weights_only=True))",
        "run": "$@evaluator.run()",
    }  # fmt: skip


def preprocessing(network: TrainedNetwork) -> list[dict[str, Any]]:
    """Return the transforms of a file to the network's input: axes (ours lead to superior, posterior, left), spacing,
    values 0 to 1. Images are not cropped, nor smoothed where they shrink."""
    assert network.about is not None
    stored = network.about["stored"]
    volume: VolumeSettings = shaped(VolumeSettings, network.about["conversion"]["volume"], REPAIR, "volume")
    own, transforms = _own(network), [_of("LoadImage", "image", ensure_channel_first=True)]
    transforms.append(_of("Orientation", "image", axcodes="SPL" if own else "LPS"))
    if volume.clip:
        ends = dict(zip(("a_min", "a_max", "b_min", "b_max"), 2 * volume.clip, strict=True))
        transforms.append(_of("ScaleIntensityRange", "image", **ends, clip=True))
    if spacing := stored.get("spacing") or volume.spacing:
        each = 3 * [spacing] if isinstance(spacing, float | int) else [*spacing]
        transforms.append(_of("Spacing", "image", pixdim=each[:: 1 if own else -1], mode="bilinear", scale_extent=True))
    scaled = {"b_min": 0, "b_max": 1, "clip": True}
    if known := stored.get("range") or volume.range:
        return [*transforms, _of("ScaleIntensityRange", "image", a_min=known[0], a_max=known[1], **scaled)]
    lower, upper = PERCENTILES
    return [*transforms, _of("ScaleIntensityRangePercentiles", "image", lower=lower, upper=upper, **scaled)]


def _of(name: str, keys: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{name}d", "keys": keys} | arguments


def _own(network: TrainedNetwork) -> bool:
    """Return whether the network is of our class, of volumes [z, y, x], not of MONAI's."""
    return not isinstance(network.encoder, SwinEncoder)


def _sides(network: TrainedNetwork) -> list[int]:
    return list(network.run.input.size)[:: 1 if _own(network) else -1]
