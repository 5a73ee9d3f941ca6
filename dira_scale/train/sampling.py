"""Which samples are trained on, how often, and in which order: of ``data.*`` and the datasets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data import random
from dira_scale.train.data.config import Data
from dira_scale.train.data.exclusion import excluded_patients
from dira_scale.train.data.mapped import chunks
from dira_scale.train.data.order import Order
from dira_scale.train.data.repeats import Repeats
from dira_scale.train.data.selection import Selection, select
from dira_scale.train.opened import sizes, weights_of

# The keys of what the parts that read data call otherwise, or get from another node.
KEYS = {
    "cache.folder": "data.cache", "cache.size": "data.cache_size", "cache": "data.cache", "excluded": "data.exclude",
    "helper": "data.helper", "loader": "data.loader", "pad": "data.pad", "repeats": "data.weights",
    "spacing": "data.spacing", "views": "views.crops", "weights": "data.shards",
}  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """The samples that a run is trained on.

    Attributes:
        parts: the number of samples in each dataset or part of a selection; ``weights``: how often an epoch has each.
        selection: which; None: the whole split. ``repeats``: how often each; None: once.
        chosen_by: the keys that choose some of them, as typed; empty: all are trained on.
    """

    parts: tuple[int, ...]
    weights: tuple[float, ...]
    selection: Selection | None
    repeats: Repeats | None
    chosen_by: str

    @classmethod
    def of(cls, data: Data, datasets: Sequence[ShardedDataset]) -> "Sampling":
        """Choose them. Raises UserError, naming the key, for samples that cannot be chosen."""
        of_split = sizes(datasets, data.split, "data.split")
        weights = tuple(data.crops * weight for weight in weights_of(data.shards).values())
        selection = selected(data, datasets, weights)
        repeats = _repeats(data, datasets, selection)
        if repeats and (most := max(part.max() for part in repeats.every()) * max(weights)) >= random.OCCURRENCES:
            raise UserError(
                f"data.weights={data.weights}: with data.crops={data.crops} an image comes {most:g} times an "
                f"epoch, at most {random.OCCURRENCES - 1:,}: use fewer crops, or shard balance with a smaller most"
            )
        parts = selection.sizes if selection else of_split
        weights = selection.weights if selection else weights
        return cls(parts, weights, selection, repeats, _chosen_by(data) if selection else "")

    @property
    def samples(self) -> Iterator[np.ndarray]:
        """Yield those that are drawn at all, int64, some at a time."""
        for part in chunks(sum(self.parts)):
            place = np.arange(part.start, part.stop)
            samples = self.selection.samples[part] if self.selection else place
            yield samples[self.repeats.counts(place) > 0] if self.repeats else samples

    def orders(
        self, data: Data, datasets: Sequence[ShardedDataset], seed: int, batches: Sequence[int], ranks: int
    ) -> tuple[Order, dict[int, Order]]:
        """Return the order of batches of ``data.batch``, and those of so many samples, which ``ranks`` processes share.

        Raises UserError for a batch that the samples do not fill, and for processes that cannot share one.
        """
        chosen = (part.identity for part in (self.selection, self.repeats) if part)
        with at("data", KEYS, f" ({self.chosen_by})" if self.chosen_by else ""):
            order = Order(
                sizes=self.repeats.sizes(self.parts) if self.repeats else self.parts,
                seed=seed,
                batch=data.batch,
                weights=self.weights,
                lanes=data.lanes,
                block=data.block,
                window=data.window,
                remainder=cast(Literal["drop", "wrap"], data.remainder),  # Order refuses others
                identity=",".join([data.split, *(dataset.hash for dataset in datasets), *chosen]),
                selection=self.selection,
                repeats=self.repeats,
            )
            orders = {batch: replace(order, batch=batch) for batch in batches}
        for batch, of_batch in orders.items():
            if ranks not in (admissible := of_batch.admissible_worlds()):
                possible = ", ".join(map(str, admissible))
                raise UserError(f"{ranks} ranks do not divide data.lanes={data.lanes or batch}; use {possible}")
        return order, orders


def selected(data: Any, datasets: Sequence[ShardedDataset], weights: Sequence[float]) -> Selection | None:
    """The rows that are trained on as ``data``, a :class:`Data` or one with its keys, has it. None: the whole split.

    Raises UserError as :func:`excluded_patients` and :func:`select`, naming the key.
    """
    with at("data", KEYS):
        return select(
            datasets, data.split, weights, data.fraction, data.fraction_seed, data.negatives,
            from_end=data.fraction_from == "end", excluded=excluded_patients(data.exclude, datasets),
        )  # fmt: skip


def _repeats(data: Data, datasets: Sequence[ShardedDataset], selection: Selection | None) -> Repeats | None:
    """Return how often the samples that are trained on come. Raises UserError as :meth:`Repeats.open`, and for another
    rule of how often."""
    if data.weights is None:
        return None
    if data.negatives is not None:
        raise UserError(f"data.weights={data.weights} says how often each sample comes, and so does data.negatives="
                        f"{data.negatives}: set one of them to null")  # fmt: skip
    with at("data", KEYS):
        repeats = Repeats.open(Path(data.weights), datasets, data.split)
    return repeats.of(selection) if selection else repeats


def _chosen_by(data: Data) -> str:
    keys = [f"data.fraction={data.fraction:g}", *["data.fraction_from=end"] * (data.fraction_from == "end")]
    keys = keys * (data.fraction < 1) + ["data.exclude"] * bool(data.exclude)
    return " ".join(keys + [f"data.negatives={data.negatives}"] * (data.negatives is not None))
