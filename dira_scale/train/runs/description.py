"""``description.json``: what a task says of its run. Who reads a run knows its task by this alone. Imports no torch.

A task writes it when its run begins (``Task.describe``). Of a run that is only planned, the command derives it from the
configuration (``Blueprint.describe``).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

from dira_scale.base.arguments import Length, Within
from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import is_local
from dira_scale.train.runs.complete import config_file
from dira_scale.train.runs.files import MOST_JSON, parse_json, read_text
from dira_scale.train.runs.shape import CHANNELS, SIDE, STEP, VIEW, shaped

if TYPE_CHECKING:
    from dira_scale.dataset.manifest import DatasetInfo

FILE = "description.json"
CHOSEN_RATE = "rate chosen: "  # begins a line of ``Description.training``
FORMAT = 3
REPAIR = "restore the file, or move it away and call the command that has trained the run again, which writes it"


class Best(NamedTuple):
    """The figure of held-out rows by which checkpoints of a stage are compared, which of its values are better, and the
    weight of what came before in its moving average over validations; 0: the figure itself."""

    metric: str = "loss"
    direction: Literal["min", "max"] = "min"
    average: float = 0.0

    @property
    def compared(self) -> str:
        """The name of what is compared in held-out rows."""
        return f"{self.metric}_average" if self.average else self.metric


@dataclass(frozen=True)
class NetworkDescription:
    architecture: Mapping[str, Any]  # the node ``model`` of the configuration; empty: the task has no such node
    name: str  # what tables and cards call it
    dimensions: Annotated[int, Within(2, 3)]  # of an image
    channels: CHANNELS  # that its first layer takes; an image of one channel is repeated
    start: str | None = None  # the weights that it started from, a path; None: random ones
    licence: str | None = None  # of these weights, which apply to this run's, too; None: unknown, or random ones
    # An output at each pixel, of a decoder's map or linear in the encoder's; or one for the whole image.
    head: Literal["dense", "linear", "fcn", "pooled"] = "dense"


@dataclass(frozen=True)
class InputDescription:
    """The conversion of an image to the network's input.

    The ends of the ``window`` of stored values (in CT, Hounsfield units) become 0 and 1; where it is None, ``low`` and
    ``high`` of the image's row in the manifest do. ``mean`` and ``deviation``, by channel, then normalise the image; it
    stays in [0, 1] where they are empty.
    """

    size: Annotated[tuple[SIDE, ...], Length(1, 3)]  # in pixels, or voxels
    channels: CHANNELS = 1  # of the image
    window: Annotated[tuple[float, ...], Length(2)] | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @property
    def sides(self) -> int | tuple[int, ...]:
        """The size as training gives it to an architecture: one number for a square image."""
        return self.size[0] if len(self.size) == 2 and len({*self.size}) == 1 else self.size


# By what the key ``normalise`` may be: of ImageNet, by channel (red, green, blue), which its weights and DINO's expect;
# of RAD-DINO's radiographs (preprocessor_config.json).
NORMALISATIONS: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)},
    "rad_dino": {"mean": (0.5307,) * 3, "deviation": (0.2583,) * 3},
}


@dataclass(frozen=True)
class Dataset:
    """A dataset that the run was trained on. What is None is not known."""

    path: str  # where the run read it
    hash: str  # of its content
    weight: float = 1.0  # how often its samples are used in an epoch
    name: str | None = None  # this and what follows are from its dataset.json
    modality: str | None = None
    licence: str | None = None
    samples: Mapping[str, int] | None = None  # by split
    lists: str | None = None  # that decided splits
    channels: tuple[str, ...] = ()  # their names, of several
    colour: bool = False  # images are red, green and blue

    def known(self, info: "DatasetInfo") -> "Dataset":
        return replace(
            self, name=info.name, modality=info.modality, licence=info.licence, samples=info.counts,
            lists=info.split_remark, channels=tuple(info.channels), colour=info.in_colour,
        )  # fmt: skip

    def at(self, root: Path) -> "Dataset":
        """Return this with a path that is valid in any working directory. Pages and cards show the last part alone."""
        return replace(self, path=str(root.absolute() if is_local(root) else root))


@dataclass(frozen=True)
class DataDescription:
    datasets: tuple[Dataset, ...]
    split: str  # that trains
    held_out_split: str | None = None  # None without validation
    held_out: STEP | None = None  # samples of a validation, at most; None: all of the split

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels of all datasets that have names; empty if none does."""
        return next((dataset.channels for dataset in self.datasets if dataset.channels), ())


