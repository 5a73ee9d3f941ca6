"""A fine-tuned network with all that predicting needs to know of it, from its run or from its export."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import torch
import xxhash
from torch import Tensor

from dira_scale.base.arguments import Length, Within
from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.info import in_colour
from dira_scale.dataset.metrics.figure import number
from dira_scale.judge.evaluation.config import Evaluate, require_finetuned
from dira_scale.judge.evaluation.inference import held_out_crops
from dira_scale.judge.evaluation.results import ByLabel, read_results
from dira_scale.judge.tasks.task import Chosen, Supervision, TaskConfig, task_of
from dira_scale.train.data.config import as_stored
from dira_scale.train.data.geometry.fixed import FixedCrop
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.sizes import SmallError, require_fit
from dira_scale.train.data.views import ViewSpec, fixed_views
from dira_scale.train.distributed.precision import autocast, choose, set_fp32
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.memory_limit import as_large_as
from dira_scale.train.models.network import Network, moved
from dira_scale.train.models.normalise import input_of, normalised
from dira_scale.train.models.tensor_files import read_tensors
from dira_scale.train.runs.files import read_json
from dira_scale.train.runs.reader import RunReader
from dira_scale.train.runs.shape import CHANNELS, SIDE, STEP, VIEW, shaped

FILE, WEIGHTS = "predict.json", "plain_network.safetensors"  # of an export
MILLIMETRES = Within(0.05, 50)
REPAIR = "export the run again"


class StoredAs(TypedDict, total=False):
    """The arguments of ``Stored.seen``."""

    spacing: Annotated[float, MILLIMETRES] | Annotated[list[Annotated[float, MILLIMETRES]], Length(1, 3)]
    range: Annotated[list[Annotated[float, Within(-(2**15), 2**16)]], Length(2)]
    pad: bool


class NetworkFacts(TypedDict):
    """``predict.json``. ``task``, its ``facts`` and ``model`` are checked by their classes, ``conversion`` where it is
    used."""

    network: str
    stage: str
    step: STEP
    model: dict[str, Any]
    channels: CHANNELS | None
    channel_names: NotRequired[list[str]]
    task: dict[str, Any]
    facts: dict[str, Any]
    size: Annotated[list[SIDE], Length(2, 3)]
    stored: StoredAs
    normalise: Literal["none", "imagenet", "rad_dino"]
    evaluate: dict[str, Any]
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"]
    conversion: dict[str, Any] | None
    thresholds: ByLabel | None
    temperatures: dict[str, float] | None
    calibrated_thresholds: ByLabel | None


@dataclass(frozen=True)
class TrainedRun:
    """Attributes:
    network: in evaluation mode, on the CPU.
    about: what :func:`about_run` says.
    """

    network: Network
    about: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> "TrainedRun":
        """Read a run or an export. Raises UserError if it is neither, or not fine-tuned."""
        if (folder / "README.md").is_file() and not (folder / "config.yaml").is_file():  # an export
            if not ((folder / FILE).is_file() and (folder / WEIGHTS).is_file()):
                raise UserError(
                    f"run={folder} has no {FILE} and {WEIGHTS}: export a fine-tuned run with formats=plain, or name "
                    "the run"
                )
            with at("run"):
                state = read_tensors(folder / WEIGHTS)
            # As hf download leaves an export, its files are links into the Hub's cache.
            about: dict[str, Any] = read_json((folder / FILE).resolve(), {}, NetworkFacts)
        else:
            reader = RunReader(folder)
            tensors, saved, stage = reader.load(None)
            prefix = f"{reader.description.tensors.module}."
            about = about_run(reader, stage, saved["step"])
            state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        try:
            return cls(_network(about, state), about)
        except UserError as error:
            raise UserError(f"run={folder}: {error}") from error

    @property
    def task(self) -> TaskConfig:
        return task_of(self.about["task"])

    @property
    def supervision(self) -> Supervision:
        return _supervision(self.about)

    @property
    def chosen(self) -> Chosen:
        """The thresholds and temperatures that were chosen on the run's validation split."""
        names = "thresholds", "temperatures", "calibrated_thresholds"
        by_label = {name: self.about[name] for name in names if self.about[name] is not None}
        return Chosen(**{name: {label: number(v) for label, v in values.items()} for name, values in by_label.items()})

    @property
    def channels(self) -> int:
        """The channels of an image that has more than one."""
        return int(self.network.encoder.channels[0])

    @property
    def colour(self) -> bool:
        """Return whether the run is known to have learned from images in colour."""
        return in_colour(self.about.get("conversion") or {})

    def require_channels(self, dataset: ShardedDataset, splits: Sequence[str]) -> None:
        """Raise UserError unless it takes the channels of these images."""
        names = self.about.get("channel_names", [])
        dataset.require_channels(splits, self.channels, names, f"the network {self.about['network']}", self.colour)

    def require_fit(self, samples: Samples) -> None:
        """Raise UserError unless all ``samples`` are as its views need them."""
        try:
            require_fit(samples, self.views)
        except SmallError as error:
            larger = "name a dataset of larger volumes, or fine-tune with data.pad=true"
            raise UserError(f"{error.why}: {larger}") from error

    @property
    def hash(self) -> str:
        """The hash of the weights."""
        digest = xxhash.xxh3_64()
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def size(self) -> tuple[int, ...]:
        """The size of what was trained on."""
        return tuple(self.about["size"])

    @property
    def stored(self) -> Mapping[str, Any]:
        """The arguments of ``Stored.seen`` with which images were seen."""
        return self.about["stored"]

    @property
    def window(self) -> str:
        """By which the masks of the run were evaluated."""
        return _evaluate(self.about).window_of(len(self.size))

    @property
    def crops(self) -> tuple[FixedCrop, ...]:
        """The crops of a test image whose predictions are averaged."""
        evaluate = _evaluate(self.about)
        return held_out_crops(self.size, evaluate.crops, evaluate.share)

    @property
    def views(self) -> ViewSpec:
        size = self.size if len(self.size) == 3 else self.size[0]
        return fixed_views(size, self.crops, **self.stored)

    def faster_last(self, device: torch.device) -> bool:
        """Return whether the convolutions are faster channels last: those of images on a GPU, as in training."""
        return device.type == "cuda" and len(self.size) == 2

    def predictor(self, device: torch.device, channels_last: bool | None = False) -> Callable[[Tensor], Tensor]:
        """The network on ``device``, as it was evaluated: of images [b, C, *size] in [0, 1] what it predicts, there.

        ``channels_last``: as of :func:`moved`; a network of images on a GPU is, if it is not None.
        """
        layout = None if channels_last is None else channels_last or self.faster_last(device)
        network, supervision = moved(self.network, device, layout), self.supervision
        precision, input = choose(self.about["precision"]), input_of(self.size, self.about["normalise"])
        set_fp32(precision)

        @torch.no_grad()
        def predicted(images: Tensor) -> Tensor:
            with autocast(device, precision):
                return supervision.predicted(network(normalised(images.to(device), input)))

        return predicted


