"""The interface of a task: targets, losses, scores, the rows of its cases, their figures, and what `predict` writes.

A task is one file beside this one, with a class derived from :class:`Supervision`, and its keys in ``config.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.labels import Columns
from dira_scale.data.manifest import ShardedDataset
from dira_scale.distributed.control import gather_objects
from dira_scale.engine.task import Best
from dira_scale.metrics.cases import ImageCase, image_cases
from dira_scale.metrics.figure import Figure, Key
from dira_scale.metrics.statistics.of_cases import Statistics
from dira_scale.models.architecture import Architecture
from dira_scale.models.network import Encoder, Network
from dira_scale.runs.description import Metric, Output, Term
from dira_scale.training.inputs import Inputs
from dira_scale.training.validation import Score

# Sums over the processes, for a loss that is a mean over what is known in the global batch. In evaluation, where each
# process has batches of its own, it returns its argument unchanged.
Shared = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SplitCases:
    """The samples of a split, counted over all datasets, by the manifest's keys. Of several datasets a key begins with
    the dataset's name."""

    datasets: Sequence[ShardedDataset]
    split: str

    @cached_property
    def keys(self) -> np.ndarray:
        several = len(self.datasets) > 1
        names = [f"{dataset.info.name}:" * several for dataset in self.datasets for _ in dataset.rows(self.split)]
        return np.array([f"{name}{key}" for name, key in zip(names, self._column("key"), strict=True)], object)

    @cached_property
    def patients(self) -> np.ndarray:
        return np.array([*map(str, self._column("patient"))], object)

    @property
    def scans(self) -> list[str]:
        """The study of each sample; where that is unknown, its patient."""
        return [str(study or patient) for study, patient in zip(self._column("study"), self.patients, strict=True)]

    def attributes(self, name: str) -> list[str]:
        """The attribute ``name`` of each sample; empty where it has none."""
        return [dict(cell or ()).get(name, "") for cell in self._column("attributes")]

    def _column(self, name: str) -> list[Any]:
        return [cell for dataset in self.datasets for cell in dataset.column(name)[dataset.rows(self.split)]]


@dataclass(frozen=True)
class Viewed:
    """A batch of held-out samples as views show them.

    Attributes:
        batch: on the device; its first ``count`` samples count.
        predicted: [b, K], the mean over the crops of each sample.
    """

    batch: Batch
    count: int
    predicted: Tensor


@dataclass(frozen=True)
class Whole:
    """A held-out sample at the size that it is stored in.

    Attributes:
        index: its number in the split, int64 [1].
        mask: as stored, int64 [1, *sides].
        predicted: [1, K, *sides].
        spacing: in mm; None: unknown.
        shown: the image, float32 [*sides] or [*sides, 3] in [0, 1], of a sample that is shown; None: it is not.
    """

    index: Tensor
    mask: Tensor
    predicted: Tensor
    spacing: Sequence[float] | None
    shown: Callable[[], np.ndarray] | None = None


class Predictions(Protocol):
    """A split's samples through a network, this process's share."""

    @property
    def about(self) -> SplitCases: ...

    @property
    def pictures(self) -> dict[str, bytes]:
        """JPEGs of those that are shown, by key."""
        ...

    def views(self) -> Iterator[Viewed]:
        """Yield the samples in views, as loaders make them."""
        ...

    def whole(self) -> Iterator[Whole]:
        """Yield the samples that have a mask, at stored size."""
        ...


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
    def head(self) -> Literal["dense", "linear", "pooled"]:
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
    def terms(self, logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
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


@dataclass(frozen=True)
class ImageSupervision(Supervision):
    """A task that a network learns from labels of entire images.

    Attributes:
        labels: the columns of ``Batch.labels``, from which the targets [b, L] come.
    """

    labels: Columns

    @property
    def loader_arguments(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def targets(self, batch: Batch, turned: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        assert batch.labels is not None
        return self.labels.targets(batch.labels)

    def score(self) -> "ImageScore":
        return ImageScore(self, self._validated)

    @abstractmethod
    def _validated(self, targets: np.ndarray, predicted: np.ndarray, index: np.ndarray) -> dict[str, float]:
        """Return the ``metrics`` of targets [N, L] and what is predicted [N, K] of the images ``index`` [N]."""

    def answers(self, predicted: Tensor, chosen: Chosen) -> np.ndarray:
        return np.asarray(predicted.double().numpy())


def image_rows(
    kind: type[ImageCase],
    predictions: Predictions,
    outputs: Sequence[str],
    targets: Callable[[Batch], Tensor],
    answered: Callable[[np.ndarray], np.ndarray] = lambda predicted: predicted,
) -> list[ImageCase]:
    """Return a row of ``kind`` for each image and each of its ``outputs``.

    ``targets``: of a batch, [b, L]; ``answered``: what rows have of [b, K] that are predicted, [b, L].
    """
    return [
        case
        for keys, patients, known, values in seen_images(predictions, targets)
        for case in image_cases(kind, keys, patients, predictions.about.split, outputs, known, answered(values))
    ]


def seen_images(
    predictions: Predictions, targets: Callable[[Batch], Tensor]
) -> Iterator[tuple[Sequence[str], Sequence[str], np.ndarray, np.ndarray]]:
    """Yield of each batch keys, patients, ``targets`` [b, L] and what is predicted, float64 [b, K]."""
    for view in predictions.views():
        rows = view.batch.index[: view.count].cpu().numpy()
        known = targets(view.batch)[: view.count].cpu().numpy()
        values = view.predicted[: view.count].double().cpu().numpy()
        yield predictions.about.keys[rows], predictions.about.patients[rows], known, values


class ImageScore:
    """Figures of all held-out images at once, as rows.

    Args:
        figures: by name, of targets and predictions [N, L] and the numbers of the images [N]; NaN is left out.
        known: the targets that count, of a batch's.
    """

    def __init__(
        self,
        task: Supervision,
        figures: Callable[[np.ndarray, np.ndarray, np.ndarray], Mapping[str, float]],
        known: Callable[[Tensor], Tensor] = lambda targets: targets,
    ) -> None:
        self.task, self.figures, self.known, self.rows = task, figures, known, list[tuple[np.ndarray, ...]]()

    def add(self, batch: Batch, losses: Any, count: int) -> None:
        row = batch.index, self.known(losses.targets), self.task.predicted(losses.logits)
        self.rows.append(tuple(values[:count].cpu().numpy() for values in row))

    def values(self) -> dict[str, float]:
        index, targets, predicted = gathered(self.rows)
        figures = self.figures(targets, predicted, index)
        return {name: value for name, value in figures.items() if not np.isnan(value)}


def gathered(rows: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Return all processes' rows in the order of the samples, whose numbers are the first array. Collective."""
    parts = [row for part in gather_objects([*rows]) for row in part if len(row[0])]
    arrays = [np.concatenate(values) for values in zip(*parts, strict=True)]
    order = np.argsort(arrays[0])
    return tuple(values[order] for values in arrays)


def single(value: Tensor) -> Tensor:
    """``Shared`` of evaluation."""
    return value
