"""The schema of ``configs/finetune.yaml``. Like all schemas it does without torch, so mistakes are shown at once."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etils.epy import lazy_imports
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from dira_scale.base.arguments import UNSHOWN, Above, ArgumentError, AtLeast
from dira_scale.base.config.border import at
from dira_scale.base.config.files import folder
from dira_scale.base.config.registry import TARGET, chosen_class
from dira_scale.base.config.schema import Schema, one_of, path_field, setting
from dira_scale.base.errors import DatasetError, UserError, counted
from dira_scale.dataset.epochs import steps_of
from dira_scale.judge.evaluation.config import Evaluate
from dira_scale.judge.tasks.task import TaskConfig
from dira_scale.train.config import StagedTraining, Validate
from dira_scale.train.data.config import Data
from dira_scale.train.engine.config import Optim
from dira_scale.train.models.architecture import OF_TRAINING, Architecture, exported_architecture, normalisation_of
from dira_scale.train.models.hub import local, pin
from dira_scale.train.planned import Planned
from dira_scale.train.runs.description import FILE, NORMALISATIONS, read_description
from dira_scale.train.runs.identity import ADDED

with lazy_imports():
    from dira_scale.base.storage import store
    from dira_scale.dataset import manifest

IMAGES, VOLUMES = "tune", "tune_volumes"  # views
# Running statistics move by a tenth a step: before some 50 they are in part their start's, and of weights that still
# changed fast (docs/how-to/finetune.md has what that costs).
SETTLED, PASSES = 50, 10
FROZEN = {"encoder": ("encoder",), "network": ("encoder", "decoder")}  # parts of a network
BIASES, LORA, LAST = "biases", "lora", re.compile(r"last-([1-9]\d*)")  # what learns of them nevertheless


def nevertheless(trained: str | None, rank: int) -> str:
    """Say what learns of what is frozen. ``rank``: LoRA's."""
    if trained is None:
        return ""
    blocks = f", but for the encoder's last {trained.removeprefix('last-')} blocks"
    return {BIASES: ", but for biases (BitFit)", LORA: f", with LoRA of rank {rank}"}.get(trained, blocks)


@dataclass
class FinetuneData(Data):
    test_split: str | None = None


@dataclass
class FinetuneOptim(Optim):
    """``chosen``: set by the run: the validation figure of each rate in ``choose``."""

    choose: list[float] | None = setting(Above(0), None)
    choose_share: float = setting(Above(0, 1))
    chosen: dict[str, float] = MISSING
    head_factor: float = setting(Above(0))

    def factors(self, names: Sequence[str]) -> Mapping[str, float]:
        """Return the factors of the base class, and ``head_factor`` for ``head.…``."""
        heads = (name for name in names if name.startswith("head."))
        return {**super().factors(names), **dict.fromkeys(heads, self.head_factor)}


@dataclass
class FinetuneValidate(Validate):
    volumes: int | None = setting(AtLeast(1), None)
    windows: int = setting(AtLeast(1))
    best: str | None = setting(one_of("loss"), None)
    norm_passes: int | None = setting(AtLeast(0), None)

    def passes(self, steps: int) -> int:
        """Return over how many batches BatchNorm's statistics are averaged before validations of a run of ``steps``."""
        return (PASSES if steps < SETTLED else 0) if self.norm_passes is None else self.norm_passes


