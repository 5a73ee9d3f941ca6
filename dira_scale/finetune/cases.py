"""What a network says of each case of a split: of labels from views, of masks at the size that images are stored in."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from dira_scale.data.samples import Samples
from dira_scale.distributed.world import World
from dira_scale.engine.watchdog import alive
from dira_scale.evaluation.stored import Stored, dense, read_ahead
from dira_scale.models.normalise import normalised
from dira_scale.pixels.outlines import outlined
from dira_scale.runs.description import Input
from dira_scale.tasks.segmentation import Segmentation
from dira_scale.tasks.supervision import SplitCases, Supervision
from dira_scale.training.held_out import HeldOutBatches
from dira_scale.training.inputs import Inputs
from dira_scale.training.validation import evaluating

CASES, SIDE, GAP = 6, 256, 4  # pictures; pixels


def spread(samples: Sequence[int]) -> set[int]:
    """``CASES`` of them, evenly spaced."""
    return {samples[int(n)] for n in np.linspace(0, len(samples) - 1, CASES)} if samples else set()


def picture(stored: Stored, true: Tensor, predicted: Tensor) -> bytes:
    """A JPEG. ``true`` and ``predicted``: numbers of classes, int64 [*sides], 0 and below: background or unknown.

    Of a volume the axial slice with most of the true mask, else with most of the predicted one.
    """
    grey = replace(stored, step=None).image().mean(0).numpy()
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


def predictor(world: World, supervision: Supervision, network: nn.Module, input: Input) -> Callable[[Tensor], Tensor]:
    """Images [b, C, *size] in [0, 1] on the device to probabilities."""

    def probabilities(images: Tensor) -> Tensor:
        with world.autocast():
            return supervision.probabilities(network(normalised(images, input)))

    return probabilities


@torch.no_grad()
def evaluate(
    world: World,
    supervision: Supervision,
    network: nn.Module,
    held_out: HeldOutBatches,
    about: SplitCases,
    input: Input,
) -> list[Any]:
    """This rank's cases; of several crops of an image the mean of their probabilities."""
    cases, predicted = list[Any](), predictor(world, supervision, network, input)
    with evaluating(network):
        for stored, count in held_out.batches():
            alive()
            if not count:
                continue
            batch = stored.to(world.device)
            probabilities, targets = torch.stack([*map(predicted, batch.views)]).mean(0), supervision.targets(batch)
            cases += supervision.cases(about, batch.index[:count], probabilities[:count], targets[:count])
    return cases


@torch.no_grad()
def evaluate_masks(
    world: World,
    supervision: Segmentation,
    network: nn.Module,
    held_out: HeldOutBatches,
    about: SplitCases,
    input: Input,
    data: Inputs,
    window: str,
    pictures: dict[str, bytes] | None = None,
) -> list[Any]:
    """This rank's cases, at stored size; distances are in mm where the manifest knows the spacing.

    Samples without a mask are left out. ``pictures``: gets some of them, by key.
    """
    samples, cases = Samples(data.datasets, about.split), list[Any]()
    predicted = predictor(world, supervision, network, input)

    def read(sample: int) -> tuple[int, Stored, Tensor] | None:
        mask = samples.mask(sample)
        if mask is None:
            return None
        return sample, Stored.of(samples, sample).seen(**data.views.stored), torch.from_numpy(mask).long()

    mine = [*counted(held_out)]
    shown = set() if pictures is None else spread(mine)
    with evaluating(network):
        for item in read_ahead(read, mine, data.workers):
            alive()
            if item is None:
                continue
            sample, stored, mask = item
            probabilities = dense(predicted, stored, input.size, window, world.device)
            number, row = samples.locate(torch.tensor([sample]).numpy())
            spacing = data.datasets[int(number[0])].cell("spacing", int(row[0]))
            targets = supervision.numbers(mask[None])
            cases += supervision.cases(about, torch.tensor([sample]), probabilities[None], targets, spacing)
            if pictures is not None and sample in shown:
                predicted_classes = supervision.answers(probabilities[None])[0]
                pictures[about.keys[sample]] = picture(stored, targets[0], predicted_classes)
    return cases


def counted(held_out: HeldOutBatches) -> Iterator[int]:
    """The samples that this rank counts."""
    for step in range(held_out.order.steps):
        if held_out.order.counts(step):
            yield from held_out.order.batch_at(step).index.tolist()
