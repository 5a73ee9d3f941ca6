"""A split's samples through a network: as views, or whole at the size that they are stored in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import merged
from dira_scale.dataset.pixels.codecs import DecodeError
from dira_scale.judge.evaluation.inference import Stored, dense, read_ahead
from dira_scale.judge.tasks.predictions import SplitCases, Viewed, Whole
from dira_scale.judge.tasks.task import Supervision
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.distributed.control import gather_objects
from dira_scale.train.engine.watchdog import alive
from dira_scale.train.held_out import HeldOutBatches
from dira_scale.train.validation import evaluating

SHOWN = 6  # pictures of a split


@dataclass(frozen=True)
class HeldOutSplit:
    """This process's share of a split, as :class:`dira_scale.judge.tasks.predictions.Predictions`.

    Attributes:
        predicted: images [b, C, *size] in [0, 1] on ``device`` to what the network says of them.
        held_out: batches of views, of which several are crops of one image. Their order is that of the split.
        size: of views; ``stored``: the arguments of ``Stored.seen``.
        window: by which whole samples are seen (``evaluation.config``).
        workers: decoding threads.
        shows: whether pictures are made of some samples.
        advance: called with the number of samples that were seen.
    """

    datasets: Sequence[ShardedDataset]
    about: SplitCases
    predicted: Callable[[Tensor], Tensor]
    device: torch.device
    held_out: HeldOutBatches
    size: tuple[int, ...]
    stored: Mapping[str, Any]
    window: str
    workers: int
    shows: bool = False
    advance: Callable[[int], None] = lambda count: None
    pictures: dict[str, bytes] = field(default_factory=dict)

    @torch.no_grad()
    def cases(self, supervision: Supervision, network: nn.Module) -> list[Any]:
        """Return all processes' rows of cases. ``network``: that which ``predicted`` asks. Collective."""
        with evaluating(network):
            return merged(gather_objects(supervision.cases(self)))

    def without_mask(self, cases: Sequence[Any]) -> int:
        """Return how many samples have no mask, and so no row in all processes' ``cases``."""
        return self.samples - len({case.key for case in cases})

    def views(self) -> Iterator[Viewed]:
        for stored, count in self.held_out.batches():
            alive()
            if count:
                batch = stored.to(self.device)
                yield Viewed(batch, count, torch.stack([*map(self.predicted, batch.views)]).mean(0))
                self.advance(count)

    def whole(self) -> Iterator[Whole]:
        samples, order = Samples(self.datasets, self.about.split), self.held_out.order
        read = partial(with_mask, SampleReader(samples), self.stored)
        mine = [n for step in range(order.steps) if order.counts(step) for n in order.batch_at(step).index.tolist()]
        shown = {mine[int(n)] for n in np.linspace(0, len(mine) - 1, SHOWN)} if mine and self.shows else set()
        for item in read_ahead(read, mine, self.workers, self.device):
            alive()
            self.advance(1)
            if item is None:
                continue
            sample, stored, mask = item
            try:
                predicted = dense(self.predicted, stored, self.size, self.window, self.device)
            except DecodeError as error:
                raise samples.damaged(sample, error) from error
            number, row = samples.locate(np.array([sample]))
            spacing = self.datasets[int(number[0])].cell("spacing", int(row[0]))
            picture = stored.shown if sample in shown else None
            target = torch.from_numpy(mask).long()
            yield Whole(torch.tensor([sample]), target[None], predicted[None], spacing, picture)

    @property
    def samples(self) -> int:
        """The number of samples that all processes see together."""
        order = self.held_out.order
        return min(order.batches * order.batch, order.size)


def with_mask(reader: SampleReader, seen: Mapping[str, Any], sample: int) -> tuple[int, Stored, np.ndarray] | None:
    """Return a sample as it is ``seen``, with its mask; None without one."""
    mask = reader.mask(sample)
    return None if mask is None else (sample, Stored.of(reader, sample).seen(**seen), mask)