@dataclass
class Protocol(Schema):
    """The protocol of a preset: whose settings these are, and what is done otherwise on purpose."""

    preset: str | None = None
    source: str | None = None
    tasks: list[str] = field(default_factory=list)
    task: str | None = None
    own: list[str] = field(default_factory=list)
    differs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError for a preset without settings for the task that was chosen."""
        super().__post_init__()
        if self.preset is not None and self.task is None:
            raise UserError(
                f"preset={self.preset} has no settings for this task, but for {', '.join(self.tasks)}: choose one of "
                f"these as task=…, or leave the preset out"
            )


@dataclass
class Lora(Schema):
    rank: int = setting(AtLeast(1))
    alpha: int = setting(AtLeast(1))
    targets: list[str] = MISSING


@dataclass
class Finetune(StagedTraining):
    init: str = path_field()
    frozen: str | None = setting(one_of(*FROZEN), None)
    trained: str | None = None
    lora: Lora = field(default_factory=Lora)
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: FinetuneOptim = field(default_factory=FinetuneOptim)
    data: FinetuneData = field(default_factory=FinetuneData)
    model: Architecture = field(default_factory=Architecture)
    views: dict[str, Any] = MISSING
    channels: int | None = setting(AtLeast(1), None)
    normalise: str = setting(one_of("none", *NORMALISATIONS))
    validate: FinetuneValidate = field(default_factory=FinetuneValidate)
    evaluate: Evaluate = field(default_factory=Evaluate)
    protocol: Protocol = field(default_factory=Protocol)

    def __post_init__(self) -> None:
        """Raises UserError for what pretraining has, and fine-tuning has not."""
        super().__post_init__()
        trained = [name for name, stage in self.stages.items() if stage.epochs]
        if len(trained) > 1:
            raise ArgumentError("stages", UNSHOWN, f"one with epochs, not {', '.join(trained)}")
        if (accumulate := self.parallel.accumulate) > 1:
            cut = "it would cut the batch of the loss; a smaller data.batch or more processes save memory"
            raise ArgumentError("parallel.accumulate", accumulate, f"1: {cut}")
        if self.trained not in (None, BIASES, LORA) and not self.last_blocks:
            raise ArgumentError("trained", self.trained, f"{BIASES}, {LORA}, or last-1, last-2, … (blocks)")
        if self.trained and not self.frozen:
            either = "frozen=encoder, whose decoder and head learn, too, or frozen=network, whose head does"
            raise ArgumentError("trained", self.trained, f"null, or what is frozen beside it: {either}")
        for key in ("layer_decay", "patch_factor"):
            if self.frozen and not self.trained and (factor := getattr(self.optim, key)) not in (None, 1):
                nothing = f"null with frozen={self.frozen}, which learns nothing of the encoder"
                raise ArgumentError(f"optim.{key}", factor, nothing)
        if self.optim.choose and self.data.val_split is None:
            compared = "null without data.val_split, on which rates are compared"
            raise ArgumentError("optim.choose", self.optim.choose, compared)
        if (weights := getattr(self.model, "weights", None)) is not None:
            raise ArgumentError("model.weights", weights, f"null, and init={weights}: it is a key of pretrain")

    @property
    def last_blocks(self) -> int:
        """The number of a frozen encoder's last blocks that learn."""
        return int(match[1]) if (match := LAST.fullmatch(self.trained or "")) else 0

    @classmethod
    def adopt(cls, config: DictConfig, typed: Collection[str]) -> None:
        """The network of ``init``, a run or what was exported of one, is that run's, but for what was typed, or is the
        protocol's ``own``. A network of volumes has their views, and the size of the run's. An address is pinned.

        Raises UserError for a damaged run, and as :func:`pin`.
        """
        if (task := config.hydra.runtime.choices.task) in config.protocol.tasks:
            config.protocol.task = task
        if OmegaConf.is_missing(config, "init"):
            return
        pin(config, "init")
        path = local(str(config.init))  # fetched above
        run = read_description(path) if (path / FILE).is_file() else None
        theirs = run.network.architecture if run else exported_architecture(path)
        if "${" in json.dumps(theirs):  # which would be evaluated here
            raise UserError(f"init={config.init}: its architecture has an interpolation: export it again")
        with open_dict(config):
            if "model" not in typed and theirs:
                kept = {*OF_TRAINING, *config.protocol.own, *(key.removeprefix("model.") for key in typed)}
                if theirs.get(TARGET) != config.model[TARGET]:  # whose other keys it does not have
                    config.model = {key: value for key, value in config.model.items() if key in kept}
                older = {key.removeprefix("model."): value for key, value in ADDED.items() if key.startswith("model.")}
                theirs = {**{key: value for key, value in older.items() if key in config.model}, **theirs}
                config.model.update({key: value for key, value in theirs.items() if key not in kept})
            network: Any = chosen_class(Architecture, f"model.{TARGET}", config.model[TARGET])
            on_volumes, sized = network.dimensions == 3, {"data.size", "preset"} & {*typed}
            if run and sized and "model" not in typed and isinstance(config.data.size, int) is on_volumes:
                kind, others = ("volumes", "images") if on_volumes else ("images", "volumes")
                raise UserError(
                    f"init={config.init} is a run on {kind}, and data.size={config.data.size} is of {others}: name a "
                    f"run on {others}, or leave {' and '.join(sorted(sized))} to the run"
                )
            if "normalise" not in typed and (not config.protocol.preset or config.normalise == "none"):
                config.normalise = normalisation_of(path) or config.normalise
            if not on_volumes:
                return
            if run and run.network.dimensions == 3 and run.input and not sized:
                config.data.size = list(run.input.size)
            if config.hydra.runtime.choices.views == IMAGES and not {"views", "preset"} & {*typed}:
                given = {key: value for key, value in config.views.items() if f"views.{key}" in typed}
                config.views = OmegaConf.merge(OmegaConf.load(folder("configs") / "views" / f"{VOLUMES}.yaml"), given)

    @classmethod
    def incomplete(cls, config: DictConfig, missing: Sequence[str], help: str) -> UserError:
        """Without ``init`` alone, say what would be trained, how long and from what."""
        if [*missing] != ["init"]:
            return super().incomplete(config, missing, help)
        data, encoder = config.data, config.model.get("encoder")
        shards = OmegaConf.to_container(data)["shards"]  # type: ignore[index,call-overload]
        paths = [shards] if isinstance(shards, str) else [*shards]
        files = [store.locate(str(path), "data.shards") / manifest.INFO_FILE for path in paths]
        try:
            images = sum(manifest.DatasetInfo.read(file).counts.get(data.split, 0) for file in files)
        except DatasetError:  # that a sweep has to make first
            return super().incomplete(config, missing, help)
        epochs = sum(stage.epochs for stage in config.stages.values()) * config.epoch_factor
        steps = config.steps or steps_of(epochs, max(1, data.crops * images // data.batch))
        network = f"a network on {encoder}" if encoder else "a network"
        return UserError(
            f"init must be given: {network} would learn from random weights, for up to {counted(steps, 'step')} "
            f"({epochs:g} epochs of {counted(images, 'sample')}), into run={config.run}. init=RUN starts from a "
            "pretraining run, or from a file of weights; to train from random weights, type init=random",
            add=("init=random",),
        )

    def bn_groups(self, batch: int) -> int:
        with at("model"):
            return self.model.groups(batch)


@dataclass
class PlannedFinetune(Planned, Finetune):
    """The schema of ``configs/plan_finetune.yaml``."""
