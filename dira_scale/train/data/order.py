"""Compute which sample comes at which step: pure arithmetic, without a list of samples.

An epoch of N slots and batches of B samples takes U = steps * B slots. Slots form one endless sequence (cycle after
cycle of N), and epoch e takes the U slots from e * U on, so an epoch starts with the slots that the last one dropped.
Then

1. blocks of ``block`` consecutive slots are permuted by a bijection keyed by the epoch (a last partial block stays at
   the end);
2. the sequence is split into ``lanes`` of equal length;
3. within a lane, samples are shuffled again within windows of ``window`` blocks;
4. step k takes the next B / lanes samples of every lane. A rank owns a contiguous range of lanes, so its samples are a
   contiguous part of the batch that a single process would have taken.

The default, blocks of one sample, is a full shuffle; larger blocks keep reads sequential for disks or object stores
that need it.

A :class:`~dira_scale.train.data.selection.Selection` (a list, of 8 bytes a chosen sample) changes only the end of this:
``sizes`` are those of its parts, and row r of part p is the sample ``samples[sum(sizes[:p]) + r]``. With N negatives
for each positive a dataset of P positives and M negatives has two parts, mixed as two datasets are: the positives fill
P slots of a cycle and the negatives N * P, which is a weight of N * P / M. So cycle c holds every positive, and of the
negatives those with the numbers c * N * P to (c + 1) * N * P - 1 of an endless repetition of their fixed shuffle: each
cycle others, and none twice before all were used.

With :class:`~dira_scale.train.data.repeats.Repeats` the rows above are *draws*: ``sizes`` counts these, and a draw is
looked up in the prefix sum of the samples' repeats.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import numpy as np

from dira_scale.base.arguments import ArgumentError, AtLeast, check_fields
from dira_scale.dataset.epochs import smaller_batch
from dira_scale.train.data import random
from dira_scale.train.data.repeats import Repeats
from dira_scale.train.data.selection import Selection

ORDER_VERSION = 1  # part of every key: raise it when the arithmetic below changes the order


@dataclass(frozen=True)
class StepSamples:
    """The samples of one step on one rank.

    Attributes:
        epoch: which epoch the step belongs to.
        index: int64 [b], samples counted over the whole splits of all datasets: row r of dataset d is the number of
            rows of the datasets before d, plus r.
        occurrence: int64 [b], tells a sample's repetitions in the epoch apart (> 0 only with wrapping, weights > 1 or
            repeats).
    """

    epoch: int
    index: np.ndarray
    occurrence: np.ndarray


@dataclass(frozen=True)
class Order:
    """The training order of one dataset or of a weighted mixture of several.

    Args:
        sizes: rows of the selected split, for each dataset.
        seed: of the run.
        batch: global batch size B.
        weights: dataset d fills ``round(weights[d] * sizes[d])`` slots of an epoch; its rows come in a fixed shuffled
            order that continues over the epochs, so none repeats before all others were used.
        lanes: see above; default B.
        block, window: see above; in samples and in blocks.
        remainder: ``drop`` leaves N mod B slots to the next epoch; ``wrap`` borrows from it to fill the last batch.
        identity: names the content (dataset hashes, split, selection); it determines the order.
        selection: which samples, where not all: its parts take the place of the datasets above. None: all.
        repeats: how often each of these comes in an epoch; ``sizes`` are of draws then. None: once.

    Raises ArgumentError for values outside their range, and where sizes, batch and lanes do not fit, with numbers that
    do.
    """

    sizes: tuple[int, ...]
    seed: int
    batch: Annotated[int, AtLeast(1)]
    weights: tuple[float, ...] | None = None
    lanes: Annotated[int | None, AtLeast(1)] = None
    block: Annotated[int, AtLeast(1)] = 1
    window: Annotated[int, AtLeast(1)] = 1
    remainder: Literal["drop", "wrap"] = "drop"
    identity: str = ""
    selection: Selection | None = None
    repeats: Repeats | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.weights is not None and len(self.weights) != len(self.sizes):
            raise ArgumentError("weights", self.weights, f"one for each of {len(self.sizes)} datasets")
        if self.batch % self._lanes:
            divisors = replace(self, lanes=None).admissible_worlds()
            expected = f"a divisor of the global batch of {self.batch}: one of {divisors}"
            raise ArgumentError("lanes", self._lanes, expected)
        # Of a dataset whose images are all others' near-duplicates, weights draw none.
        drawn_by_weights = self.repeats is not None and sum(self.sizes) > 0
        empty = [d for d, slots in enumerate(self._slots) if slots < 1 and (self.sizes[d] or not drawn_by_weights)]
        if empty:
            raise ArgumentError("weights", self.weights, f"more for dataset {empty[0]}, whose {self.sizes[empty[0]]} "
                                "rows contribute no sample to an epoch, or this dataset left out")  # fmt: skip
        if self.remainder == "drop" and self.epoch_size < self.batch:
            some = f"{self.epoch_size} samples"
            some += f" of {self.selection.split_size}, which were chosen," if self.selection else ""
            raise ArgumentError(
                "batch", self.batch, f"{smaller_batch(self.epoch_size)} (the largest power of two, which divides most "
                f"queues), or the remainder 'wrap': {some} do not fill one global batch of {self.batch}"
            )  # fmt: skip

    @property
    def steps_per_epoch(self) -> int:
        return self.epoch_size // self.batch if self.remainder == "drop" else -(-self.epoch_size // self.batch)

    @property
    def split_size(self) -> int:
        """Samples of the whole splits, selected or not."""
        if self.selection is None:
            return sum(self.sizes) if self.repeats is None else len(self.repeats.ends)
        return self.selection.split_size

    def draws(self, samples: np.ndarray) -> np.ndarray:
        """Return whether each of ``samples`` [n] comes at all, bool [n]."""
        place = samples if self.selection is None else self.selection.find(samples)
        drawn = place >= 0
        if self.repeats is not None:
            drawn[drawn] = self.repeats.counts(place[drawn]) > 0
        return drawn

    @property
    def dropped(self) -> int:
        """Slots that an epoch leaves to the next."""
        return max(0, self.epoch_size - self._used)

    def admissible_worlds(self) -> list[int]:
        """Return the numbers of ranks that divide the lanes."""
        return [d for d in range(1, self._lanes + 1) if self._lanes % d == 0]

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> StepSamples:
        """Samples of optimizer step ``step`` (counted from 0 over all epochs) on ``rank``: B / world of them.

        Raises ArgumentError when ``world`` does not divide the lanes.
        """
        return self.positions(range(step, step + 1), rank, world)[0]

    def positions(self, steps: range, rank: int = 0, world: int = 1) -> list[StepSamples]:
        """``batch_at`` of each of ``steps``, computed at once."""
        assert steps.start >= 0 and 0 <= rank < world
        if self._lanes % world:
            raise ArgumentError("world", world, f"a number of ranks that divides the {self._lanes} lanes of a global "
                                f"batch of {self.batch}: one of {self.admissible_worlds()}")  # fmt: skip
        owned, per_lane, lane_length = self._lanes // world, self.batch // self._lanes, self._used // self._lanes
        epochs, step = np.divmod(np.array(steps)[:, None, None], self.steps_per_epoch)  # arrays [steps, lanes, slots]
        lane, within = np.arange(rank * owned, (rank + 1) * owned)[:, None], step * per_lane + np.arange(per_lane)
        lane, within, epoch = np.broadcast_arrays(lane, within, epochs)
        position = (lane * lane_length + self._shuffle_windows(lane, within, lane_length, epoch)).ravel()
        epoch, blocks = epoch.ravel(), self._used // self.block
        block, offset = np.divmod(position, self.block)
        complete = block < blocks  # a last partial block stays at the end
        block[complete] = random.permute(block[complete], blocks, self._keys("block", epoch[complete]))
        rows = self._rows(epoch, block * self.block + offset)
        parts = zip(epochs.ravel().tolist(), *(values.reshape(len(steps), -1) for values in rows), strict=True)
        return [StepSamples(*of_step) for of_step in parts]

    def _shuffle_windows(self, lane: np.ndarray, within: np.ndarray, lane_length: int, epoch: np.ndarray) -> np.ndarray:
        span = self.window * self.block
        if span == 1:
            return within
        number = within // span
        start = number * span
        windows_per_lane = -(-lane_length // span)
        window_number = (lane * windows_per_lane + number).astype(np.uint64)
        key = self._keys("window", epoch) + random.mix(window_number)
        return start + random.permute(within - start, np.minimum(span, lane_length - start), key)

    def _rows(self, epoch: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From positions in an epoch to rows, and how often each came before: each dataset's slots form an endless
        sequence of its rows."""
        start = epoch * self._used
        cycle, slot = np.divmod(start + position, self.epoch_size)
        sizes, slots = np.array(self.sizes, np.int64), np.array(self._slots, np.int64)
        first_slot = np.cumsum(slots) - slots
        dataset = np.searchsorted(first_slot, slot, side="right") - 1
        turn = cycle * slots[dataset] + slot - first_slot[dataset]
        start_cycle, start_slot = np.divmod(start, self.epoch_size)
        first_turn = start_cycle * slots[dataset] + np.clip(start_slot - first_slot[dataset], 0, slots[dataset])
        occurrence, row = (turn - first_turn) // sizes[dataset], turn % sizes[dataset]
        for d in np.flatnonzero(slots != sizes):  # part of a dataset must be a random part, not its first rows
            here = dataset == d
            row[here] = random.permute(row[here], int(sizes[d]), self._key("dataset", int(d)))
        index = (np.cumsum(sizes) - sizes)[dataset] + row
        if self.repeats is not None:
            index, number, of = self.repeats.samples(index)
            occurrence = occurrence * of + number
        return index if self.selection is None else self.selection.samples[index], occurrence

    def _keys(self, purpose: str, numbers: np.ndarray) -> np.ndarray:
        """Keys uint64, as ``numbers`` are laid out."""
        different, place = np.unique(numbers, return_inverse=True)
        keys = np.array([self._key(purpose, number) for number in different.tolist()], np.uint64)
        return keys[place].reshape(numbers.shape)

    def _key(self, purpose: str, number: int) -> int:
        return random.key(ORDER_VERSION, self.identity, self.seed, purpose, number)

    @cached_property
    def _lanes(self) -> int:
        return self.batch if self.lanes is None else self.lanes

    @cached_property
    def _slots(self) -> tuple[int, ...]:
        weights = self.weights or (1.0,) * len(self.sizes)
        return tuple(round(weight * size) for weight, size in zip(weights, self.sizes, strict=True))

    @cached_property
    def epoch_size(self) -> int:
        """Slots of an epoch, of which the last ones may be dropped."""
        return sum(self._slots)

    @property
    def _used(self) -> int:
        return self.steps_per_epoch * self.batch


@dataclass(frozen=True)
class EvalOrder:
    """Evaluation: ``size`` samples in order, each exactly once; the last batch may be short."""

    size: int
    batch: int

    @property
    def steps(self) -> int:
        return -(-self.size // self.batch)

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> StepSamples:
        """Return the contiguous part of batch ``step`` for ``rank``; parts differ by one sample at most."""
        assert 0 <= step < self.steps and 0 <= rank < world
        first, last = step * self.batch, min((step + 1) * self.batch, self.size)
        index = np.arange(first + (last - first) * rank // world, first + (last - first) * (rank + 1) // world)
        return StepSamples(0, index, np.zeros_like(index))

    def positions(self, steps: range, rank: int = 0, world: int = 1) -> list[StepSamples]:
        return [self.batch_at(step, rank, world) for step in steps]
