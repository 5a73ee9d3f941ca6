"""The parts of a checkpoint beside the module: the run's state and the side modules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from dira_scale.train.engine import optim
from dira_scale.train.engine.config import Optim
from dira_scale.train.engine.parallel.model import MODULE, OPTIMIZER
from dira_scale.train.engine.task import SideModule, Task
from dira_scale.train.models.momentum import local_shard, local_start
from dira_scale.train.runs.checkpoint import DamagedError, StoredTensors
from dira_scale.train.runs.description import Tensors

T = TypeVar("T")
THRESHOLD = 1e-4  # by which share a loss must be lower not to be on a plateau (torch's default)


@dataclass
class RunState:
    step: int = 0  # optimizer steps taken
    stage: int = 0  # index of the stage
    stage_start: int = 0  # step at which it began
    order_start: int = 0  # step in the stage's data order at which it began
    epochs: float = 0.0  # epochs before the stage
    best: dict[str, float] = field(default_factory=dict)  # best held-out figure (``Best.metric``) by stage
    best_step: dict[str, int] = field(default_factory=dict)  # the step of that checkpoint
    average: float | None = None  # of the stage's held-out figures (``Best.average``)
    stale: int = 0  # epochs since the stage's best held-out figure
    lowest_loss: float | None = None  # the stage's, held out, as ``optim.schedule=plateau`` compares them
    bad_epochs: int = 0  # since then, or since the rate fell
    rate_factor: float = 1.0  # of all scheduled rates, that plateau has reached
    loss_scale: float | None = None  # of fp16
    loss_scale_sound: int = 0  # steps since it last changed

    def averaged(self, value: float, weight: float) -> float:
        """Return the moving average with the held-out figure of this step, in which the one before has ``weight``."""
        self.average = value if self.average is None else weight * self.average + (1 - weight) * value
        return self.average

    def improve(self, stage: str, value: float, epochs: int, direction: Literal["min", "max"] = "min") -> bool:
        """Note the held-out figure of this step, ``epochs`` after the one before; returns whether it is the stage's
        best so far."""
        sign = 1 if direction == "min" else -1
        improved = sign * value < sign * self.best.get(stage, sign * math.inf)
        self.stale = 0 if improved else self.stale + epochs
        if improved:
            self.best[stage], self.best_step[stage] = value, self.step
        return improved

    def reduce_on_plateau(self, loss: float, epochs: int, config: Optim) -> None:
        """Note the held-out ``loss`` of this step, ``epochs`` after the one before, for ``optim.schedule=plateau``.

        As torch's ReduceLROnPlateau, with its relative threshold.
        """
        if self.lowest_loss is None or loss < self.lowest_loss * (1 - THRESHOLD):
            self.lowest_loss, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += epochs
        if self.bad_epochs > config.patience:
            self.rate_factor, self.bad_epochs = max(self.rate_factor * config.factor, config.end), 0

    def advance(self, steps: int, per_epoch: int) -> None:
        """Go on to the next stage after ``steps`` of this one, whose schedule and best figures are its own."""
        self.epochs += steps / per_epoch
        self.stage, self.stage_start, self.stale = self.stage + 1, self.step, 0
        self.average, self.lowest_loss, self.bad_epochs, self.rate_factor = None, None, 0, 1.0


def side_module_tensors(side_modules: Sequence[SideModule]) -> dict[str, Tensor]:
    """The side modules and their optimizers' states, by their names in a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for side in side_modules:
        tensors |= {f"{side.name}.{name}": tensor for name, tensor in side.module.state_dict().items()}
        tensors |= optim.state_by_name(side.optimizer, side.module, f"optim.{side.name}")
    return tensors


def stored(tensors: Mapping[str, T], names: Tensors) -> dict[str, T]:
    """A stage model's ``tensors`` by their names in a checkpoint."""
    prefixes = {MODULE: names.module, OPTIMIZER: names.optimizer}
    parts = ((name.partition("."), tensor) for name, tensor in tensors.items())
    return {f"{prefixes[prefix]}.{rest}": tensor for (prefix, _, rest), tensor in parts}


@torch.no_grad()
def restore(found: StoredTensors, module: nn.Module, task: Task) -> None:
    """Load a checkpoint's tensors into the task's ``module``, as far as this process holds it, and the side modules.

    The module's optimizer is created with each stage, over the parameters that the stage trains, and loads its own
    (:meth:`StageModel.load`).

    Raises DamagedError if the checkpoint is of other tensors.
    """
    _fill(module, f"{task.tensors.module}.", found)
    for side in task.side_modules:
        _fill(side.module, f"{side.name}.", found)
        optim.load_by_name(side.optimizer, side.module, f"optim.{side.name}", found)


def _fill(module: nn.Module, prefix: str, found: StoredTensors) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in module.state_dict(keep_vars=True).items()}
    stored = {name: tensor.shape for name, tensor in found.tensors.items() if name.startswith(prefix)}
    if differing := sorted(stored.items() ^ {name: tensor.shape for name, tensor in state.items()}.items()):
        raise DamagedError(f"the checkpoint has not the tensors of this task's module: {differing[0][0]} differs")
    for name in stored:  # in the order of its file
        part = local_shard(state[name])
        part.copy_(found.part_of(name, part, local_start(state[name])))
