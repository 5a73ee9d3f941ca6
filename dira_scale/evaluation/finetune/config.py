"""The schema of ``configs/finetune.yaml``. Like all schemas it needs no torch: a mistake is told within a second."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from dira_scale.config.files import folder
from dira_scale.config.keys import typed
from dira_scale.config.registry import TARGET, chosen_class
from dira_scale.config.schema import Schema, above, at_least, one_of, place
from dira_scale.data.config import COUNTS_AS, Data
from dira_scale.errors import UserError, nearest
from dira_scale.evaluation.config import SLIDING, WHOLE
from dira_scale.models.architecture import OF_TRAINING, Architecture, exported_architecture
from dira_scale.runs.description import FILE, read_description
from dira_scale.training.config import StagedTraining, Validate

if TYPE_CHECKING:
    from dira_scale.evaluation.finetune.supervision import Supervision
    from dira_scale.training.inputs import Inputs

PRETRAINED, RANDOM = "pretrained", "random"  # a decoder
IMAGENET = "imagenet"
BALANCED = "balanced"
IMAGES, VOLUMES = "tune", "tune_volumes"  # views
CENTRE, TEN_CROPS = "centre", "ten_crops"


@dataclass
class TaskConfig(Schema):
    """What is learned, ``configs/task/*.yaml``. ``_target_`` names a class derived from this one."""

    _target_: str = MISSING
    loss: list[str] = MISSING

    def asked(self) -> dict[str, Any]:
        """Arguments of ``Inputs.of``: what batches must have beside images."""
        raise NotImplementedError

    def supervision(self, data: "Inputs") -> "Supervision":
        """What is learned from ``data``. Raises UserError for data that lack it."""
        raise NotImplementedError

    def described(self, outputs: "tuple[str, ...]") -> "Supervision":
        """The same without data. ``outputs``: the names of the network's outputs; empty: as far as they are known."""
        raise NotImplementedError


@dataclass
class LabelTask(TaskConfig):
    """Labels of whole images."""

    loss: list[str] = one_of("ce")
    labels: list[str] | None = None
    scored: list[str] | None = None
    uncertain: Any = MISSING
    unknown: str = one_of(*COUNTS_AS)
    exclusive: bool = MISSING
    weights: str = one_of("none", BALANCED)
    focal: float = at_least(0)

    def __post_init__(self) -> None:
        """Raises UserError for scored labels where one figure of all classes decides, and for no labels."""
        super().__post_init__()
        if self.labels is not None and not self.labels:
            raise UserError("labels=[]: name at least one label, or labels=null, which is all")
        if self.scored is not None and (self.exclusive or not self.scored):
            why = "the accuracy of all classes decides" if self.exclusive else "name at least one label"
            raise UserError(f"scored={typed(self.scored)}: {why}, or scored=null")

    def asked(self) -> dict[str, Any]:
        from dira_scale.data.labels import LabelChoice

        names = None if self.labels is None else tuple(self.labels)
        return {"labels": LabelChoice(names, self.uncertain, self.unknown, self.exclusive, "task.labels")}

    def supervision(self, data: "Inputs") -> "Supervision":
        from dira_scale.evaluation.finetune.classification import Classification
        from dira_scale.evaluation.finetune.rows import balance, learned

        assert data.labels is not None
        balanced = self.weights == BALANCED
        weights = balance(learned(data), self.exclusive) if balanced else None
        for name in self.scored or ():
            if name not in (names := data.labels.names):
                raise UserError(
                    f"task.scored: no label '{name}' is learned, but {', '.join(names)}{nearest(name, names)}"
                )
        return Classification(data.labels, weights, self.focal, self._scored())

    def _scored(self) -> tuple[str, ...] | None:
        return None if self.scored is None else tuple(self.scored)

    def described(self, outputs: tuple[str, ...]) -> "Supervision":
        from dira_scale.data.labels import Labels
        from dira_scale.evaluation.finetune.classification import Classification

        names = outputs or tuple(self.labels or ())
        nan = float("nan")
        return Classification(Labels(names, (), len(names) * (nan,), nan, self.exclusive), scored=self._scored())


@dataclass
class MaskTask(TaskConfig):
    """Masks of images."""

    loss: list[str] = one_of("dice", "ce")
    classes: dict[str, int] | None = None
    decoder: str = one_of(PRETRAINED, RANDOM)

    def asked(self) -> dict[str, Any]:
        return {"masks": True}

    def supervision(self, data: "Inputs") -> "Supervision":
        from dira_scale.evaluation.finetune.masks import check_masks

        check_masks(data, self.classes)
        return self.described(())

    def described(self, outputs: tuple[str, ...]) -> "Supervision":
        from dira_scale.evaluation.finetune.segmentation import Segmentation

        return Segmentation(self.classes)


@dataclass
class FinetuneData(Data):
    test_split: str | None = None


@dataclass
class Evaluate(Schema):
    """How held-out images are seen."""

    crops: str = one_of(CENTRE, TEN_CROPS)
    share: float = above(0, at_most=1)
    window: str | None = one_of(WHOLE, SLIDING, default=None)
    temperature: bool = MISSING

    def window_of(self, dimensions: int) -> str:
        """Of masks of images (2) or volumes (3): as the usual views of training show them."""
        return self.window or (WHOLE if dimensions == 2 else SLIDING)


@dataclass
class FinetuneValidate(Validate):
    best: str | None = one_of("loss", default=None)


@dataclass
class Protocol(Schema):
    """Of a preset: whose settings these are, and what is done otherwise on purpose."""

    preset: str | None = None
    source: str | None = None
    tasks: list[str] = field(default_factory=list)
    task: str | None = None
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
class Finetune(StagedTraining):
    init: str = place()
    task: TaskConfig = field(default_factory=TaskConfig)
    data: FinetuneData = field(default_factory=FinetuneData)
    model: Architecture = field(default_factory=Architecture)
    views: dict[str, Any] = MISSING
    channels: int | None = at_least(1, None)
    normalise: str = one_of("none", IMAGENET)
    validate: FinetuneValidate = field(default_factory=FinetuneValidate)
    evaluate: Evaluate = field(default_factory=Evaluate)
    protocol: Protocol = field(default_factory=Protocol)

    def __post_init__(self) -> None:
        """Raises UserError for what pretraining has, and fine-tuning has not."""
        super().__post_init__()
        trained = [name for name, stage in self.stages.items() if stage.epochs]
        if len(trained) > 1:
            raise UserError(f"stages: fine-tuning has one stage, not {', '.join(trained)}")
        if (accumulate := self.parallel.accumulate) > 1:
            raise UserError(
                f"parallel.accumulate={accumulate}: losses are over the whole batch, which accumulation would cut; "
                "use 1, and a smaller data.batch, or more processes"
            )
        if (weights := getattr(self.model, "weights", None)) is not None:
            raise UserError(f"model.weights={weights} is pretrain's key: use init={weights}")

    @classmethod
    def adopt(cls, config: DictConfig, typed: Collection[str]) -> None:
        """The network of ``init``, a run or what was exported of one, is that run's, but for what was typed. A network
        of volumes has their views, and the size of the run's.

        Raises UserError for a damaged run.
        """
        path = Path(str(config.init))
        run = read_description(path) if (path / FILE).is_file() else None
        theirs = run.network.architecture if run else exported_architecture(path)
        with open_dict(config):
            if "model" not in typed and theirs:
                kept = {*OF_TRAINING, *(key.removeprefix("model.") for key in typed)}
                if theirs.get(TARGET) != config.model[TARGET]:  # whose other keys it does not have
                    config.model = {key: value for key, value in config.model.items() if key in kept}
                config.model.update({key: value for key, value in theirs.items() if key not in kept})
            network: Any = chosen_class(Architecture, f"model.{TARGET}", config.model[TARGET])
            if network.dimensions == 2:
                return
            if run and isinstance(config.data.size, int) and "data.size" in typed:
                raise UserError(
                    f"init={config.init} is a run on volumes, and data.size={config.data.size} is of images: name a "
                    "run on images, or leave data.size to the run"
                )
            if run and run.network.dimensions == 3 and run.input and not {"data.size", "preset"} & {*typed}:
                config.data.size = list(run.input.size)
            if config.hydra.runtime.choices.views == IMAGES and not {"views", "preset"} & {*typed}:
                given = {key: value for key, value in config.views.items() if f"views.{key}" in typed}
                config.views = OmegaConf.merge(OmegaConf.load(folder("configs") / "views" / f"{VOLUMES}.yaml"), given)

    def bn_groups(self, batch: int) -> int:
        return self.model.groups(batch)
