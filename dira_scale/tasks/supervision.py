"""What a task learns, as training and evaluation see it: targets, losses, scores, rows of cases and their figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.manifest import ShardedDataset
from dira_scale.engine.task import Best
from dira_scale.metrics.figure import Figure
from dira_scale.models.architecture import Architecture
from dira_scale.models.network import Encoder, Network
from dira_scale.runs.description import Metric, Output
from dira_scale.training.validation import Score

CE, DICE = "ce", "dice"  # loss terms
# Sums over the processes, for a loss that is a mean over what is known in the global batch; in evaluation, where each
# process has batches of its own, what it gets.
Shared = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SplitCases:
    """The samples of a split, counted over all datasets, by the manifest's keys. Of several datasets a key begins with
    the dataset's name."""

    split: str
    keys: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, datasets: Sequence[ShardedDataset], split: str) -> "SplitCases":
        def column(name: str) -> np.ndarray:
            values = [[*map(str, dataset.column(name)[dataset.rows(split)])] for dataset in datasets]
            if len(datasets) > 1 and name == "key":
                values = [
                    [f"{d.info.name}:{value}" for value in part] for d, part in zip(datasets, values, strict=True)
                ]
            return np.array([value for part in values for value in part], object)

        return cls(split, column("key"), column("patient"))


class Supervision(Protocol):
    """Attributes:
    outputs: names of the network's outputs, a channel each.
    output: what they mean.
    best: the figure of a validation by which checkpoints are compared.
    metrics: of validation, by name.
    """

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def output(self) -> Output: ...

    @property
    def best(self) -> Best: ...

    @property
    def metrics(self) -> Mapping[str, Metric]: ...

    @property
    def pooled(self) -> bool:
        """Whether an image has one output, or each of its pixels."""
        ...

    def network(self, model: Architecture, encoder: Encoder) -> Network:
        """``encoder`` with the head, and a decoder where the task has one, of random weights."""
        ...

    def targets(self, batch: Batch, turned: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Of a batch on the device. ``turned``: puts masks where the distorted view has them."""
        ...

    def terms(self, logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
        """The losses by name, 0-dim means over what is known."""
        ...

    def probabilities(self, logits: Tensor) -> Tensor: ...

    def score(self) -> Score:
        """For one validation."""
        ...

    def cases(
        self,
        about: SplitCases,
        index: Tensor,
        probabilities: Tensor,
        targets: Tensor,
        spacing: Sequence[float] | None = None,
    ) -> list[Any]:
        """Rows of ``metrics.cases`` of the samples ``index``. ``spacing``: of the pixels of masks in mm, if known."""
        ...

    def thresholds(self, cases: Sequence[Any]) -> dict[str, float] | None:
        """By name, chosen on all cases of the validation split; None where the task has none."""
        ...

    def figures(self, cases: Sequence[Any], thresholds: Mapping[str, float] | None) -> list[Figure]:
        """Of all cases of a split."""
        ...

    def never_answered(self, cases: Sequence[Any]) -> list[str]:
        """The classes that cases have and no answer has, although each case has an answer."""
        ...

    def judged(self, thresholds: Mapping[str, float] | None) -> dict[str, Any]:
        """What the figures' intervals depend on: arguments of ``statistics.intervals``."""
        ...


def single(value: Tensor) -> Tensor:
    """``Shared`` of evaluation."""
    return value


def probable(logits: Tensor, activation: str | None) -> Tensor:
    """Probabilities of logits [b, C, ...], float32."""
    return torch.sigmoid(logits.float()) if activation == "sigmoid" else torch.softmax(logits.float(), 1)
