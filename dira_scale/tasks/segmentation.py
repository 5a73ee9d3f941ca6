"""Masks of images, in any number of dimensions: one structure (binary), or several classes and a background."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data.batch import IGNORE, Batch
from dira_scale.engine.task import Best
from dira_scale.metrics.cases import MaskCase
from dira_scale.metrics.figure import Figure
from dira_scale.metrics.segmentation import mask_cases, segmentation
from dira_scale.models.architecture import Architecture
from dira_scale.models.network import Encoder, Network
from dira_scale.runs.description import Metric, Output
from dira_scale.tasks.classification import gathered
from dira_scale.tasks.supervision import CE, DICE, Shared, SplitCases, probable

MASK, BACKGROUND = "mask", "background"
SMOOTH = 1.0  # of the soft Dice (BenchmarkTransferLearning)
THRESHOLD = 0.5


def dice_and_cross_entropy(logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
    """Soft Dice loss over all pixels of the batch, mean over classes; mean cross-entropy. Unknown pixels do not count.

    Args:
        logits: [b, 1, *size] of one structure, or [b, C, *size], the background first.
        targets: int64 [b, *size], 0 the background; ``IGNORE``: unknown.
    """
    logits, known, numbers = logits.float(), targets != IGNORE, targets.clamp(min=0)
    binary = logits.shape[1] == 1
    if binary:
        truth, probabilities = numbers[:, None].float(), torch.sigmoid(logits)
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")[:, 0]
    else:
        truth = F.one_hot(numbers, logits.shape[1]).movedim(-1, 1).float()
        probabilities = torch.softmax(logits, 1)
        losses = F.cross_entropy(logits, numbers, reduction="none")
    axes = [0, *range(2, logits.dim())]
    truth, probabilities = truth * known[:, None], probabilities * known[:, None]
    overlap, extent = (truth * probabilities).sum(axes), (truth + probabilities).sum(axes)
    sums = shared(torch.cat([overlap, extent, torch.stack([(losses * known).sum(), known.sum()])]))
    overlap, extent = sums[:-2].chunk(2)
    dice = (2 * overlap + SMOOTH) / (extent + SMOOTH)
    return {DICE: 1 - (dice if binary else dice[1:]).mean(), CE: sums[-2] / sums[-1].clamp(min=1)}


@dataclass(frozen=True)
class Segmentation:
    """See :class:`dira_scale.tasks.supervision.Supervision`. Targets: int64 [b, *size], ``IGNORE`` where
    nobody knows.

    Attributes:
        classes: the value of each class in masks, 0 the background; a pixel of another value counts as unknown. None:
            one structure, wherever a mask is above 0.
    """

    classes: Mapping[str, int] | None
    pooled = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, without the background."""
        return (MASK,) if self.classes is None else tuple(self.classes)

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.names if self.classes is None else (BACKGROUND, *self.names)

    @property
    def output(self) -> Output:
        return Output("sigmoid" if self.classes is None else "softmax", names=self.outputs)

    @property
    def best(self) -> Best:
        return Best(DICE, "max")

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {DICE: Metric("Dice, mean over classes of the mean over images", "max")}

    def network(self, model: Architecture, encoder: Encoder) -> Network:
        return model.build_network(encoder, len(self.outputs))

    def targets(self, batch: Batch, turned: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        assert batch.mask is not None
        return self.numbers(batch.mask[:, 0] if turned is None else turned(batch.mask[:, 0]))

    def numbers(self, stored: Tensor) -> Tensor:
        """Of the values of masks [b, *size], ``IGNORE`` where nobody knows."""
        if self.classes is None:
            return torch.where(stored == IGNORE, IGNORE, (stored > 0).long())
        numbers = torch.where(stored == 0, 0, IGNORE)
        for number, value in enumerate(self.classes.values(), 1):
            numbers = torch.where(stored == value, number, numbers)
        return numbers

    def terms(self, logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
        return dice_and_cross_entropy(logits, targets, shared)

    def probabilities(self, logits: Tensor) -> Tensor:
        return probable(logits, self.output.activation)

    def masks(self, probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is predicted and what is true, bool [b, classes, *size], both False where nobody knows."""
        predicted, numbers = self.answers(probabilities), [*range(1, len(self.names) + 1)]
        known = targets != IGNORE
        pairs = [((predicted == number) & known, targets == number) for number in numbers]
        return torch.stack([a for a, _ in pairs], 1), torch.stack([b for _, b in pairs], 1)

    def answers(self, probabilities: Tensor) -> Tensor:
        """[b, K, *size] -> the number of the predicted class, int64 [b, *size], 0 the background."""
        return (probabilities[:, 0] > THRESHOLD).long() if self.classes is None else probabilities.argmax(1)

    def score(self) -> "DiceScore":
        return DiceScore(self)

    def cases(
        self,
        about: SplitCases,
        index: Tensor,
        probabilities: Tensor,
        targets: Tensor,
        spacing: Sequence[float] | None = None,
    ) -> list[MaskCase]:
        """Without images of which no pixel is known: they have no mask."""
        cases: list[MaskCase] = []
        predicted, true = (masks.cpu() for masks in self.masks(probabilities, targets))
        known = (targets != IGNORE).flatten(1).any(1).tolist()
        for i, row in enumerate(index.tolist()):
            if known[i]:
                described = about.keys[row], about.patients[row], about.split
                cases += mask_cases(*described, predicted[i], true[i], self.names, spacing)
        return cases

    def thresholds(self, cases: Sequence[MaskCase]) -> dict[str, float] | None:
        return None

    def figures(self, cases: Sequence[MaskCase], thresholds: Mapping[str, float] | None) -> list[Figure]:
        return segmentation(cases)

    def never_answered(self, cases: Sequence[MaskCase]) -> list[str]:
        true, predicted = ({c.label for c in cases if getattr(c, of)} for of in ("present", "predicted"))
        return [name for name in self.names if name in true - predicted]

    def judged(self, thresholds: Mapping[str, float] | None) -> dict[str, Any]:
        return {}


class DiceScore:
    """The mean over held-out images of the Dice of each class, 1 where both masks are empty; the mean over classes."""

    def __init__(self, task: Segmentation) -> None:
        self.task, self.rows = task, list[tuple[np.ndarray, ...]]()

    def add(self, batch: Batch, losses: Any, count: int) -> None:
        from monai.metrics import compute_dice  # lazy: takes seconds, and comes with an extra

        predicted, true = self.task.masks(self.task.probabilities(losses.logits), losses.targets)
        dice = compute_dice(predicted[:count].float(), true[:count].float(), ignore_empty=False)
        dice[~(losses.targets[:count] != IGNORE).flatten(1).any(1)] = float("nan")  # no mask
        self.rows.append((batch.index[:count].cpu().numpy(), dice.cpu().numpy()))

    def values(self) -> dict[str, float]:
        _, dice = gathered(self.rows)
        by_class = np.nanmean(dice, 0)
        each = {f"{DICE}/{name}": float(value) for name, value in zip(self.task.names, by_class, strict=True)}
        return {DICE: float(by_class.mean())} | (each if len(each) > 1 else {})
