"""``description.json``: what a task says of its run. Who reads a run knows its task by this alone. Imports no torch.

A task writes it when its run begins (``Task.describe``). Of a run that is only planned, the verb derives it from the
configuration (``Blueprint.describe``).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dira_scale.errors import UserError
from dira_scale.runs.complete import config_file
from dira_scale.runs.files import MOST_JSON, parse_json, read_text
from dira_scale.runs.shape import CHANNELS, SIDE, STEP, VIEW, Shape, Within
from dira_scale.storage.store import is_local

if TYPE_CHECKING:
    from dira_scale.data.manifest import DatasetInfo

FILE = "description.json"
FORMAT = 2
REPAIR = "restore the file, or move it away and call the command that has trained the run again, which writes it"


@dataclass(frozen=True)
class Network:
    """What was trained.

    Attributes:
        architecture: the node ``model`` of the configuration: ``_target_`` and its arguments. Empty: not one of these.
        name: what tables and cards call it.
        dimensions: of an image: 2 or 3.
        channels: that its first layer takes; an image of one channel is repeated.
        start: the weights that it started from, a path; None: random ones.
        licence: of these weights, which apply to this run's, too; None: unknown, or random ones.
        head: ``dense``: an output at each pixel; ``pooled``: one for the whole image.
    """

    architecture: Mapping[str, Any]
    name: str
    dimensions: Annotated[int, Within(2, 3)]
    channels: CHANNELS
    start: str | None = None
    licence: str | None = None
    head: Literal["dense", "pooled"] = "dense"


@dataclass(frozen=True)
class Input:
    """How an image becomes the network's input.

    Attributes:
        size: in pixels, or voxels.
        channels: of the image.
        window: of the stored values (in CT, Hounsfield units): its ends become 0 and 1. None: each image's own, which
            are ``low`` and ``high`` of its row in the manifest.
        mean, deviation: by channel, which then normalise it; empty: it stays in [0, 1].
    """

    size: Annotated[tuple[SIDE, ...], Within(1, 3)]
    channels: CHANNELS = 1
    window: Annotated[tuple[float, ...], Within(2, 2)] | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @property
    def sides(self) -> int | tuple[int, ...]:
        """As training gives it to an architecture: of a square image one number."""
        return self.size[0] if len(self.size) == 2 and len({*self.size}) == 1 else self.size


@dataclass(frozen=True)
class Dataset:
    """One that the run was trained on.

    Attributes:
        path: where the run read it.
        hash: of its content.
        weight: how often its samples are used in an epoch.
        name, modality, licence, samples (by split), lists (that decided splits): of its dataset.json; None: unknown.
    """

    path: str
    hash: str
    weight: float = 1.0
    name: str | None = None
    modality: str | None = None
    licence: str | None = None
    samples: Mapping[str, int] | None = None
    lists: str | None = None

    def known(self, info: "DatasetInfo") -> "Dataset":
        """With what ``info`` says."""
        return replace(
            self, name=info.name, modality=info.modality, licence=info.licence, samples=info.counts,
            lists=info.split_remark,
        )  # fmt: skip

    def at(self, root: Path) -> "Dataset":
        """As it is found from any working directory. Pages and cards show the last part alone."""
        return replace(self, path=str(root.absolute() if is_local(root) else root))


@dataclass(frozen=True)
class Data:
    """What the run was trained on.

    Attributes:
        split: that trains.
        held_out_split: None without validation.
        held_out: samples of a validation, at most; None: all of the split.
    """

    datasets: tuple[Dataset, ...]
    split: str
    held_out_split: str | None = None
    held_out: STEP | None = None


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        terms: of the loss.
        epochs: as planned.
        decoder: whether it trains a decoder.
    """

    name: str
    terms: tuple[str, ...]
    epochs: float
    decoder: bool = False


@dataclass(frozen=True)
class Term:
    """A part ``loss/NAME`` of the loss. ``meaning``: a line for readers; empty if no stage names the term."""

    title: str
    meaning: str = ""


@dataclass(frozen=True)
class Metric:
    """A figure of ``metrics.jsonl`` by which runs are judged.

    ``direction``: of better ones. ``term``: the loss term whose success it measures; None: of all.
    """

    title: str
    direction: Literal["min", "max"]
    term: str | None = None


