"""The parts that tasks on whole images share, whether they learn labels or numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from etils.epy import lazy_imports

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.cases import ImageCase, image_cases
from dira_scale.judge.tasks.task import ELSEWHERE, Chosen, Supervision, TaskConfig
from dira_scale.train.data.labels import Columns, LabelError

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.judge.tasks.predictions import Predictions
    from dira_scale.train.data.batch import Batch

with lazy_imports():
    import numpy as np

    from dira_scale.train.distributed import control


@dataclass
class ImageTask(TaskConfig):
    """Labels or numbers of whole images."""

    def named(self, facts: Mapping[str, Any], dataset: ShardedDataset) -> Self:
        """Return the same task of the labels that ``facts`` name, as a configuration of ``dataset`` would name them."""
        raise NotImplementedError

    def evaluated(self, facts: Mapping[str, Any], dataset: ShardedDataset, split: str) -> Supervision:
        """Raises UserError also for a dataset that has other classes of a label, and for a label that nobody knows in
        the split."""
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

    def score(self) -> ImageScore:
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
    parts = [row for part in control.gather_objects([*rows]) for row in part if len(row[0])]
    arrays = [np.concatenate(values) for values in zip(*parts, strict=True)]
    order = np.argsort(arrays[0])
    return tuple(values[order] for values in arrays)
