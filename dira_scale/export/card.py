"""The model card beside exported weights: data, training, how to load them, limits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dira_scale import __version__
from dira_scale.base.storage.text import without_tags
from dira_scale.export.network import Exported
from dira_scale.export.release import Release
from dira_scale.train.models.hub import name_of
from dira_scale.train.models.start import in_one
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.reader import TrainingData

TITLES = {
    "timm": "timm, the encoder",
    "huggingface": "A folder for Hugging Face, by timm",
    "smp": "segmentation_models_pytorch, the U-Net",
    "monai": "MONAI, the U-Net",
    "onnx": "ONNX, for views of this size and any batch",
    "plain": "dira_scale, the network as it was trained",
    "nnunet": "nnU-Net and nnssl",
    "monai_bundle": "A bundle of MONAI, which runs by itself",
}


@dataclass(frozen=True)
class Card:
    """A card's content. ``run``: what its task says of it; ``loss``: the stage's best validation loss, or other figure
    that decides; None if these are not its best weights; ``decoder``: whether one was trained; ``exports``: by format,
    the files beside the card; ``release``: what the run does not record."""

    name: str
    run: Description
    datasets: Sequence[TrainingData]
    stage: str
    step: int
    loss: float | None
    decoder: bool
    exports: Mapping[str, Exported]
    release: Release = field(default_factory=Release)

    def text(self) -> str:
        """The card in Markdown."""
        outputs = [self._outputs()] if self.run.output.names else []
        use, compute, evaluation, authors, citation = self.release.sections()
        training = [f"- {line}" for line in (*self.run.training, "everything else: `config.yaml` of the run")]
        before = [self._what(), use, self._limits()]
        after = [*outputs, self._data(), "\n".join(["## Training procedure", "", *training])]
        after += [compute, evaluation, authors, citation]
        before, after = ([*map(without_tags, sections)] for sections in (before, after))
        return "\n\n".join([self._front(), *before, self._loading(), *after]) + "\n"

    def _front(self) -> str:
        known = [data.known for data in self.datasets]
        modalities = sorted({dataset.modality.lower() for dataset in known if dataset.modality})
        kind = [] if self.run.output.names else ["self-supervised"]
        volumes = self.run.network.dimensions == 3
        lines = [
            f"library_name: {'pytorch' if volumes or [*self.exports] == ['plain'] else 'timm'}",
            f"tags: {json.dumps(['medical-imaging', *kind, *modalities])}",
            *(["pipeline_tag: image-feature-extraction"] if kind and "huggingface" in self.exports else []),
            "license: other",  # Hugging Face's value for a custom licence, named below
            f"license_name: {json.dumps(self.licences)}",
        ]
        return "\n".join(["---", *lines, "---"])

    @property
    def licences(self) -> str:
        """The licences of the data and of the weights that training started from."""
        every = sorted({data.known.licence or "unknown" for data in self.datasets})
        of_start = [self._start_licence or f"that of {self._start}"] if self._start else []
        return in_one(every + of_start)

    @property
    def _start(self) -> str:
        """Name of the weights that the encoder started from; empty if it was initialised at random."""
        return name_of(self.run.network.start or "")

    @property
    def _start_licence(self) -> str | None:
        return self.release.words.start_licence or self.run.network.licence

    def _what(self) -> str:
        network = f"a `{self.run.network.name}` encoder"
        if self.run.network.head == "pooled":
            network = f"a `{self.run.network.name}` {'classifier' if self.run.output.activation else 'regressor'}"
        elif self.run.network.head == "linear":
            network += ", and the same encoder with a linear classifier of each pixel's features,"
        elif self.run.network.head == "fcn":
            network += ", and the same encoder, its last stage dilated, with the head of an FCN,"
        elif self.decoder:
            unet = "U-Net " if {"smp", "monai"} & self.exports.keys() else ""
            network += f", and the same encoder with a {unet}decoder,"
        chosen = "the newest checkpoint, whatever its validation loss"
        if self.loss is not None:
            metric = self.run.metrics.get(self.run.best)
            extreme = "highest" if metric and metric.direction == "max" else "lowest"
            chosen = f"the {extreme} validation {self.run.best} of its stage, {self.loss:.6g}"
        start = f", starting from `{self._start}`" if self._start else ""
        return (
            f"# {self.name}\n\nWeights of {network} {self.run.trained} by dira_scale {__version__}{start}. "
            f"Stage `{self.stage}`, step {self.step}: {chosen}."
        )

    def _data(self) -> str:
        split = self.run.data.split
        text = f"## Training data\n\nSplit `{split}`. The terms of these images apply to the weights.\n\n"
        text += "| dataset | images | licence | content hash | of all splits |\n|---|---|---|---|---|"
        for data, known in ((data, data.known) for data in self.datasets):
            name, count, licence, counts = data.name, "unknown", f"unknown: {data.problem}", "unknown"
            if known.licence is not None and known.samples is not None:
                name, count, licence = f"{data.name} ({known.modality})", f"{known.samples[split]:,}", known.licence
                counts = ", ".join(f"{count} {name}" for name, count in known.samples.items())  # as in croissant.json
            text += f"\n| {name} | {count} | {licence} | `{known.hash}` | {counts} |"
        listed = [data for data in self.datasets if data.known.lists]
        text += "".join(f"\n\n{data.name}: splits as in {data.known.lists}." for data in listed)
        if self._start:
            terms = f" ({self._start_licence})" if self._start_licence else ""
            text += (
                f"\n\nThe encoder started from `{self._start}`, not at random. Its terms{terms} apply too; the data "
                f"and labels that it learnt from: {self.release.words.start_data or 'not listed here'}."
            )
        return text

    def _loading(self) -> str:
        names, channels, taken = self.run.data.channels, self.run.network.channels, self.run.input.channels
        if names or any(dataset.colour for dataset in self.run.data.datasets):
            taken = channels  # also of a network that is tuned, whose input is described without data
        shape = ", ".join(map(str, (taken, *self.run.input.size)))
        window, repeated, repeat = self.run.input.window, "", ""
        given = {1: "grey", 3: "red, green and blue"}.get(taken, f"{taken} channels")
        ends = f" (stored values, clipped to {window[0]:g} to {window[1]:g})" if window else ""
        if names:
            given, repeated = without_tags(f"the channels {', '.join(names)}, each"), ", 0 where it is lacking"
        elif channels > taken:
            repeated = f", repeated to {'three' if channels == 3 else channels} channels"
            repeat = f".expand({', '.join(map(str, (-1, channels, *self.run.network.dimensions * [-1])))})"
        normalised, mean = "*without* normalisation by mean and deviation", self.run.input.mean
        if mean:
            normalised = f"then normalised by channel: mean {mean}, deviation {self.run.input.deviation}"
        text = f"## Loading\n\nInput: {given} in [0, 1]{ends}{repeated}, {normalised}.\n\n```python\nimport torch\n\n"
        text += f"image = torch.rand(1, {shape}){repeat}  # your image here\n```"
        for name, exported in self.exports.items():
            files = " and ".join(f"`{file}`" for file in exported.files)
            use = f". {exported.use}" if exported.use else ""
            text += f"\n\n{TITLES[name]}: {files}{use}\n\n```python\n{exported.code}\n```"
        return text

    def _outputs(self) -> str:
        names, activation, pairs = self.run.output.names, self.run.output.activation, self.run.output.normalised
        if pairs:
            each = [f"| {n} | {names[n]} | {mean:.6g} | {deviation:.6g} |" for n, (mean, deviation) in enumerate(pairs)]
            title = "## Outputs\n\nA channel for each number, which is channel × deviation + mean:\n"
            return "\n".join([title, "| channel | number | mean | deviation |", "|---|---|---|---|", *each])
        of_classes = self.run.output.of_classes
        what = "at each pixel" if self.run.network.head != "pooled" else "for the whole image"
        last, kind = f", by {'a ' * of_classes}{activation}" if activation else "", "class" if of_classes else "output"
        rows = [f"| {number} | {name} |" for number, name in enumerate(names)]
        title = f"## Outputs\n\nA channel for each {kind}, {what}{last}:\n"
        return "\n".join([title, f"| channel | {kind} |", "|---|---|", *rows])

    def _limits(self) -> str:
        origin = f" and from what `{self._start}` had learnt" if self._start else " alone"
        pretrained = (
            "- The loss of pretraining says nothing about any task's accuracy, and losses of different stages cannot "
            "be compared."
        )
        lines = [
            "## Bias, risks and limitations",
            "",
            "- Not a diagnostic device: nothing here was tested in clinical use.",
            *([] if self.run.output.names else [pretrained]),
            f"- Learnt from the images above{origin}: not for other modalities, projections, scanners or ages.",
            f"- {self.release.bias()}",
        ]
        if initial := [name for exported in self.exports.values() for name in exported.initial]:
            names = ", ".join(f"`{name}`" for name in initial)
            lines.append(f"- Not trained (timm's initial values), as they come after the feature pyramid: {names}.")
        if (self.decoder or self.run.output.names) and self.run.output.remark:
            lines.append(f"- {self.run.output.remark}")
        if not self.decoder and not self.run.output.names:
            behind = self.run.tensors.decoder is None and any(stage.decoder for stage in self.run.stages)
            why = "trained behind modules that are not exported" if behind else "no stage up to this one trained it"
            lines.append(f"- No decoder: {why}.")
        return "\n".join(lines)
