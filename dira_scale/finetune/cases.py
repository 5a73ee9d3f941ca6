"""What a network says of each case of a split: of labels from views, of masks at the size that images are stored in."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dira_scale.data.samples import Samples
from dira_scale.distributed.world import World
from dira_scale.engine.watchdog import alive
from dira_scale.evaluation.stored import Stored, dense, read_ahead
from dira_scale.finetune.pictures import picture, spread
from dira_scale.models.normalise import normalised
from dira_scale.runs.description import Input
from dira_scale.tasks.segmentation import Segmentation
from dira_scale.tasks.supervision import SplitCases, Supervision
from dira_scale.training.held_out import HeldOutBatches
from dira_scale.training.inputs import Inputs
from dira_scale.training.validation import evaluating


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
