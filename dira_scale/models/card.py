"""The model card beside exported weights: data, training, how to load them, limits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dira_scale import __version__
from dira_scale.models.formats import Exported

TITLES = {
    "timm": "timm, the encoder",
    "smp": "segmentation_models_pytorch, the U-Net",
    "dira_scale": "dira_scale, the U-Net",
    "torchvision": "torchvision, the encoder",
    "monai": "MONAI, the U-Net",
    "onnx": "ONNX, for views of this size and any batch",
}


@dataclass(frozen=True)
class Source:
    """One dataset that the weights were trained on."""

    name: str  # from its dataset.json; the folder's name if that cannot be read
    hash: str  # content hash, from the run's configuration
    modality: str = ""  # this and the following: from its dataset.json
    licence: str = ""
    images: int = 0  # in the training split
    lists: str = ""  # published lists that decided the splits, with the number of patients in two of them
    unread: str = ""  # why dataset.json could not be read


@dataclass(frozen=True)
class Card:
    """A card's content.

    Attributes:
        config: the run's resolved configuration.
        loss: the lowest validation loss of the stage; None if these are not its best weights.
        decoder: whether a decoder was trained.
        exports: by format, the files beside the card.
        remark: the method's own, on the decoder.
    """

    name: str
    config: Mapping[str, Any]
    sources: Sequence[Source]
    stage: str
    step: int
    loss: float | None
    decoder: bool
    exports: Mapping[str, Exported]
    remark: str = ""

    def text(self) -> str:
        """The card in Markdown."""
        sections = (self._front(), self._what(), self._data(), self._training(), self._loading(), self._limits())
        return "\n\n".join(sections) + "\n"

    def _front(self) -> str:
        modalities = sorted({source.modality.lower() for source in self.sources if source.modality})
        licences = sorted({source.licence or "unknown" for source in self.sources})
        if self._start:
            licences.append(f"that of {self._start}")
        lines = [
            "library_name: timm",
            f"tags: {json.dumps(['medical-imaging', 'self-supervised', *modalities])}",
            "license: other",  # Hugging Face's value for a custom licence, named below
            f"license_name: {json.dumps(' and '.join(licences))}",
        ]
        return "\n".join(["---", *lines, "---"])

    @property
    def _start(self) -> str:
        """Name of the weights that the encoder started from; empty if it was initialised at random."""
        weights = self.config["model"]["weights"]
        return Path(weights).name if weights else ""

    def _what(self) -> str:
        network = f"a `{self.config['model']['encoder']}` encoder"
        if self.decoder:
            network += ", and the same encoder with a U-Net decoder,"
        chosen = "the newest checkpoint, whatever its validation loss"
        if self.loss is not None:
            chosen = f"the lowest validation loss of its stage, {self.loss:.6g}"
        start = f", starting from `{self._start}`" if self._start else ""
        return (
            f"# {self.name}\n\nWeights of {network} pretrained without labels by dira_scale {__version__}{start}. "
            f"Stage `{self.stage}`, step {self.step}: {chosen}."
        )

    def _data(self) -> str:
        rows = ["| dataset | images | licence | content hash |", "|---|---|---|---|"]
        for source in self.sources:
            if source.unread:
                rows.append(f"| {source.name} | unknown | unknown: {source.unread} | `{source.hash}` |")
            else:
                about = f"{source.name} ({source.modality})"
                rows.append(f"| {about} | {source.images:,} | {source.licence} | `{source.hash}` |")
        split = self.config["data"]["split"]
        text = f"## Data\n\nSplit `{split}`. The terms of these images apply to the weights.\n\n"
        text += "\n".join(rows)
        text += "".join(f"\n\n{source.name}: splits as in {source.lists}." for source in self.sources if source.lists)
        if self._start:
            text += (
                f"\n\nThe encoder started from `{self._start}`, not at random. Its terms apply too; the data and "
                "labels that it learnt from are not listed here."
            )
        return text

    def _training(self) -> str:
        config, data = self.config, self.config["data"]
        stages = [
            f"`{name}` ({' + '.join(stage['terms'])}, {stage['epochs'] * config['epoch_factor']:g} epochs)"
            for name, stage in config["stages"].items()
            if stage["epochs"] > 0
        ]
        optimizer = config["optim"]["optimizer"]
        precision = config.get("precision_used", config["precision"])  # without the first: a run of version 0.1
        return (
            f"## Training\n\n- method: `{config['method']['_target_']}`\n- stages of the run: {', '.join(stages)}\n"
            f"- views of {data['size']} pixels, global batch {data['batch']}, seed {config['seed']}, "
            f"optimizer `{optimizer['_target_']}` at {optimizer['lr']:g}, precision {precision}\n"
            "- everything else: `config.yaml` of the run"
        )

    def _loading(self) -> str:
        size = self.config["data"]["size"]
        lines = [
            "## Loading",
            "",
            "Input: grey in [0, 1], repeated to three channels, *without* normalisation by mean and deviation.",
            "",
            "```python",
            "import torch",
            "",
            f"image = torch.rand(1, 1, {size}, {size}).expand(-1, 3, -1, -1)  # your image here",
            "```",
        ]
        for name, exported in self.exports.items():
            files = " and ".join(f"`{file}`" for file in exported.files)
            lines += ["", f"{TITLES[name]}: {files}", "", "```python", exported.code, "```"]
        return "\n".join(lines)

    def _limits(self) -> str:
        origin = f" and from what `{self._start}` had learnt" if self._start else " alone"
        lines = [
            "## Limits",
            "",
            "- A starting point for training, not a diagnostic device: nothing here was tested on patients.",
            "- The loss of pretraining says nothing about any task's accuracy, and losses of different stages cannot "
            "be compared.",
            f"- Learnt from the images above{origin}: not for other modalities, projections, scanners or ages.",
        ]
        if initial := [name for exported in self.exports.values() for name in exported.initial]:
            names = ", ".join(f"`{name}`" for name in initial)
            lines.append(f"- Not trained (timm's initial values), as they come after the feature pyramid: {names}.")
        if self.decoder and self.remark:
            lines.append(f"- {self.remark}")
        if not self.decoder:
            lines.append("- No decoder: no stage up to this one trained it.")
        return "\n".join(lines)
