"""The choice of a run's checkpoint, by one rule for all commands, and the words that report it."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dira_scale.base.errors import UserError, nearest
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.description import Description, read_description
from dira_scale.train.runs.lora import merged

LATEST = "latest"  # the value of ``stage`` and ``init_stage`` for the newest checkpoint
BEST = "best"  # and for the best one of the last stage that has one
NEWEST = "newest"  # of checkpoints, in words


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A checkpoint of a run.

    Attributes:
        folder: the checkpoint's.
        stage: the stage whose best it was taken as; None: it was taken as the newest.
        which: the same in words.
        newest: step of the newest.
        best: the last stage that has a best checkpoint, and the step of that one; None without validation.
    """

    folder: Path
    stage: str | None
    which: str
    newest: int
    best: tuple[str, int] | None

    @property
    def step(self) -> int:
        return int(self.folder.name)

    @property
    def others(self) -> bool:
        """Return whether another choice would have been another checkpoint."""
        return self.step < self.newest or (self.best is not None and self.best[1] != self.step)

    def sentence(self, run: str, key: str, metric: str) -> str:
        """Say of which step the weights of ``run`` are, how far that is from the newest, and what else ``key`` takes.
        ``metric``: by which the best is chosen."""
        if self.stage:
            behind = f", {self.newest - self.step} before the newest" if self.step < self.newest else ", the newest too"
            return f"weights of {run} at step {self.step}: the best {metric} of stage {self.stage}{behind}"
        taken = f"weights of {run} at step {self.step}: the newest"
        if not self.best or self.best[1] == self.step:
            return taken
        stage, step = self.best
        other = f"the best {metric} of stage {stage} was at step {step}, {self.step - step} before"
        return f"{taken}; {other} ({key}={BEST} takes it)"


@dataclass(frozen=True)
class RunWeights:
    """The weights of a run that training starts from: ``tensors`` of the checkpoint, and a ``sentence`` on which."""

    tensors: dict[str, Tensor]
    sentence: str


def check_stage(stage: str | None, description: Description, run: object, key: str = "stage") -> None:
    """Raise UserError if ``stage``, the value of ``key``, names no checkpoint of a ``run``."""
    names = [*(planned.name for planned in description.stages), BEST, LATEST]
    if stage not in (None, *names):
        raise UserError(f"{key}={stage}: {run} has {', '.join(names)}{nearest(str(stage), names)}")


def chosen_checkpoint(
    run: Path, described: Description, stage: str | None = None, key: str = "stage"
) -> ChosenCheckpoint:
    """Return the checkpoint of ``run`` that ``stage`` names: the best of a stage by its NAME, ``best`` of the last that
    has one, ``latest``; None: of a run on labels ``best``, whose figure says what the run is for, of pretraining
    ``latest``.

    A loss of pretraining is no measure of the features: it is low while a queue is young, a teacher moves it, and it
    can rise while a method learns; a best checkpoint of the first epochs would be taken unnoticed. The newest is at
    most the stage's ``patience`` behind, which the sentence says.

    Raises UserError, naming ``key``, for a stage that the run does not have, or without such a checkpoint.
    """
    check_stage(stage, described, run, key)
    stages = checkpoint.stages_with_best(run)
    best = (stages[-1], int(checkpoint.best(run, stages[-1]).name)) if stages else None
    if stage == BEST and not stages:
        raise UserError(f"{key}={BEST}: {run} has no best checkpoint, as nothing was validated; use {key}={LATEST}")
    if stage is None:
        stage = BEST if described.output.names and stages else LATEST
    latest = checkpoint.latest(run)
    if stage == LATEST:
        return ChosenCheckpoint(latest, None, NEWEST, int(latest.name), best)
    stage = stages[-1] if stage == BEST else stage
    return ChosenCheckpoint(checkpoint.best(run, stage), stage, f"best {described.best}", int(latest.name), best)


def run_weights(path: Path, stage: str | None = None, key: str = "init", name: str = "") -> RunWeights | None:
    """The weights of the run in the folder ``path``, of :func:`chosen_checkpoint`; None if it is no folder.

    The head predicts images, whatever it was trained to. ``key`` and ``name``: of the weights in messages.

    Raises UserError, also for a ``stage`` by its name where there is no run.
    """
    if not path.is_dir():
        if stage not in (None, BEST, LATEST):
            raise UserError(f"init_stage={stage}: {key}={name or path} is no run's folder; leave it out")
        return None
    described = read_description(path)
    chosen = chosen_checkpoint(path, described, stage, "init_stage")
    tensors = dict(merged(checkpoint.load(chosen.folder)[0]))
    head, scale = f"{described.tensors.head}.", described.output.scale
    tensors |= {name: tensor / scale for name, tensor in tensors.items() if name.startswith(head)}
    parent, _, encoder = (described.tensors.encoder or "encoder").rpartition(".")
    if encoder != "encoder":  # DINO's teacher, as probes and exports have it, in the student's place
        teacher = (name for name in [*tensors] if name.startswith(f"{parent}.{encoder}."))
        tensors |= {f"{parent}.encoder{name.removeprefix(f'{parent}.{encoder}')}": tensors[name] for name in teacher}
    return RunWeights(tensors, chosen.sentence(path.resolve().name, "init_stage", described.best))
