"""The configuration of tasks on labels, masks and numbers, ``configs/task/*.yaml``. Reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypedDict

from omegaconf import MISSING

from dira_scale.arguments import Above, ArgumentError, AtLeast, Length, Within, converted
from dira_scale.config.border import at
from dira_scale.config.registry import chosen_class
from dira_scale.config.schema import Schema, one_of, setting
from dira_scale.data.config import COUNTS_AS, MOST_GRADES
from dira_scale.errors import UserError, nearest
from dira_scale.tasks.classes import check_classes

if TYPE_CHECKING:
    from dira_scale.data.labels import Labels
    from dira_scale.data.manifest import ShardedDataset
    from dira_scale.tasks.labels import Classification
    from dira_scale.tasks.supervision import Supervision
    from dira_scale.training.inputs import Inputs

FINETUNE = "finetune"  # the command whose runs have tasks
PRETRAINED, RANDOM, LINEAR = "pretrained", "random", "linear"  # a decoder
BALANCED = "balanced"
ELSEWHERE = "name another split, or another dataset"


class Facts(TypedDict):
    """The facts that a run has recorded of its data, for its task (``Supervision.facts``)."""

    outputs: list[str]


class NumberFacts(Facts):
    """``normalised``: mean and deviation by name."""

    normalised: dict[str, Annotated[list[float], Length(2)]]


class GradeFacts(Facts):
    """``label``: the name of what is graded; its grades are one more than ``outputs``."""

    label: str


@dataclass
class TaskConfig(Schema):
    """The configuration of a task, ``configs/task/*.yaml``. ``_target_`` names a class derived from this one.

    Attributes:
        facts: the type of its facts, by which those of a stranger's file are checked.
        names_key: the key of the names of its labels.
    """

    facts: ClassVar[type] = Facts
    names_key: ClassVar[str] = "task.labels"
    _target_: str = MISSING
    loss: list[str] = MISSING

    def input_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``Inputs.of`` that say what batches must have beside images."""
        raise NotImplementedError

    def supervision(self, data: "Inputs") -> "Supervision":
        """Return what is learned from ``data``. Raises UserError for data that lack it."""
        raise NotImplementedError

    def described(self, facts: Mapping[str, Any]) -> "Supervision":
        """Return what is learned, without data. ``facts``: those of the data that a run has recorded
        (``Supervision.facts``); without them as far as the task says it itself."""
        raise NotImplementedError

    def evaluated(self, facts: Mapping[str, Any], dataset: "ShardedDataset", split: str) -> "Supervision":
        """Return what is learned, on a split of any dataset, of which all that was learned is asked for.

        Raises UserError for a dataset that lacks it.
        """
        raise NotImplementedError

    @property
    def takes_decoder(self) -> bool:
        """Return whether the network begins with the decoder of ``init``, too, if that has one."""
        return False


@dataclass
class ImageTask(TaskConfig):
    """Labels or numbers of whole images."""

    def named(self, facts: Mapping[str, Any], dataset: "ShardedDataset") -> Self:
        """Return the same task of the labels that ``facts`` name, as a configuration of ``dataset`` would name them."""
        raise NotImplementedError

    def evaluated(self, facts: Mapping[str, Any], dataset: "ShardedDataset", split: str) -> "Supervision":
        """Raises UserError also for a dataset that has other classes of a label, and for a label that nobody knows in
        the split."""
        from dira_scale.data.labels import LabelError
        from dira_scale.tasks.supervision import ImageSupervision

        learned = self.described(facts)
        assert isinstance(learned, ImageSupervision)
        with at("task", {"names": self.names_key}):
            columns = self.named(facts, dataset).input_arguments()["labels"].of([dataset])
        if columns.names != learned.labels.names:
            raise UserError(f"{dataset.root} has the classes {', '.join(columns.names)}: shard it again with the same "
                            "recipe.class_columns, in the same order")  # fmt: skip
        try:
            columns.check([dataset], split, learned=None)
        except LabelError as error:
            raise UserError(f"{error}: {ELSEWHERE}") from error
        return replace(learned, labels=columns)


@dataclass
class LabelTask(ImageTask):
    """Labels of whole images."""

    loss: list[str] = setting(one_of("ce"))
    labels: list[str] | None = None
    scored: list[str] | None = None
    uncertain: Any = MISSING
    unknown: str = setting(one_of(*COUNTS_AS))
    exclusive: bool = MISSING
    weights: str = setting(one_of("none", BALANCED))
    focal: float = setting(AtLeast(0))

    def __post_init__(self) -> None:
        """Raises ArgumentError for scored labels where one figure of all classes decides, and for no labels."""
        super().__post_init__()
        if self.labels is not None and not self.labels:
            raise ArgumentError("labels", self.labels, "at least one label, or null, which is all")
        if self.scored is not None and (self.exclusive or not self.scored):
            raise ArgumentError(
                "scored",
                self.scored,
                "null: the accuracy of all classes decides" if self.exclusive else "at least one label, or null",
            )

    def input_arguments(self) -> dict[str, Any]:
        from dira_scale.data.labels import LabelChoice

        names = None if self.labels is None else tuple(self.labels)
        return {"labels": LabelChoice(names, self.uncertain, self.unknown, self.exclusive)}

    def supervision(self, data: "Inputs") -> "Supervision":
        from dira_scale.data.labels import Labels
        from dira_scale.tasks.labels import balance

        assert isinstance(data.labels, Labels), "asked for"
        balanced = self.weights == BALANCED
        weights = balance(data.learned_targets(), self.exclusive) if balanced else None
        for name in self.scored or ():
            if name not in (names := data.labels.names):
                raise UserError(
                    f"task.scored: no label '{name}' is learned, but {', '.join(names)}{nearest(name, names)}"
                )
        return self._learns(data.labels, weights)

    def _learns(self, labels: "Labels", weights: tuple[float, ...] | None = None) -> "Classification":
        from dira_scale.tasks.labels import Classification

        return Classification(labels, weights, self.focal, None if self.scored is None else tuple(self.scored))

    def described(self, facts: Mapping[str, Any]) -> "Supervision":
        from dira_scale.data.labels import Labels

        names = tuple(facts.get("outputs") or self.labels or ())
        nan = float("nan")
        return self._learns(Labels(names, (), len(names) * (nan,), nan, self.exclusive))

    def named(self, facts: Mapping[str, Any], dataset: "ShardedDataset") -> Self:
        from dira_scale.data.labels import labels_of

        return replace(self, labels=[*labels_of(dataset, facts["outputs"])])


@dataclass
class CandidateTask(LabelTask):
    """Candidates for lesions, of one label."""

    def _learns(self, labels: "Labels", weights: tuple[float, ...] | None = None) -> "Classification":
        """Raises UserError for several labels, and for one of classes."""
        from dira_scale.tasks.candidates import Candidates

        if self.exclusive:
            raise UserError("task.exclusive=true: candidates have one label of yes and no: use false, or task=labels")
        if labels.exclusive or len(labels.names) > 1:
            raise UserError(
                f"task.labels: candidates have one label of yes and no, not {', '.join(labels.names)}: name it, or use "
                "task=labels"
            )
        learned = super()._learns(labels, weights)
        return Candidates(labels, weights, learned.focal, learned.scored)


@dataclass
class MaskTask(TaskConfig):
    """Masks of images."""

    loss: list[str] = setting(one_of("dice", "ce"))
    ce_weight: float = setting(Above(0), 1.0)
    figure: str = setting(one_of("Dice", "IoU", "pooled Dice", "pooled IoU"), "Dice")
    classes: dict[str, Any] | None = None
    decoder: str = setting(one_of(PRETRAINED, RANDOM, LINEAR))

    def __post_init__(self) -> None:
        """Raises UserError for classes and regions mixed, for two classes of one value, or one of the background's."""
        super().__post_init__()
        check_classes(self.classes)

    @property
    def takes_decoder(self) -> bool:
        return self.decoder == PRETRAINED

    def input_arguments(self) -> dict[str, Any]:
        return {"masks": True}

    def supervision(self, data: "Inputs") -> "Supervision":
        from dira_scale.tasks.mask_values import check_masks

        check_masks(data, self.classes)
        return self.described({})

    def described(self, facts: Mapping[str, Any]) -> "Supervision":
        from dira_scale.tasks.masks import Segmentation

        return Segmentation(self.classes, self.ce_weight, self.figure, self.decoder == LINEAR)

    def evaluated(self, facts: Mapping[str, Any], dataset: "ShardedDataset", split: str) -> "Supervision":
        from dira_scale.tasks.mask_values import check_evaluated

        check_evaluated(dataset, split, self.classes, ELSEWHERE)
        return self.described(facts)


@dataclass
class RegressionTask(ImageTask):
    """Numbers of whole images."""

    facts: ClassVar[type] = NumberFacts
    loss: list[str] = setting(one_of("mse", "mae"))
    labels: list[str] | None = None

    def input_arguments(self) -> dict[str, Any]:
        from dira_scale.data.numbers import NumberChoice

        return {"labels": NumberChoice(None if self.labels is None else tuple(self.labels))}

    def supervision(self, data: "Inputs") -> "Supervision":
        from dira_scale.data.numbers import Numbers
        from dira_scale.tasks.regression import Regression, normalisation

        assert isinstance(data.labels, Numbers), "asked for"
        return Regression(data.labels, normalisation(data.learned_targets(), data.labels.names))

    def described(self, facts: Mapping[str, Any]) -> "Supervision":
        from dira_scale.data.numbers import Numbers
        from dira_scale.tasks.regression import Regression

        names, normalised = facts.get("outputs") or self.labels or (), facts.get("normalised") or {}
        if normalised and (lacking := {*names} - {*normalised}):
            raise UserError(f"facts.normalised.{min(lacking)} is missing")
        return Regression(Numbers(tuple(names)), normalised)

    def named(self, facts: Mapping[str, Any], dataset: "ShardedDataset") -> Self:
        return replace(self, labels=[*facts["outputs"]])


@dataclass
class OrdinalTask(ImageTask):
    """Ordered grades of whole images."""

    facts: ClassVar[type] = GradeFacts
    names_key: ClassVar[str] = "task.label"
    loss: list[str] = setting(one_of("corn"))
    label: str | None = None
    grades: int | None = setting(Within(2, MOST_GRADES), None)

    def input_arguments(self) -> dict[str, Any]:
        from dira_scale.data.numbers import Grades, NumberChoice

        names = None if self.label is None else (self.label,)
        return {"labels": NumberChoice(names, partial(Grades, grades=self.grades))}

    def supervision(self, data: "Inputs") -> "Supervision":
        """Grades that are not typed are those up to the highest that is trained on. Raises UserError for a higher one
        elsewhere."""
        from dira_scale.data.labels import LabelError
        from dira_scale.data.numbers import Grades
        from dira_scale.tasks.ordinal import Ordinal

        labels = data.labels
        assert isinstance(labels, Grades), "asked for"
        known = data.learned_targets()
        grades = self.grades or 1 + int(known[~known.isnan()].max())
        if grades == 2 and self.grades is None:
            raise UserError(
                f"task.label={labels.names[0]} has two grades, which are yes and no: use task=labels "
                f"task.labels=[{labels.names[0]}], or type task.grades=2"
            )
        held_out = {data.data.val_split, getattr(data.data, "test_split", None)} - {None}
        for split in sorted(map(str, held_out)):
            try:
                replace(labels, grades=grades).check(data.datasets, split, None)
            except LabelError as error:
                learned = "learn it by task=regression, " * (error.lacks == "grades")
                raise UserError(f"{error}: {learned}type task.grades=…, {ELSEWHERE}") from error
        return Ordinal(replace(labels, grades=grades))

    def described(self, facts: Mapping[str, Any]) -> "Supervision":
        from dira_scale.data.numbers import Grades
        from dira_scale.tasks.ordinal import Ordinal

        grades = len(facts["outputs"]) + 1 if "label" in facts else self.grades
        return Ordinal(Grades((facts.get("label") or self.label or "grade",), grades=grades))

    def named(self, facts: Mapping[str, Any], dataset: "ShardedDataset") -> Self:
        return replace(self, label=facts["label"], grades=len(facts["outputs"]) + 1)


@dataclass
class SurvivalTask(ImageTask):
    """The time until an event."""

    names_key: ClassVar[str] = "task.time and task.event"
    loss: list[str] = setting(one_of("cox"))
    time: str = MISSING
    event: str = MISSING

    def input_arguments(self) -> dict[str, Any]:
        from dira_scale.data.numbers import NumberChoice, Times

        return {"labels": NumberChoice((self.time, self.event), Times)}

    def supervision(self, data: "Inputs") -> "Supervision":
        from dira_scale.data.numbers import Times
        from dira_scale.tasks.survival import Survival

        assert isinstance(data.labels, Times), "asked for"
        return Survival(data.labels)

    def described(self, facts: Mapping[str, Any]) -> "Supervision":
        from dira_scale.data.numbers import Times
        from dira_scale.tasks.survival import Survival

        return Survival(Times((self.time, self.event)))

    def named(self, facts: Mapping[str, Any], dataset: "ShardedDataset") -> Self:
        return self


def task_of(node: Mapping[str, Any]) -> TaskConfig:
    """Return the object of a ``task`` node of a recorded configuration. Raises UserError naming the key."""
    kind = chosen_class(TaskConfig, "task._target_", str(node.get("_target_")))
    with at("task"):
        task: TaskConfig = converted(kind, node)
    return task


def without_data(task: TaskConfig) -> "Supervision":
    """Return the supervision of a task without looking at data; a task that names no labels gets one."""
    supervision = task.described({})
    return supervision if supervision.outputs else task.described({"outputs": ["label"]})
