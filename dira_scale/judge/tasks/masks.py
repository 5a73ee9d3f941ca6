"""Masks of images, in any number of dimensions: one structure, regions that may overlap, or several classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from etils.epy import lazy_imports

from dira_scale.base.arguments import Above, ArgumentError
from dira_scale.base.config.schema import one_of, setting
from dira_scale.dataset.metrics.cases import MaskCase
from dira_scale.dataset.metrics.figure import MEAN, Figure, Key
from dira_scale.dataset.metrics.segmentation import class_statistic, mask_cases, segmentation
from dira_scale.dataset.metrics.statistics.weighted import Statistic, Statistics, average
from dira_scale.judge.tasks.classes import Classes, check_classes, regions_of, values_of
from dira_scale.judge.tasks.images import gathered
from dira_scale.judge.tasks.labels import CE
from dira_scale.judge.tasks.task import ELSEWHERE, AllReduce, Chosen, Supervision, TaskConfig
from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.labels import IGNORE
from dira_scale.train.runs.description import Best, Metric, Output, Term

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.judge.tasks.predictions import Predictions
    from dira_scale.train.data.batch import Batch
    from dira_scale.train.inputs import Inputs

with lazy_imports():
    import monai.metrics
    import numpy as np
    import torch
    import torch.nn.functional as F

    from dira_scale.dataset.pixels import outlines
    from dira_scale.judge.tasks import mask_values

DICE = "dice"  # a loss term, and the figure of a validation
MASK, BACKGROUND = "mask", "background"
SMOOTH = 1.0  # of the soft Dice (BenchmarkTransferLearning)
THRESHOLD = 0.5
PRETRAINED, RANDOM, LINEAR, FCN = "pretrained", "random", "linear", "fcn"  # a decoder
Values = Sequence[Sequence[int]]
ONE: Values = ((1,),)  # the number of one structure


@dataclass
class MaskTask(TaskConfig):
    """Masks of images."""

    loss: list[str] = setting(one_of("dice", "ce"))
    ce_weight: float = setting(Above(0), 1.0)
    figure: str = setting(one_of("Dice", "IoU", "pooled Dice", "pooled IoU"), "Dice")
    classes: dict[str, Any] | None = None
    background: bool = True
    decoder: str = setting(one_of(PRETRAINED, RANDOM, LINEAR, FCN))

    def __post_init__(self) -> None:
        """Raises UserError for classes and regions mixed, for two classes of one value, or one of the background's;
        ArgumentError for one class, or regions, without a background."""
        super().__post_init__()
        check_classes(self.classes)
        if not self.background and (len(self.classes or {}) < 2 or regions_of(self.classes or {})):
            raise ArgumentError("background", False, "true, but with two classes or more that exclude each other")

    @property
    def takes_decoder(self) -> bool:
        return self.decoder == PRETRAINED

    def input_arguments(self) -> dict[str, Any]:
        return {"masks": True, "classes": values_of(self.classes) if self.classes else None}

    def supervision(self, data: Inputs) -> Supervision:
        mask_values.check_masks(data, self.classes)
        return self.described({})

    def described(self, facts: Mapping[str, Any]) -> Supervision:
        head: Any = self.decoder if self.decoder in (LINEAR, FCN) else "dense"
        return Segmentation(self.classes, self.ce_weight, self.figure, head, self.background)

    def evaluated(self, facts: Mapping[str, Any], dataset: ShardedDataset, split: str) -> Supervision:
        mask_values.check_evaluated(dataset, split, self.classes, ELSEWHERE)
        return self.described(facts)


def dice_and_cross_entropy(
    logits: Tensor, targets: Tensor, regions: Values | None, all_reduce: AllReduce, background: int = 1
) -> dict[str, Tensor]:
    """Soft Dice loss over all pixels of the batch, mean over classes; mean cross-entropy. Unknown pixels do not count.

    Args:
        logits: [b, C, *size], of each of the ``regions``, or of classes.
        targets: int64 [b, *size]; ``IGNORE``: unknown.
        regions: for each the targets that are in it; each has a sigmoid of its own. None: classes, with a softmax.
        background: how many of the first classes the Dice leaves out.
    """
    logits, known = logits.float(), targets != IGNORE
    if regions:
        truth, probabilities = within(targets, regions).float(), torch.sigmoid(logits)
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    else:
        numbers = targets.clamp(min=0)
        classes = torch.arange(logits.shape[1], device=logits.device)
        truth = (numbers[:, None] == per_sample(classes[None], logits)).float()
        probabilities = torch.softmax(logits, 1)
        losses = F.cross_entropy(logits, numbers, reduction="none")
    axes = [0, *range(2, logits.dim())]
    truth, probabilities = truth * known[:, None], probabilities * known[:, None]
    overlap, extent = (truth * probabilities).sum(axes), (truth + probabilities).sum(axes)
    sums = all_reduce(torch.cat([overlap, extent, torch.stack([(losses * known).sum(), known.sum()])]))
    overlap, extent = sums[:-2].chunk(2)
    dice = (2 * overlap + SMOOTH) / (extent + SMOOTH)
    return {DICE: 1 - (dice if regions else dice[background:]).mean(), CE: sums[-2] / sums[-1].clamp(min=1)}


def within(targets: Tensor, regions: Values) -> Tensor:
    """Return where ``targets`` [b, *size] are in each of the ``regions``: bool [b, regions, *size]."""
    return torch.stack([torch.stack([targets == value for value in values]).any(0) for values in regions], 1)


@dataclass(frozen=True)
class Segmentation(Supervision):
    """Targets: int64 [b, *size], ``IGNORE`` where nobody knows: numbers of classes; of regions the masks' values.

    Attributes:
        classes: the value of each class in masks, 0 the background; or the values of each region, as of a tumour and
            its core, which is part of it. A pixel of another value counts as unknown. None: one structure, wherever a
            mask is above 0.
        ce_weight: by which the cross-entropy is multiplied.
        figure: the metric by which runs are compared.
        head: of the network; ``linear`` in its encoder's maps, without a decoder.
        background: whether 0 is a class of its own, the first; else its pixels are unknown.
    """

    classes: Classes | None
    ce_weight: float = 1.0
    figure: str = "Dice"
    head: Literal["dense", "linear", "fcn"] = "dense"
    background: bool = True
    learned, pooled = "masks", False
    loss_terms: ClassVar[Mapping[str, Term]] = {
        CE: Term("Cross-entropy", "cross-entropy of what is known, times task.ce_weight"),
        DICE: Term("Soft Dice loss", "one minus the Dice of probabilities, over all pixels of a batch"),
    }
    best = Best(DICE, "max")
    metrics: ClassVar[Mapping[str, Metric]] = {DICE: Metric("Dice, mean over classes of the mean over images", "max")}
    loader_arguments: ClassVar[dict[str, Any]] = {"masks": True}

    @property
    def names(self) -> tuple[str, ...]:
        return (MASK,) if self.classes is None else tuple(self.classes)

    @property
    def regions(self) -> Values | None:
        """The targets of each output that has a sigmoid of its own; None: classes that exclude each other."""
        return ONE if self.classes is None else regions_of(self.classes)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (BACKGROUND, *self.names) if self._first else self.names

    @property
    def output(self) -> Output:
        return Output("sigmoid" if self.regions else "softmax", names=self.outputs)

    @property
    def compared(self) -> Sequence[Key]:
        return [(self.figure, MEAN)]

    def targets(self, batch: Batch, turned: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        assert batch.mask is not None
        return self.numbers(batch.mask[:, 0] if turned is None else turned(batch.mask[:, 0]))

    def numbers(self, stored: Tensor) -> Tensor:
        """Return the targets of masks [b, *size], ``IGNORE`` where nobody knows."""
        if self.classes is None:
            return torch.where(stored == IGNORE, IGNORE, (stored > 0).long())
        numbers = torch.where((stored == 0) & self.background, 0, IGNORE)
        for number, value in enumerate(values_of(self.classes), self._first):
            numbers = torch.where(stored == value, value if self.regions else number, numbers)
        return numbers

    def terms(self, logits: Tensor, targets: Tensor, all_reduce: AllReduce) -> dict[str, Tensor]:
        terms = dice_and_cross_entropy(logits, targets, self.regions, all_reduce, self._first)
        return terms | {CE: self.ce_weight * terms[CE]}

    def predicted(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits.float()) if self.regions else torch.softmax(logits.float(), 1)

    def masks(self, probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted and the true masks, bool [b, classes, *size], both False where nobody knows."""
        return self.segments(probabilities) & (targets != IGNORE)[:, None], within(targets, self._targets)

    def classified(self, probabilities: Tensor) -> Tensor:
        """[b, K, *size] -> the predicted class, counted from 1, int64 [b, *size], 0 the background; of regions that
        overlap the last one."""
        if self.regions:
            return numbered(self.segments(probabilities))
        return probabilities.argmax(1) + (not self.background)

    def segments(self, predicted: Tensor) -> Tensor:
        return predicted > THRESHOLD if self.regions else within(predicted.argmax(1), self._targets)

    @property
    def _targets(self) -> Values:
        """The targets of each class."""
        return self.regions or [[self._first + number] for number in range(len(self.names))]

    @property
    def _first(self) -> int:
        """The number of the first class among the network's outputs."""
        return int(self.background and not self.regions)

    def score(self) -> DiceScore:
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
            if image.shown is not None:
                answers = self.classified(image.predicted)[0]
                known = numbered(within(targets, self._targets))[0]
                pair = known.cpu().numpy(), answers.cpu().numpy()
                predictions.pictures[about.keys[row]] = outlines.side_by_side(image.shown(), *pair)
        return made

    def figures(self, cases: Sequence[MaskCase], chosen: Chosen) -> list[Figure]:
        return segmentation(cases)

    def statistics(self, cases: Sequence[MaskCase], chosen: Chosen) -> Statistics:
        by_place = {(case.key, case.label): case for case in cases}
        rows, names = dict.fromkeys(case.key for case in cases), dict.fromkeys(case.label for case in cases)
        patients = {case.key: case.patient for case in cases}
        figures: dict[Key, Statistic] = {}
        for metric in dict.fromkeys(figure.metric for figure in segmentation(cases)):
            for name in names:
                figures[metric, name] = class_statistic(metric, [by_place.get((row, name)) for row in rows])
            figures[metric, MEAN] = average([figures[metric, name] for name in names])
        return Statistics(figures, [*rows], [patients[row] for row in rows])

    def never_answered(self, cases: Sequence[MaskCase]) -> list[str]:
        true, predicted = ({c.label for c in cases if getattr(c, of)} for of in ("present", "predicted"))
        return [name for name in self.names if name in true - predicted]

    def answers(self, predicted: Tensor, chosen: Chosen) -> np.ndarray:
        """Answer as in the base class; a region has the first of its values, and overwrites the regions before it."""
        values = [values[0] for values in self.regions] if self.regions else values_of(self.classes or {})
        return np.array([0, *values], np.uint8)[self.classified(predicted).numpy()]