@dataclass(frozen=True)
class StageDescription:
    name: str
    terms: tuple[str, ...]  # of the loss
    epochs: float  # as planned
    decoder: bool = False  # whether it trains a decoder


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
    """Prefixes of names in a checkpoint; None: there is no such part, or none of use without the method. Export writes
    encoder, decoder and head.

    ``momentum``: the encoder that follows ``encoder``. ``side``: small modules beside the trained one.
    """

    module: str
    optimizer: str
    encoder: str | None = None
    decoder: str | None = None
    head: str | None = None
    momentum: str | None = None
    side: tuple[str, ...] = ()


PRODUCTS: Final = "products of sigmoids"  # an activation: of the first, of two, …


@dataclass(frozen=True)
class Output:
    """The meaning of the head's output.

    ``names`` are of the classes or numbers, one for each of the head's channels; empty: it is an image of ``restored``
    channels.
    ``normalised`` has mean and deviation for each channel of numbers: a number is output x deviation + mean.
    """

    activation: Literal["sigmoid", "softmax", "products of sigmoids"] | None = None  # that follows it
    scale: float = 1.0  # what it is to be divided by
    remark: str = ""  # a sentence for cards
    names: tuple[str, ...] = ()
    normalised: tuple[Annotated[tuple[float, ...], Length(2)], ...] = ()
    restored: CHANNELS = 1

    @property
    def of_classes(self) -> bool:
        """Return whether each channel is the probability of a class or label."""
        return self.activation in ("sigmoid", "softmax")

    @property
    def channels(self) -> int:
        return len(self.names) or self.restored


@dataclass(frozen=True)
class Description:
    """A run.

    Attributes:
        command: the command that has trained it.
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

    command: str
    title: str
    trained: str
    network: NetworkDescription
    input: InputDescription
    data: DataDescription
    stages: Annotated[tuple[StageDescription, ...], Length(1, 1000)]
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

    def stage(self, name: str) -> StageDescription | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def trains_head(self, last: str | None = None) -> bool:
        """Return whether the stages up to ``last`` leave a head: without a decoder, it is there from the start."""
        return self.network.head != "dense" or self.trains_decoder(last)

    def trains_decoder(self, last: str | None = None) -> bool:
        """Return whether a stage up to ``last``, by default any, trains a decoder that is of use by itself."""
        names = [stage.name for stage in self.stages]
        return self.tensors.decoder is not None and any(
            stage.decoder for stage in self.stages[: names.index(last) + 1 if last else None]
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_description(run: Path) -> Description:
    """Read the description of the run in folder ``run``.

    Raises UserError, which names file and key, if there is no run, or its description is missing or damaged.
    """
    config_file(run)
    path = run / FILE
    if not path.is_file():
        raise UserError(f"{path} is missing: restore it, or call the command again that has trained the run")
    try:
        content = parse_json(read_text(path, MOST_JSON))
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise UserError(f"format {content['format']}, this dira_scale reads {FORMAT}: use the one that wrote it")
        result = shaped(Description, content, REPAIR)
        assert isinstance(result, Description)
        size, dimensions = result.input.size, result.network.dimensions
        if result.network.architecture and len(size) != dimensions:
            raise UserError(f"input.size is {[*size]}, which is no size of {dimensions} dimensions; {REPAIR}")
        if math.prod(size) > VIEW:
            raise UserError(f"input.size is {[*size]}, and views have at most {VIEW:,} pixels; {REPAIR}")
        names, count = len(result.output.names), len(result.output.normalised)
        if count not in (0, names):
            raise UserError(f"output.normalised has {count} entries, and output.names {names}; {REPAIR}")
        if unknown := sorted({term for stage in result.stages for term in stage.terms} - {*result.terms}):
            raise UserError(f"terms.{unknown[0]} is missing; {REPAIR}")
    except (ValueError, RecursionError, UserError) as error:
        raise UserError(f"{path}: {error}") from error
    return result
