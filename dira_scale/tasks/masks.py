"""Masks of images, in any number of dimensions: one structure (binary), or several classes and a background."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data.batch import IGNORE, Batch
from dira_scale.engine.task import Best
from dira_scale.metrics.cases import MaskCase
from dira_scale.metrics.figure import MEAN, Figure, Key
from dira_scale.metrics.segmentation import mask_cases, segmentation
from dira_scale.metrics.statistics.of_cases import Statistics, of_masks
from dira_scale.pixels.outlines import outlined
from dira_scale.runs.description import Metric, Output, Term
from dira_scale.tasks.labels import CE
from dira_scale.tasks.supervision import Chosen, Predictions, Shared, Supervision, gathered

DICE = "dice"  # a loss term, and the figure of a validation
MASK, BACKGROUND = "mask", "background"
SMOOTH = 1.0  # of the soft Dice (BenchmarkTransferLearning)
THRESHOLD = 0.5
SIDE, GAP = 256, 4  # of pictures, in pixels


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
class Segmentation(Supervision):
    """Targets: int64 [b, *size], ``IGNORE`` where nobody knows.

    Attributes:
        classes: the value of each class in masks, 0 the background; a pixel of another value counts as unknown. None:
            one structure, wherever a mask is above 0.
        linear: whether the network is linear in its encoder's maps, without a decoder.
    """

    classes: Mapping[str, int] | None
    linear: bool = False
    learned, pooled = "masks", False
    loss_terms: ClassVar[Mapping[str, Term]] = {
        CE: Term("Cross-entropy", "cross-entropy of what is known"),
        DICE: Term("Soft Dice loss", "one minus the Dice of probabilities, over all pixels of a batch"),
    }

    @property
    def head(self) -> Literal["dense", "linear"]:
        return "linear" if self.linear else "dense"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, without the background."""
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

    @property
    def loader_arguments(self) -> dict[str, Any]:
        return {"masks": True}

    @property
    def compared(self) -> Sequence[Key]:
        return [("Dice", MEAN)]

    def targets(self, batch: Batch, turned: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        assert batch.mask is not None
        return self.numbers(batch.mask[:, 0] if turned is None else turned(batch.mask[:, 0]))

    def numbers(self, stored: Tensor) -> Tensor:
        """Return the numbers of the classes of masks [b, *size], ``IGNORE`` where nobody knows."""
        if self.classes is None:
            return torch.where(stored == IGNORE, IGNORE, (stored > 0).long())
        numbers = torch.where(stored == 0, 0, IGNORE)
        for number, value in enumerate(self.classes.values(), 1):
            numbers = torch.where(stored == value, number, numbers)
        return numbers

    def terms(self, logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
        return dice_and_cross_entropy(logits, targets, shared)

    def predicted(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits.float()) if self.classes is None else torch.softmax(logits.float(), 1)

    def masks(self, probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is predicted and what is true, bool [b, classes, *size], both False where nobody knows."""
        predicted, numbers = self.classified(probabilities), [*range(1, len(self.names) + 1)]
        known = targets != IGNORE
        pairs = [((predicted == number) & known, targets == number) for number in numbers]
        return torch.stack([a for a, _ in pairs], 1), torch.stack([b for _, b in pairs], 1)

    def classified(self, probabilities: Tensor) -> Tensor:
        """[b, K, *size] -> the number of the predicted class, int64 [b, *size], 0 the background."""
        return (probabilities[:, 0] > THRESHOLD).long() if self.classes is None else probabilities.argmax(1)

    def score(self) -> "DiceScore":
        return DiceScore(self)

    def cases(self, predictions: Predictions) -> list[MaskCase]:
        """Without images of which no pixel is known: they have no mask."""
        made, about = list[MaskCase](), predictions.about
        for image in predictions.whole():
            targets, row = self.numbers(image.mask), int(image.index)
            if not (targets != IGNORE).any():
                continue
            predicted, true = (masks[0].cpu() for masks in self.masks(image.predicted, targets))
            described = about.keys[row], about.patients[row], about.split
            made += mask_cases(*described, predicted, true, self.names, image.spacing)
            if image.grey is not None:
                answers = self.classified(image.predicted)[0]
                predictions.pictures[about.keys[row]] = picture(image.grey(), targets[0], answers)
        return made

    def figures(self, cases: Sequence[MaskCase], chosen: Chosen) -> list[Figure]:
        return segmentation(cases)

    def statistics(self, cases: Sequence[MaskCase], chosen: Chosen) -> Statistics:
        return of_masks(cases, dict.fromkeys(figure.metric for figure in segmentation(cases)))

    def never_answered(self, cases: Sequence[MaskCase]) -> list[str]:
        true, predicted = ({c.label for c in cases if getattr(c, of)} for of in ("present", "predicted"))
        return [name for name in self.names if name in true - predicted]

    def answers(self, predicted: Tensor, chosen: Chosen) -> np.ndarray:
        values = np.array([0, *(self.classes or {MASK: 1}).values()], np.uint8)
        return np.asarray(values[self.classified(predicted).numpy()])


class DiceScore:
    """The mean over held-out images of the Dice of each class, 1 where both masks are empty; the mean over classes."""

    def __init__(self, task: Segmentation) -> None:
        self.task, self.rows = task, list[tuple[np.ndarray, ...]]()

    def add(self, batch: Batch, losses: Any, count: int) -> None:
        if not count:  # of a process without a batch of its own; MONAI's Dice of no image is an error
            return
        from monai.metrics import compute_dice  # lazy: takes seconds, and comes with an extra

        predicted, true = self.task.masks(self.task.predicted(losses.logits), losses.targets)
        dice = compute_dice(predicted[:count].float(), true[:count].float(), ignore_empty=False)
        dice[~(losses.targets[:count] != IGNORE).flatten(1).any(1)] = float("nan")  # no mask
        self.rows.append((batch.index[:count].cpu().numpy(), dice.cpu().numpy()))

    def values(self) -> dict[str, float]:
        _, dice = gathered(self.rows)
        by_class = np.nanmean(dice, 0)
        each = {f"{DICE}/{name}": float(value) for name, value in zip(self.task.names, by_class, strict=True)}
        return {DICE: float(by_class.mean())} | (each if len(each) > 1 else {})


def picture(grey: np.ndarray, true: Tensor, predicted: Tensor) -> bytes:
    """A JPEG of the outlines of both masks, side by side.

    Of a volume the axial slice with most of the true mask, else with most of the predicted one.

    Args:
        grey: float32 [*sides] in [0, 1].
        true, predicted: numbers of classes, int64 [*sides], 0 and below: background or unknown.
    """
    masks = [mask.clamp(min=0).to("cpu").numpy().astype(np.uint8) for mask in (true, predicted)]
    if grey.ndim == 3:
        shown = next((mask for mask in masks if mask.any()), masks[0])
        depth = int((shown > 0).sum((1, 2)).argmax())
        grey, masks = grey[depth], [mask[depth] for mask in masks]
    plane = (255 * grey).round().astype(np.uint8)
    left, right = (outlined(plane, mask, (), SIDE) for mask in masks)
    file = io.BytesIO()
    both = np.concatenate([left, np.full((SIDE, GAP, 3), 255, np.uint8), right], 1)
    PIL.Image.fromarray(both).save(file, "jpeg", quality=88)
    return file.getvalue()
