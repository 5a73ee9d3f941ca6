"""``python regression.py RUN STRATEGY STEPS ACCUMULATE SHARD``: a second task for the engine, a linear regression.

y = w·x + b on fixed numbers, in two stages: first the weights alone, then all. Nothing of it is an image or a method.
"""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from dira_scale.base.termination import leave
from dira_scale.train.distributed.config import AUTO, EXACT, Parallel
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.config import CheckpointConfig, Optim, Training
from dira_scale.train.engine.run import run_task
from dira_scale.train.engine.task import Losses, StagePlan, StagePosition
from dira_scale.train.runs.description import (
    DataDescription,
    Description,
    InputDescription,
    Metric,
    NetworkDescription,
    Output,
    StageDescription,
    Tensors,
    Term,
)
from dira_scale.train.validation import HeldOutValidation

BATCH, EPOCH, FEATURES = 16, 8, 5  # steps an epoch: 128 samples
TRUE = torch.arange(1.0, FEATURES + 1), 0.5
STAGES = (
    StagePlan("weights", BATCH, steps=30, per_epoch=EPOCH, terms=("weight",)),
    StagePlan("all", BATCH, steps=60, per_epoch=EPOCH, terms=("weight", "bias"), patience=100),
)


@dataclass(frozen=True)
class Samples:
    x: Tensor  # [b, FEATURES]
    y: Tensor  # [b]

    def to(self, device: torch.device) -> "Samples":
        return Samples(self.x.to(device), self.y.to(device))

    def split(self, n: int) -> list["Samples"]:
        return [Samples(x, y) for x, y in zip(self.x.chunk(n), self.y.chunk(n), strict=True)]


def samples(seed: int, count: int) -> Samples:
    """Without noise, so that the least squares are the truth."""
    x = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))
    return Samples(x, x @ TRUE[0] + TRUE[1])


@dataclass(frozen=True)
class Numbers:
    """The data, and its loader: this rank's rows of each step's batch, the same batch for any number of ranks."""

    world: World

    def identity(self) -> dict[str, Any]:
        return {"samples": "0 to 7"}

    def loader(self, stage: StagePlan) -> "Numbers":
        return self

    def seconds(self) -> dict[str, float]:
        return {"wait": 0.0}

    def iterate(self, start_step: int, stop_step: int) -> Generator[Samples, None, None]:
        for step in range(start_step, stop_step):
            yield samples(step % EPOCH, BATCH).split(self.world.ranks)[self.world.rank]

    def save_batch(self, folder: Path, batch: Samples, held_out: bool, row: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        torch.save(batch.x, folder / "x.pt")

    def batches(self) -> Iterator[tuple[Samples, int]]:
        """The held-out ones, of which each rank has all."""
        yield samples(1000, 64), 64


class Shapes:
    """The shapes of the data, for the planner."""

    def resized(self, size: int) -> Self:
        return self

    def batch(self, count: int) -> Samples:
        return Samples(torch.empty(count, FEATURES), torch.empty(count))


class Scale:
    """A side module that learns, in the second stage, that its first numbers are three times its second ones."""

    name = "scale"

    def __init__(self) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.module.weight)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.004)

    def loss(self, carried: tuple[Tensor, Tensor] | None) -> Tensor | None:
        if carried is None:
            return None
        return (self.module(carried[1][:, None])[:, 0] - carried[0]).square().mean()


class Regression:
    """See ``dira_scale.train.engine.task.Task``."""

    stages = STAGES
    monitor_every = 4
    tensors = Tensors("line", "optim.line", side=("scale",))
    unit = "points"

    def __init__(self, world: World) -> None:
        self.data = Numbers(world)
        self.validation = HeldOutValidation(1, self.data, self.losses, world.device)
        torch.manual_seed(0)
        self.module = nn.Linear(FEATURES, 1)
        self.optim = Optim(
            optimizer={"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.5},
            one_dimensional={},
            fixed_rate=[],
            schedule="cosine",
            warmup_epochs=0,
            end=0.0,
        )
        self.shares: list[float] = []
        self.side_modules = [Scale()]

    def describe(self, config: dict[str, Any]) -> Description:
        return Description(
            command="regression",
            title="A line, fitted (`regression.py`)",
            trained="fitted",
            network=NetworkDescription({}, "line", dimensions=2, channels=1),
            input=InputDescription(size=(FEATURES,)),
            data=DataDescription((), split="points"),
            stages=tuple(StageDescription(stage.name, stage.terms, stage.steps / EPOCH) for stage in STAGES),
            terms={"square": Term("Squared error"), "weight": Term("Weight", "the slopes"), "bias": Term("Bias", "b")},
            metrics={"loss": Metric("Mean squared error", "min")},
            best="loss",
            output=Output(),
            tensors=self.tensors,
            execution=(
                "run",
                "steps",
                "parallel",
                "log_every",
                "checkpoint",
                "profile",
                "precision_used",
                "threads_used",
                "mesh_used",
            ),
            unit=self.unit,
        )

    def summary(self, module: nn.Module) -> list[str]:
        return [f"a line through {FEATURES} dimensions"]

    def identity(self) -> dict[str, Any]:
        return {}

    def process_counts(self) -> list[int]:
        return [1, 2, 4, 8, 16]

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in stage.terms)
        return module

    def losses(self, stage: StagePlan, model: nn.Module, micro: Samples) -> Losses:
        square = (model(micro.x)[:, 0] - micro.y).square().mean()
        carried = (micro.y.detach() * 3.0, micro.y) if "bias" in stage.terms else None
        return Losses(square, {"square": square}, carried=carried)

    def monitor(self, losses: Losses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        return {"looked": losses.total.detach().sqrt()}

    def after_step(self, module: nn.Module) -> None:
        """Nothing follows the weights."""

    def set_progress(self, module: nn.Module, share: float) -> None:
        self.shares.append(share)

    def before_validation(self, stage: StagePlan, module: nn.Module) -> None:
        """Nothing is made ready for it."""

    def finish(self, stage: StagePlan, run: Any, unsharded: Callable[[], nn.Module]) -> list[str]:
        whole = unsharded()
        if run is not None:
            (run.folder / f"{stage.name}.txt").write_text(str(whole.weight.tolist()))
        return [f"stage {stage.name} is written"]

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        return [f"all is well in {position.stage}"] if (position.stage, position.done) == ("all", 10) else []


def train(
    run: str,
    strategy: str,
    steps: int,
    accumulate: int = 1,
    precision: str = "fp32",
    threads: int | str = 1,
    attention: str = EXACT,
    shard: int | str = AUTO,
) -> int:
    """The exit code."""
    parallel = Parallel(
        strategy, accumulate, threads, False, False, False, False, 120, attention=attention, shard=shard
    )
    config = Training(run, 0, steps, precision, parallel, CheckpointConfig(1000, 2, None), 120, 10)
    made: list[Regression] = []
    code = run_task(config, OmegaConf.structured(config), lambda world: made.append(Regression(world)) or made[0])
    # Each step was told how far through its stage it is.
    every = [i / stage.steps for stage in STAGES for i in range(stage.steps)][:steps]
    assert made[0].shares == every[len(every) - len(made[0].shares) :]
    return code


if __name__ == "__main__":
    run, strategy, steps, accumulate, shard = sys.argv[1:]
    of = AUTO if shard == AUTO else int(shard)
    raise SystemExit(leave(lambda: train(run, strategy, int(steps), int(accumulate), shard=of)))
