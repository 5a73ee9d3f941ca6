"""The interface of a task: its keys, targets, losses and scores, the rows of its cases, their figures, and what
`predict` writes.

A task is one file beside this one: its keys are a class derived from :class:`TaskConfig`, which
``base/config/registry.py`` names, and what is learned one derived from :class:`Supervision`. Commands read the keys
before they import torch, so these files import lazily what takes seconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypedDict

from omegaconf import MISSING

from dira_scale.base.arguments import converted
from dira_scale.base.config.border import at
from dira_scale.base.config.registry import chosen_class
from dira_scale.base.config.schema import Schema
from dira_scale.dataset.metrics.figure import Figure, Key
from dira_scale.dataset.metrics.statistics.weighted import Statistics
from dira_scale.train.runs.description import Best, Metric, Output, Term

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.judge.tasks.predictions import Predictions
    from dira_scale.train.data.batch import Batch
    from dira_scale.train.inputs import Inputs
    from dira_scale.train.models.architecture import Architecture
    from dira_scale.train.models.network import Encoder, Network
    from dira_scale.train.validation import Score

FINETUNE = "finetune"  # the command whose runs have tasks
ELSEWHERE = "name another split, or another dataset"
# Sums over the processes, for a loss that is a mean over what is known in the global batch.
AllReduce: TypeAlias = "Callable[[Tensor], Tensor]"


def identity(value: Tensor) -> Tensor:
    """``AllReduce`` of evaluation, where each process has batches of its own."""
    return value


class Facts(TypedDict):
    """The facts that a run has recorded of its data, for its task (``Supervision.facts``)."""

    outputs: list[str]


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

    def supervision(self, data: Inputs) -> Supervision:
        """Return what is learned from ``data``. Raises UserError for data that lack it."""
        raise NotImplementedError

    def described(self, facts: Mapping[str, Any]) -> Supervision:
        """Return what is learned, without data. ``facts``: those of the data that a run has recorded
        (``Supervision.facts``); without them as far as the task says it itself."""
        raise NotImplementedError

    def evaluated(self, facts: Mapping[str, Any], dataset: ShardedDataset, split: str) -> Supervision:
        """Return what is learned, on a split of any dataset, of which all that was learned is asked for.

        Raises UserError for a dataset that lacks it.
        """
        raise NotImplementedError

    @property
    def takes_decoder(self) -> bool:
        """Return whether the network begins with the decoder of ``init``, too, if that has one."""
        return False


@dataclass(frozen=True)
class Chosen:
    """The values that were chosen on the cases of the validation split, by name.

    Attributes:
        thresholds: from which probability on the answer is yes; infinite: it never is; NaN: there is no answer.
        temperatures: by which logits are divided (Guo et al., ICML 2017); None: not fitted.
        calibrated_thresholds: thresholds of the probabilities with ``temperatures``.
    """

    thresholds: Mapping[str, float] | None = None
    temperatures: Mapping[str, float] | None = None
    calibrated_thresholds: Mapping[str, float] | None = None


class Supervision(ABC):
    """A task that a network learns from labelled images.

    Attributes:
        learned: what; completes "fine-tuned on …".
        pooled: whether an image has one output, or each of its pixels.
        calibrates: whether it has probabilities of images, which temperatures can scale.
        loss_terms: what :meth:`terms` gives, by name.
        outputs: names of the network's outputs, a channel each.
        output: what they mean.
        best: the figure of a validation by which checkpoints are compared.
        metrics: of validation, by name.
        compared: the figures by which runs are compared, the first before the others.
    """

    learned: ClassVar[str]
    pooled: ClassVar[bool]
    calibrates: ClassVar[bool] = False
    loss_terms: ClassVar[Mapping[str, Term]]

    @property
    def head(self) -> Literal["dense", "linear", "fcn", "pooled"]:
        """The head over the encoder, as ``NetworkDescription.head``."""
        return "pooled" if self.pooled else "dense"

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The classes of masks, without the background; of tasks that have masks."""
        return ()

    @property
    @abstractmethod
    def output(self) -> Output: ...

    @property
    @abstractmethod
    def best(self) -> Best: ...

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]: ...

    @property
    @abstractmethod
    def compared(self) -> Sequence[Key]: ...

    @property
    @abstractmethod
    def loader_arguments(self) -> dict[str, Any]:
        """Arguments of ``LoaderSpec``: what batches must have beside images."""

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the data that are known since training began, of the type ``TaskConfig.facts``: runs and exports
        have them."""
        return {"outputs": list(self.outputs)}

    def network(self, model: Architecture, encoder: Encoder) -> Network:
        """``encoder`` with the head, and the decoder that it needs, of random weights."""
        return model.build(self.head, encoder, len(self.outputs))

    @abstractmethod
    def targets(self, batch: Batch, turned: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return those of a batch on the device. ``turned``: puts masks where the distorted view has them."""

    @abstractmethod
    def terms(self, logits: Tensor, targets: Tensor, all_reduce: AllReduce) -> dict[str, Tensor]:
        """Return the losses by name, 0-dim means over what is known."""

    @abstractmethod
    def predicted(self, logits: Tensor) -> Tensor:
        """Return what logits [b, K, ...] stand for: float32 probabilities, or numbers in their own unit."""

    @abstractmethod
    def score(self) -> Score:
        """Return what computes the ``metrics`` of one validation."""

    def unscored(self, data: Inputs, split: str, samples: int | None = None) -> str:
        """Return why ``best`` has no value on a split, or on its first ``samples``; empty: it has one."""
        return ""

    @abstractmethod
    def cases(self, predictions: Predictions) -> list[Any]:
        """Return rows of ``metrics.cases`` of a split."""

    def chosen(self, cases: Sequence[Any]) -> Chosen:
        """Return what is chosen on all cases of the validation split."""
        return Chosen()

    def temperatures(self, cases: Sequence[Any]) -> dict[str, float]:
        """Return those that are fitted on all cases of the validation split, where the task ``calibrates``."""
        raise NotImplementedError

    def calibrated(self, cases: Sequence[Any], temperatures: Mapping[str, float]) -> list[Any]:
        """Return the same cases with ``temperatures``."""
        raise NotImplementedError

    @abstractmethod
    def figures(self, cases: Sequence[Any], chosen: Chosen) -> list[Figure]:
        """Return those of all cases of a split."""

    @abstractmethod
    def statistics(self, cases: Sequence[Any], chosen: Chosen) -> Statistics:
        """Return the same figures, each as a function of the cases' weights."""

    def never_answered(self, cases: Sequence[Any]) -> list[str]:
        """Return the classes that cases have and no answer has, although each case has an answer."""
        return []

    @abstractmethod
    def answers(self, predicted: Tensor, chosen: Chosen) -> np.ndarray:
        """Return what `predict` writes of ``predicted``: [b, K] -> float64 [b, columns]; [b, K, *sides] -> masks uint8
        [b, *sides] of the values that were learned."""

    def columns(self, chosen: Chosen) -> tuple[str, ...]:
        """Return the names of the answers' columns."""
        return self.outputs

    def segments(self, predicted: Tensor) -> Tensor:
        """Return where each of ``names`` is, which may overlap: [b, K, *sides] -> bool [b, names, *sides]."""
        raise NotImplementedError


def task_of(node: Mapping[str, Any]) -> TaskConfig:
    """Return the object of a ``task`` node of a recorded configuration. Raises UserError naming the key."""
    kind = chosen_class(TaskConfig, "task._target_", str(node.get("_target_")))
    with at("task"):
        return converted(kind, node)


def without_data(task: TaskConfig) -> Supervision:
    """Return the supervision of a task without looking at data; a task that names no labels gets one."""
    supervision = task.described({})
    return supervision if supervision.outputs else task.described({"outputs": ["label"]})