def numbered(masks: Tensor) -> Tensor:
    """[b, classes, *size] -> the number of the last class that is there, int64 [b, *size], 0: none."""
    numbers = torch.zeros_like(masks[:, 0], dtype=torch.int64)
    for number, mask in enumerate(masks.unbind(1), 1):
        numbers = torch.where(mask, number, numbers)
    return numbers


class DiceScore:
    """The mean over held-out images of the Dice of each class, 1 where both masks are empty; the mean over classes."""

    def __init__(self, task: Segmentation) -> None:
        self.task, self.rows = task, list[tuple[np.ndarray, ...]]()

    def add(self, batch: Batch, losses: Any, count: int) -> None:
        if not count:  # of a process without a batch of its own; MONAI's Dice of no image is an error
            return
        predicted, true = self.task.masks(self.task.predicted(losses.logits), losses.targets)
        dice = monai.metrics.compute_dice(predicted[:count].float(), true[:count].float(), ignore_empty=False)
        dice[~(losses.targets[:count] != IGNORE).flatten(1).any(1)] = float("nan")  # no mask
        self.rows.append((batch.index[:count].cpu().numpy(), dice.cpu().numpy()))

    def values(self) -> dict[str, float]:
        _, dice = gathered(self.rows)
        by_class = np.nanmean(dice, 0)
        each = {f"{DICE}/{name}": float(value) for name, value in zip(self.task.names, by_class, strict=True)}
        return {DICE: float(by_class.mean())} | (each if len(each) > 1 else {})