@dataclass(frozen=True)
class Tensors:
    """Prefixes of names in a checkpoint; None: there is no such part. Export writes encoder, decoder and head.

    ``momentum``: the encoder that follows ``encoder``. ``side``: small modules beside the trained one.
    """

    module: str
    optimizer: str
    encoder: str | None = None
    decoder: str | None = None
    head: str | None = None
    momentum: str | None = None
    side: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """What the head's output means.

    Attributes:
        activation: that follows it; None: nothing does.
        scale: what it is to be divided by.
        remark: a sentence for cards.
        names: of the classes or numbers, one for each of the head's channels; empty: it has one channel, an image.
        normalised: of numbers, mean and deviation for each channel: a number is output x deviation + mean.
    """

    activation: Literal["sigmoid", "softmax"] | None = None
    scale: float = 1.0
    remark: str = ""
    names: tuple[str, ...] = ()
    normalised: tuple[Annotated[tuple[float, ...], Within(2, 2)], ...] = ()

    @property
    def channels(self) -> int:
        """The channels of the head."""
        return len(self.names) or 1


@dataclass(frozen=True)
class Description:
    """A run.

    Attributes:
        verb: the command that has trained it.
        title: what the run is; code in backticks.
        trained: what was done to the network; completes "weights of a network …".
        training: how: lines of a card, Markdown.
        terms, metrics: by name.
        best: the metric that decides which checkpoint is BEST.
        execution: keys and sections of the configuration without effect on the result.
        unit: what throughput counts: metrics.jsonl has ``UNIT_per_second``.
        enough_steps: optimizer steps in which such a run was seen to learn.
        monitor_every: steps between two rows with expensive monitors.
        format: of this file.
    """

    verb: str
    title: str
    trained: str
    network: Network
    input: Input
    data: Data
    stages: Annotated[tuple[Stage, ...], Within(1, 1000)]
    terms: Mapping[str, Term]
    metrics: Mapping[str, Metric]
    best: str
    output: Output
    tensors: Tensors
    execution: tuple[str, ...]
    unit: str
    training: tuple[str, ...] = ()
    enough_steps: STEP | None = None
    monitor_every: STEP | None = None
    format: int = FORMAT

    @property
    def rate(self) -> str:
        """The name of the throughput in ``metrics.jsonl``."""
        return f"{self.unit}_per_second"

    def stage(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def trains_head(self, last: str | None = None) -> bool:
        """Whether there is one after the stages up to the ``last``: a classifier has it from the start."""
        return self.network.head == "pooled" or self.trains_decoder(last)

    def trains_decoder(self, last: str | None = None) -> bool:
        """Whether one of the stages up to the ``last`` does; of all by default."""
        names = [stage.name for stage in self.stages]
        return any(stage.decoder for stage in self.stages[: names.index(last) + 1 if last else None])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_description(run: Path) -> Description:
    """Read the description of the run in folder ``run``.

    Raises:
        UserError: there is no run, or its description is missing or damaged; names file and key.
    """
    config_file(run)
    path = run / FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: restore it, or call the command again that has trained the run")
    try:
        content = parse_json(read_text(path, MOST_JSON))
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise UserError(f"format {content['format']}, this dira_scale reads {FORMAT}: use the one that wrote it")
        result = Shape(REPAIR).of(Description, content)
        assert isinstance(result, Description)
        _require_fitting(result)
    except (ValueError, RecursionError, UserError) as error:
        raise UserError(f"{path}: {error}") from error
    return result


def _require_fitting(run: Description) -> None:
    """Raise UserError unless what one part names is in the other, and sizes are of images that this package reads."""
    size, dimensions = run.input.size, run.network.dimensions
    if run.network.architecture and len(size) != dimensions:
        raise UserError(f"input.size is {[*size]}, which is no size of {dimensions} dimensions; {REPAIR}")
    if math.prod(size) > VIEW:
        raise UserError(f"input.size is {[*size]}, and views have at most {VIEW:,} pixels; {REPAIR}")
    named = [term for stage in run.stages for term in stage.terms]
    if (count := len(run.output.normalised)) not in (0, len(run.output.names)):
        raise UserError(f"output.normalised has {count} entries, and output.names {len(run.output.names)}; {REPAIR}")
    if unknown := sorted({*named} - {*run.terms}):
        raise UserError(f"terms.{unknown[0]} is missing; {REPAIR}")
