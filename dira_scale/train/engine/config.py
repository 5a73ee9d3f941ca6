"""The keys that every task has, and those of optimizers, apart from what uses them: reading these needs no torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Annotated, Any

from omegaconf import MISSING, DictConfig

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Within
from dira_scale.base.config.schema import Schema, one_of, path_field, setting, several
from dira_scale.train.distributed.config import AUTO, PRECISIONS, Parallel

PLATEAU = "plateau"  # a schedule
RUN = "run"  # a span of schedules
PATCH_EMBEDDING = re.compile(r"\.(patch_)?embed\.")  # in the name of a parameter, timm's or that of ``vit3d``
BLOCK = re.compile(r".*?\.\d+\.")  # the name of a block, in that of a parameter
NONE, TENSORBOARD, WANDB, MLFLOW = TRACKERS = "none", "tensorboard", "wandb", "mlflow"


@dataclass
class CheckpointConfig(Schema):
    every: int = setting(AtLeast(1))
    keep: int = setting(AtLeast(1))
    folder: str | None = path_field(None)


@dataclass
class Profile(Schema):
    steps: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.span()

    def span(self) -> tuple[int, int] | None:
        """The step after which, and up to which, is profiled."""
        if self.steps is None:
            return None
        first, last = (int(number) if number.isdecimal() else -1 for number in f"{self.steps}:".split(":")[:2])
        if not 0 <= first < last or self.steps != f"{first}:{last}":
            raise ArgumentError("steps", self.steps, "FIRST:LAST, two numbers of steps such as 100:105, or null")
        return first, last


@dataclass
class Training(Schema):
    """The configuration keys that every task has."""

    run: str = path_field()
    seed: int = setting(AtLeast(0))
    steps: int | None = setting(AtLeast(1), None)
    precision: str = setting(one_of(AUTO, *PRECISIONS))
    parallel: Parallel = field(default_factory=Parallel)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    watchdog: float = setting(AtLeast(1))
    log_every: int = setting(AtLeast(1))
    tracker: str = setting(one_of(*TRACKERS), TENSORBOARD)
    profile: Profile = field(default_factory=Profile)

    def keep(self, config: DictConfig, before: Mapping[str, Any]) -> None:
        """Take over what ``auto`` of a task's own keys stood for when the run began, as ``before`` recorded; ``config``
        gets what was written then."""


@dataclass
class Optim(Schema):
    optimizer: dict[str, Any] = MISSING
    one_dimensional: dict[str, Any] = MISSING
    fixed_rate: list[str] = MISSING
    reference_batch: int | None = setting(AtLeast(1), None)
    schedule: str = setting(one_of("cosine_epoch", "cosine", "constant", "step", PLATEAU))
    span: str = setting(one_of("stage", RUN))
    warmup_epochs: float = setting(AtLeast(0))
    end: float = setting(Within(0, 1))
    factor: float = setting(Above(0, 1))
    patience: int = setting(AtLeast(0))
    step_epochs: Any = setting(several(Annotated[float, Above(0)]))
    clip: float | None = setting(Above(0), None)
    weight_decay_end: float | None = setting(AtLeast(0), None)
    layer_decay: float | None = setting(Above(0, 1), None)
    patch_factor: float | None = setting(Above(0, 1), None)

    def __post_init__(self) -> None:
        """Raises ArgumentError for a schedule on the loss over several stages, of which each has a loss of its own."""
        super().__post_init__()
        if self.span == RUN and self.schedule == PLATEAU:
            raise ArgumentError(
                "span", RUN, f"stage: schedule {PLATEAU} starts again in each; cosine can be of the whole run"
            )

    def factors(self, names: Sequence[str]) -> Mapping[str, float]:
        """Return by what the rates of some parameters, in the network's order, are multiplied; others keep theirs: the
        encoder's blocks by ``layer_decay``, once more for each block from the last to the first (Clark et al., ELECTRA,
        2020; BEiT), but not what is behind the last, and a transformer's patch embedding by ``patch_factor``, too
        (DINOv2's code)."""
        decay, patch = self.layer_decay or 1, self.patch_factor or 1
        if decay == patch == 1:
            return {}
        depths, blocks = depths_of(names)
        return {
            name: decay ** (blocks + 1 - depth) * (patch if PATCH_EMBEDDING.search(name) else 1)
            for name, depth in depths.items()
        }


def depths_of(names: Sequence[str]) -> tuple[dict[str, int], int]:
    """Return the number of the block, from 1, that each of an encoder's parameters is of, and how many blocks there
    are; 0 before the first, one more behind the last, as a transformer's final norm.

    A block is what shares a name up to its first number; what has none is of the block before it, and DINOv2's mask
    token, which comes before the encoder, of the patches. The layers that make a pyramid of a transformer's maps count
    as the decoder's.

    ``names``: of all of a network's parameters, in its order.
    """
    depths, blocks = dict[str, int](), set[str]()
    for name in (name for name in names if re.match(r"(base\.)*(encoder\.(?!pyramid\.)|mask_token$)", name)):
        if match := BLOCK.match(name):
            blocks.add(match[0])
        depths[name] = len(blocks)
    for name in takewhile(lambda name: blocks and not BLOCK.match(name), reversed(depths)):
        depths[name] += 1
    return depths, len(blocks)