def unfinished(folder: Path, step: int) -> list[str]:
    """A line if the run in ``folder`` has not ended, and weights of this ``step`` are used; empty for an export."""
    if not (folder / "config.yaml").is_file():
        return []
    status = RunReader(folder).status()
    state, steps = status.get("state"), status.get("steps")
    return [] if state == "done" else [f"run={folder} is {state}: its weights are of step {step} of {steps}"]


def about_run(reader: RunReader, stage: str, step: int) -> dict[str, Any]:
    """Describe a fine-tuned run and its checkpoint for an export's ``predict.json``: without paths, ready for JSON.

    ``conversion``: the recipe of its first dataset; None if that is gone. Thresholds and temperatures are there if they
    were chosen for this checkpoint. Raises UserError for another run, and for what cannot be such a file's.
    """
    described, config = reader.description, reader.config
    require_finetuned(str(reader.folder), described)
    if lacking := {"task", "facts", "data", "channels", "normalise", "evaluate", "precision_used"} - config.keys():
        raise UserError(f"run={reader.folder}: its config.yaml has no {min(lacking)}: restore the file")
    repair = "restore its config.yaml"
    data = shaped(Mapping[str, Any], config["data"], repair, "data")
    datasets = [each.info for each in reader.datasets()]
    judged = read_results(reader.folder)
    judged = judged if judged.get("step") == step else {}
    about: dict[str, Any] = {
        "network": reader.folder.resolve().name,
        "stage": stage,
        "step": step,
        "model": {**described.network.architecture} | {"weights": None},
        "channels": config["channels"],
        "channel_names": list(described.data.channels),
        "task": config["task"],
        "facts": config["facts"],
        "size": list(described.input.size),
        "stored": as_stored(data),
        "normalise": config["normalise"],
        "evaluate": config["evaluate"],
        "precision": config["precision_used"],
        "conversion": datasets[0].conversion if datasets and datasets[0] else None,
        "thresholds": judged.get("thresholds"),
        "temperatures": judged.get("temperatures"),
        "calibrated_thresholds": judged.get("calibrated", {}).get("thresholds"),
    }
    shaped(NetworkFacts, about, repair)
    return about


def _network(about: Mapping[str, Any], state: Mapping[str, Tensor]) -> Network:
    """In evaluation mode. Raises UserError for what does not fit together, and before it takes memory."""
    model, size, supervision = architecture(about["model"]), tuple(about["size"]), _supervision(about)
    if len(size) != model.dimensions or math.prod(size) > VIEW:
        raise UserError(f"size is {[*size]}, which is no view of {model.dimensions} dimensions; {REPAIR}")
    for name in ("thresholds", "temperatures", "calibrated_thresholds"):
        if about[name] is not None and (lacking := {*supervision.outputs} - {*about[name]}):
            raise UserError(f"{name}.{min(lacking)} is missing; {REPAIR}")
    _evaluate(about)
    channels = about["channels"] or model.channels
    if (named := about["normalise"]) != "none" and channels != 3:
        raise UserError(f"channels is {channels}, and normalise={named} takes 3; {REPAIR}")
    with as_large_as(state.values(), FILE):
        network = supervision.network(
            model, model.build_encoder(size if len(size) == 3 else size[0], about["channels"])
        )
        network.load_state_dict(state)
    network.eval()
    return network


def _evaluate(about: Mapping[str, Any]) -> Evaluate:
    given = {"window": None, "temperature": False} | about["evaluate"]
    if lacking := {"crops", "share"} - given.keys():
        raise UserError(f"evaluate.{min(lacking)} is missing; {REPAIR}")
    return shaped(Evaluate, given, REPAIR, "evaluate")


def _supervision(about: Mapping[str, Any]) -> Supervision:
    task = task_of(about["task"])
    return task.described(shaped(task.facts, about["facts"], REPAIR, "facts"))
