"""The datasets of ``data.shards``, opened, and whether they have what a run wants of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dira_scale.base.config.border import RESHARD
from dira_scale.base.config.keys import written
from dira_scale.base.errors import UserError, nearest
from dira_scale.base.storage.store import is_local, locate
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.config import Data
from dira_scale.train.data.distort.colour import RGB
from dira_scale.train.data.labels import Columns, LabelError
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.runs.description import FILE as DESCRIPTION
from dira_scale.train.runs.description import read_description

WITHOUT = {
    "data.val_split": "; data.val_split=null trains without validation",
    "data.test_split": "; data.test_split=null trains without a test, with figures on the validation split",
}


class Opened(Protocol):
    """What is asked about: some of :class:`~dira_scale.train.inputs.Inputs`."""

    data: Data
    datasets: list[ShardedDataset]
    views: ViewSpec
    labels: Columns | None
    chosen_by: str


def weights_of(shards: Any) -> dict[str, float]:
    """Return the paths of ``data.shards`` with the weights of the datasets there."""
    if isinstance(shards, str):
        return {shards: 1.0}
    if isinstance(shards, list):
        return dict.fromkeys(shards, 1.0)
    if isinstance(shards, dict) and all(isinstance(w, int | float) and w > 0 for w in shards.values()):
        return {path: float(weight) for path, weight in shards.items()}
    raise UserError(f"data.shards={shards}: give a folder, a list of folders, or {{folder: weight > 0}}")


def datasets(shards: Any, dimensions: int, rank: int = 0, ranks: int = 1) -> list[ShardedDataset]:
    """Open the datasets. Each of the ``ranks`` looks for its share of the shards, in a store for none: they are checked
    when they are fetched, as one question for each would take long."""
    paths = weights_of(shards)
    found = [ShardedDataset.open(path, is_local(locate(path, "data.shards")) and (rank, ranks)) for path in paths]
    for dataset in found:
        dataset.require(dimensions, "this training")
    return found


def sizes(datasets: Sequence[ShardedDataset], split: str, key: str) -> tuple[int, ...]:
    """Return the samples of a split of each dataset. Raises UserError, naming the ``key`` that chose it, for none."""
    for dataset in datasets:
        if split not in dataset.splits:
            have = ", ".join(dataset.splits)
            hint = nearest(split, dataset.splits) or WITHOUT.get(key, "")
            raise UserError(f"{key}={split}: {dataset.root} has {have}{hint}")
    found = tuple(int(np.size(d.rows(split))) for d in datasets)
    if 0 in found:
        where = f"{key}={split}: {datasets[found.index(0)].root} has no sample in split '{split}'"
        if key in WITHOUT:
            raise UserError(f"{where}{WITHOUT[key]}")
        if key != "data.split":
            filled = [name for name, count in datasets[found.index(0)].info.counts.items() if count]
            raise UserError(f"{where}: name another, of {', '.join(filled)}")
        raise UserError(f"{where}. A patient's images are in one split: shard again with another out and "
                        "recipe.splits='{train: 1, val: 0, test: 0}', which puts all in train")  # fmt: skip
    return found


def require_channels(data: Opened, network: str, channels: int, start: str | None, repeats: bool = True) -> None:
    """Raise UserError unless a ``network`` whose first layer takes so many ``channels`` takes these images; it
    ``repeats`` those of one channel where it does not restore them. Also for views that drop the only channel, and
    if the run in the folder ``start`` has learned these in another order."""
    datasets, split, views = data.datasets, data.data.split, data.views
    stored = {kind.channels for dataset in datasets for kind in dataset.kinds(split)}
    share = max(entry.channel_dropout for entry in views.entries)
    if share and stored == {1}:
        raise UserError(
            f"views.channel_dropout={share:g}: images of {datasets[0].root} have one channel, which always "
            "stays: use views.channel_dropout=0"
        )
    if any(entry.coloured for entry in views.entries) and stored != {RGB}:
        raise UserError(
            f"views.jitter.saturation, views.jitter.hue and views.grey are of images in colour, and those of "
            f"{datasets[0].root} are not: set each to 0, or shard with recipe.colour=rgb"
        )
    if other := sorted(stored - {channels, *([1] if repeats else [])}):
        root, names = datasets[0].root, ", ".join(datasets[0].info.channels)
        has = f"{other[0]} channel{'s' * (other[0] > 1)}{f' ({names})' * bool(names)}"
        grey = ", or grey ones" if repeats else ""
        raise UserError(
            f"channels={channels}: {root} has images of {has}, and {network} takes {channels}{grey}: use channels="
            f"{other[0] if other[0] > 1 else 'null'}"
        )
    is_run = start is not None and (Path(start) / DESCRIPTION).is_file()
    learned = read_description(Path(str(start))).data.channels if is_run else ()
    for dataset in datasets:
        if learned and sorted(learned) == sorted(dataset.info.channels):
            dataset.require_channels([split], channels, learned, f"the run {start}")


def check_labels(data: Opened, split: str, learned: Iterable[np.ndarray] | None) -> None:
    """Raise UserError for labels that cannot be ``learned``, as of ``Columns.check``; None: that cannot be known."""
    if data.labels is None:
        return
    try:
        data.labels.check(data.datasets, split, learned)
    except LabelError as error:
        weights = data.data.weights
        keys = [data.chosen_by] * bool(data.chosen_by) + [f"data.weights={weights}"] * (weights is not None)
        chosen = " ".join(keys) if learned is not None else ""
        remedies = ["use a larger data.fraction"] * bool(chosen and data.data.fraction < 1)
        remedies.append("leave it out" + (f": task.labels={written(error.rest)}" if error.rest else ""))
        remedies += [RESHARD[error.lacks]] if error.lacks else []
        at_keys = f" (at {chosen})" if chosen else ""
        raise UserError(f"{error}{at_keys}: {', or '.join(remedies)}") from error
