"""A trainable command's configuration, made real: on a device to train, on ``meta`` where a sweep looks at it before it
starts anything, on fake tensors where a run is planned."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dira_scale.base.errors import UserError
from dira_scale.commands import COMMANDS
from dira_scale.train.data.distort import Distort, DistortVolumes, build
from dira_scale.train.data.views import Views, ViewSpec
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.task import StepTask, Task
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.exit_codes import DONE
from dira_scale.train.schedule import check_division, stage_plans
from dira_scale.train.shapes import Shapes

if TYPE_CHECKING:
    from dira_scale.train.engine.run import Train

Networks = tuple[nn.Module, ...]
MakeDistort = Callable[[Views], Distort | DistortVolumes]
_without_memory: dict[tuple[type, str], Networks] = {}  # of configurations that were checked
MOST = 64  # of them


class Blueprint(ABC):
    """The plan of a trainable command, by its configuration alone; one class a command, named by its row.

    Attributes:
        command: its name.
        cfg: the composed configuration, without interpolations.
        config: the same as the object of its schema.
    """

    command: ClassVar[str]

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.config: Any = OmegaConf.to_object(cfg)

    @cached_property
    @abstractmethod
    def views(self) -> ViewSpec:
        """The views of training. Raises UserError if they are invalid."""

    @property
    @abstractmethod
    def shapes(self) -> Shapes:
        """The shapes of what a loader would return."""

    @abstractmethod
    def networks(self) -> Networks:
        """Return the networks with random weights on torch's default device; the first is the one that is trained.

        Raises UserError naming the key.
        """

    @property
    @abstractmethod
    def nodes(self) -> Mapping[str, Any]:
        """The part of the configuration by which :meth:`networks` differ, ready for JSON."""

    @abstractmethod
    def step(self, world: World, networks: Networks, distort: MakeDistort = build) -> StepTask:
        """Return the step of training ``networks``. ``distort`` makes the module that distorts views."""

    @abstractmethod
    def try_stages(self, networks: Networks) -> None:
        """Raise UserError for a stage that cannot be trained as configured, with its batch and the optimizer."""

    @abstractmethod
    def task(self, world: World) -> Task:
        """Open the data and return what is trained on it. Collective. Raises UserError on all processes."""

    @abstractmethod
    def described(self, config: Mapping[str, Any]) -> Description:
        """Return the description of a run with this configuration, composed or recorded."""

    def describe(self) -> Description:
        """Return the description of a run before it has trained."""
        config: Any = OmegaConf.to_container(self.cfg)
        return self.described(config)

    def buffers(self, task: StepTask) -> Sequence[Tensor]:
        """Return the tensors that a step keeps on the device beside its networks."""
        return ()

    def remarks(self, networks: Networks) -> Sequence[str]:
        """Return what users should know about the stages' batches, a line each."""
        return ()

    def before(self, world: World, train: "Train") -> int:
        """Train, by ``train``, the runs by which this one is configured, and return the exit code. Collective."""
        return DONE

    def refuse(self) -> None:  # noqa: B027  (most have none)
        """Raise UserError for keys that do not fit each other, found without networks."""

    def check(self, ranks: int) -> None:
        """Raise UserError for what training on ``ranks`` processes would refuse before it looks at data.

        Configurations that differ in batches, rates and lengths alone share their networks, which have no memory.
        """
        check_division(self.config, ranks)
        stage_plans(self.config, lambda _: 1)
        self.refuse()
        key = type(self), json.dumps(self.nodes, sort_keys=True)
        with suppress(RuntimeError), torch.device("meta"):  # of a user's own network that needs memory
            if key not in _without_memory:
                if len(_without_memory) >= MOST:
                    _without_memory.clear()
                _without_memory[key] = self.networks()
            self.try_stages(_without_memory[key])


def in_stage(name: str, error: UserError) -> UserError:
    """Return ``error`` with the name of the stage before it."""
    return UserError(f"stage {name}: {error}")


def blueprint_of(command: str, cfg: DictConfig) -> Blueprint:
    """Return the blueprint of a trainable command, of its composed configuration."""
    blueprint = resolve_name(COMMANDS[command].blueprint)(cfg)
    assert isinstance(blueprint, Blueprint)
    return blueprint
