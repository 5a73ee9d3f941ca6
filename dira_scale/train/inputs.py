"""From the configuration's ``data.*`` to loaders: opens and checks datasets, makes the order and held-out batches."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from dira_scale.base.config.border import RESHARD, at
from dira_scale.base.config.keys import written
from dira_scale.base.errors import UserError, counted, nearest
from dira_scale.base.storage.store import is_local, locate
from dira_scale.dataset.manifest import INFO_FILE, ShardedDataset
from dira_scale.train.broken_batch import save_batch
from dira_scale.train.config import StagedTraining
from dira_scale.train.data import random
from dira_scale.train.data.batch import UNITS, Batch
from dira_scale.train.data.cache.settings import CacheSettings
from dira_scale.train.data.config import Data
from dira_scale.train.data.distort.colour import RGB
from dira_scale.train.data.exclusion import excluded_patients
from dira_scale.train.data.foreground import Foreground
from dira_scale.train.data.labels import ColumnsChoice, LabelError
from dira_scale.train.data.loaders import Loader, LoaderSpec
from dira_scale.train.data.loaders.build import LoaderChoice, choose
from dira_scale.train.data.order import ORDER_VERSION, EvalOrder, Order
from dira_scale.train.data.repeats import Repeats
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.selection import Selection, select
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.processes import default_threads, default_workers
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.preflight import DIGITS
from dira_scale.train.engine.task import Detail, StagePlan
from dira_scale.train.held_out import DistributedEvalOrder, HeldOutBatches
from dira_scale.train.runs.description import FILE as DESCRIPTION
from dira_scale.train.runs.description import read_description
from dira_scale.train.schedule import batches_of, check_division

# The keys of what the parts that read data call otherwise, or get from another node.
KEYS = {
    "cache.folder": "data.cache", "cache.size": "data.cache_size", "cache": "data.cache", "excluded": "data.exclude",
    "helper": "data.helper", "loader": "data.loader", "pad": "data.pad", "repeats": "data.weights",
    "spacing": "data.spacing", "views": "views.crops", "weights": "data.shards",
}  # fmt: skip


class Inputs:
    """A run's training and validation data (see :class:`dira_scale.train.engine.task.TaskData`).

    Args:
        batches: the global batch sizes of its stages. Each has its own order; ``order`` is that of ``data.batch``.
        device: where the batches are wanted.
        cores: this process's share of the machine, for ``data.workers=null``.
        masks: whether batches have ``mask``.
        classes: the values in masks around whose voxels ``views.foreground`` of the crops are drawn; None: all.
        held_out_views: of ``data.val_split``; None: ``views``.
        labels: the labels that batches have, which must be there to be learned; None: all that there are.

    Attributes:
        labels: those, as the datasets have them.
        chosen_by: the keys that choose some of the samples, as typed; empty: all are trained on.
        loader_choice: the loader that reads the data, and why; ``processes``: how many of its own it trains with.

    Raises:
        UserError: names the wrong dataset or key (volumes for 2D views, no such split, batch larger than the data,
            ranks that do not divide the lanes …) and what would work.
        ArgumentError: of the names and policies of ``labels``, whose keys the caller knows.
    """

    def __init__(
        self,
        data: Data,
        views: ViewSpec,
        seed: int,
        rank: int,
        ranks: int,
        batches: tuple[int, ...] = (),
        device: torch.device | str = "cpu",
        cores: int = 1,
        masks: bool = False,
        classes: Collection[int] | None = None,
        held_out_views: ViewSpec | None = None,
        labels: ColumnsChoice | None = None,
    ) -> None:
        paths = _paths(data.shards)
        weights = tuple(data.crops * weight for weight in paths.values())
        self.data, self.views, self.seed, self.device, self.masks = data, views, seed, torch.device(device), masks
        self.classes, self.held_out_views = classes, held_out_views or views
        self.workers = data.workers or default_workers(self.device, cores)
        # Shards in a store are checked when they are fetched: one question for each would take long.
        self.datasets = [
            ShardedDataset.open(path, check_shards=is_local(locate(path, "data.shards"))) for path in paths
        ]
        for dataset in self.datasets:
            dataset.require(views.dimensions, "this training")
        cache = CacheSettings(data.cache, data.cache_size, cast(Literal["stop", "skip"], data.missing))
        with at("data", KEYS):
            self.loader_choice = choose(data.loader, self.datasets, self.device, cache)
            self.processes = self.loader_choice.processes(data.helper, self.device, self.workers)
        sizes = _sizes(self.datasets, data.split, "data.split")
        selection = selected(data, self.datasets, weights)
        self.chosen_by = _chosen_by(data) if selection else ""
        repeats = _repeats(data, self.datasets, selection)
        parts = selection.sizes if selection else sizes
        if repeats and (most := repeats.counts.max() * max(weights)) >= random.OCCURRENCES:
            raise UserError(
                f"data.weights={data.weights}: with data.crops={data.crops} an image comes {most:g} times an "
                f"epoch, at most {random.OCCURRENCES - 1:,}: use fewer crops, or shard balance with a smaller most"
            )
        self.labels = labels.of(self.datasets) if labels else None
        samples = selection.samples if selection else np.arange(sum(sizes))
        self._check_labels(data.split, samples[repeats.counts > 0] if repeats else samples)
        content = [data.split, *(d.hash for d in self.datasets), *(p.identity for p in (selection, repeats) if p)]
        with at("data", KEYS, f" ({self.chosen_by})" * bool(selection)):
            self.order = Order(
                sizes=repeats.sizes(parts) if repeats else parts,
                seed=seed,
                batch=data.batch,
                weights=selection.weights if selection else weights,
                lanes=data.lanes,
                block=data.block,
                window=data.window,
                remainder=cast(Literal["drop", "wrap"], data.remainder),  # Order refuses others
                identity=",".join(content),
                selection=selection,
                repeats=repeats,
            )
            self.orders = {batch: replace(self.order, batch=batch) for batch in batches or (data.batch,)}
        for batch, order in self.orders.items():
            if ranks not in order.admissible_worlds():
                possible = ", ".join(map(str, order.admissible_worlds()))
                raise UserError(f"{ranks} ranks do not divide data.lanes={data.lanes or batch}; use {possible}")
        self.rank, self.ranks = rank, ranks
        self.train(next(iter(self.orders)))  # fails before a run folder exists if the loader cannot read the data
        self.foreground = self._drawn_around()
        self.held_out(data.batch, None)

    @classmethod
    def of(cls, config: StagedTraining, views: ViewSpec, world: World, **chosen: Any) -> "Inputs":
        """The data of a run of ``config``, on one of the processes of ``world``.

        Args:
            chosen: ``masks``, ``classes``, ``held_out_views`` and ``labels`` of the constructor.

        Raises UserError as the constructor, and if the stages do not divide among the processes, or the run's folder is
        a dataset.
        """
        check_division(config, world.ranks)
        if (Path(config.run) / INFO_FILE).exists():
            raise UserError(f"run={config.run} is a dataset: name a folder for the run, such as run=out/runs/mine")
        batches = tuple(set(batches_of(config).values()))
        cores = default_threads()
        return cls(config.data, views, config.seed, world.rank, world.ranks, batches, world.device, cores, **chosen)

    def require_channels(self, network: str, channels: int, start: str | None, repeats: bool = True) -> None:
        """Raise UserError unless a ``network`` whose first layer takes so many ``channels`` takes these images; it
        ``repeats`` those of one channel where it does not restore them. Also for views that drop the only channel, and
        if the run in the folder ``start`` has learned these in another order."""
        stored = {kind.channels for dataset in self.datasets for kind in dataset.kinds(self.data.split)}
        share = max(entry.channel_dropout for entry in self.views.entries)
        if share and stored == {1}:
            raise UserError(
                f"views.channel_dropout={share:g}: images of {self.datasets[0].root} have one channel, which always "
                "stays: use views.channel_dropout=0"
            )
        if any(entry.coloured for entry in self.views.entries) and stored != {RGB}:
            raise UserError(
                f"views.jitter.saturation, views.jitter.hue and views.grey are of images in colour, and those of "
                f"{self.datasets[0].root} are not: set each to 0, or shard with recipe.colour=rgb"
            )
        if other := sorted(stored - {channels, *([1] if repeats else [])}):
            root, names = self.datasets[0].root, ", ".join(self.datasets[0].info.channels)
            has = f"{other[0]} channel{'s' * (other[0] > 1)}{f' ({names})' * bool(names)}"
            raise UserError(
                f"channels={channels}: {root} has images of {has}, and {network} takes {channels}"
                f"{', or grey ones' * repeats}: use channels={other[0] if other[0] > 1 else 'null'}"
            )
        is_run = start is not None and (Path(start) / DESCRIPTION).is_file()
        learned = read_description(Path(str(start))).data.channels if is_run else ()
        for dataset in self.datasets:
            if learned and sorted(learned) == sorted(dataset.info.channels):
                dataset.require_channels([self.data.split], channels, learned, f"the run {start}")

    def loader(self, stage: StagePlan) -> Loader:
        return self.train(stage.batch, stage.size)

    def train(self, batch: int, size: int | None = None) -> Loader:
        """This rank's part of training batches of ``batch`` samples, with views of another ``size`` than usual."""
        choice = self.loader_choice.in_processes(self.processes)
        views = self.views.resized(size) if size else self.views
        return self._loader(choice, self.data.split, views, self.orders[batch], rank=self.rank, world=self.ranks)

    def steps_per_epoch(self, batch: int) -> int:
        return self.orders[batch].steps_per_epoch

    def held_out(self, batch: int, limit: int | None, rank: int = 0, ranks: int = 1) -> HeldOutBatches | None:
        """This rank's share of at most ``limit`` held-out batches; None if ``data.val_split`` is null."""
        if self.data.val_split is None:
            return None
        return self.evaluation("data.val_split", self.data.val_split, self.held_out_views, batch, limit, rank, ranks)

    def evaluation(
        self, key: str, split: str, views: ViewSpec, batch: int, limit: int | None = None, rank: int = 0, ranks: int = 1
    ) -> HeldOutBatches:
        """This rank's share of at most ``limit`` batches of ``views`` of a split, in its order: each sample once.

        Raises UserError naming ``key``, which has chosen the split, if a dataset does not have it; or a label that
        nobody knows there.
        """
        size = sum(_sizes(self.datasets, split, key))
        self._check_labels(split, None)
        batches = EvalOrder(size, batch).steps
        order = DistributedEvalOrder(size, batch, min(batches, limit or batches), rank, ranks)
        return HeldOutBatches(self._loader(self.loader_choice, split, views, order, fixed_epoch=0), order)

    def _check_labels(self, split: str, learned: np.ndarray | None) -> None:
        """Raise UserError for labels that cannot be ``learned``, as of ``Columns.check``."""
        if self.labels is None:
            return
        try:
            self.labels.check(self.datasets, split, learned)
        except LabelError as error:
            keys = [self.chosen_by] * bool(self.chosen_by)
            keys += [f"data.weights={self.data.weights}"] * (self.data.weights is not None)
            chosen = " ".join(keys) if learned is not None else ""
            remedies = ["use a larger data.fraction"] * bool(chosen and self.data.fraction < 1)
            remedies.append("leave it out" + (f": task.labels={written(error.rest)}" if error.rest else ""))
            remedies += [RESHARD[error.lacks]] if error.lacks else []
            at_keys = f" (at {chosen})" if chosen else ""
            raise UserError(f"{error}{at_keys}: {', or '.join(remedies)}") from error

    def targets(self, split: str) -> torch.Tensor:
        """Return what all samples of a split, counted over all datasets, have of the ``labels``: float32 [N, L]."""
        assert self.labels is not None
        parts = zip(self.datasets, map(list, self.labels.columns), strict=True)
        values = [dataset.flags(dataset.rows(split))[:, columns] for dataset, columns in parts]
        return self.labels.targets(torch.from_numpy(np.concatenate(values)))

    def learned_targets(self) -> torch.Tensor:
        """Return those of the samples that are trained on, as often as they are."""
        targets, selection, repeats = self.targets(self.data.split), self.order.selection, self.order.repeats
        targets = targets if selection is None else targets[torch.from_numpy(selection.samples)]
        return targets if repeats is None else targets.repeat_interleave(torch.from_numpy(repeats.counts), 0)

    def identity(self) -> dict[str, Any]:
        """The data's part of a run's identity beyond the configuration: content, weights, order, views, selection."""
        weights = _paths(self.data.shards).values()
        datasets = [{"hash": d.hash, "weight": w} for d, w in zip(self.datasets, weights, strict=True)]
        selection = {"selection": self.order.selection.identity} if self.order.selection else {}
        repeats = {"repeats": self.order.repeats.identity} if self.order.repeats else {}
        foreground = {"foreground": self.foreground} if self.foreground else {}
        versions = {"order_version": ORDER_VERSION, "views_version": self.views.version}
        read = {"views_content": content} if (content := self.views.content) else {}
        return {"datasets": datasets} | versions | selection | repeats | foreground | read

    def facts(self) -> dict[str, str]:
        """Return what all processes must read alike, by its name in messages."""
        facts = {f"the content of dataset {i} of data.shards": d.hash[:DIGITS] for i, d in enumerate(self.datasets, 1)}
        if self.order.selection is not None:
            chosen = "the rows that data.fraction, data.exclude and data.negatives choose"
            facts[chosen] = self.order.selection.identity[:DIGITS]
        if self.order.repeats is not None:
            facts["the repeats of data.weights"] = self.order.repeats.identity[:DIGITS]
        if self.foreground:
            facts["the voxels of foreground.parquet"] = self.foreground[:DIGITS]
        for number, content in enumerate(self.views.content, 1):
            facts[f"file {number} of views.corruptions"] = content[:DIGITS]
        return facts

    def _drawn_around(self) -> str:
        """Return the identity of the voxels around which crops are drawn; empty: around none."""
        if not self.views.around_foreground:
            return ""
        with at("data", KEYS):
            return Foreground(Samples(self.datasets, self.data.split), self.classes).identity

    def summary(self, stage: StagePlan) -> list[str]:
        """Lines to print at the start; ``stage`` is the first."""
        order = self.orders[stage.batch]
        unit = UNITS[self.views.dimensions]
        samples = f"{order.split_size} {unit}"
        if order.selection:
            samples = f"{len(order.selection.samples)} of {samples} ({self.chosen_by})"
        if order.repeats:
            samples = f"{sum(order.sizes)} draws (data.weights) of {samples}"
        few = self.data.negatives is not None and order.selection and max(order.selection.weights[1::2]) > 0.5
        return [
            f"data: {samples}, {counted(order.steps_per_epoch, 'step')} an epoch",
            *[Detail(f"each epoch leaves out {order.dropped}, others in turn")] * bool(order.dropped),
            *["data.negatives: the negatives are too few for two epochs: the next has some of them again"] * bool(few),
            Detail(
                f"{self.loader_choice}, {self.workers} thread(s)"
                + f" in {self.processes} process(es) of their own" * bool(self.processes)
            ),
        ]

    def save_batch(self, folder: Path, batch: Batch, held_out: bool, row: dict[str, Any]) -> None:
        split = self.data.val_split if held_out else self.data.split
        save_batch(folder, batch, self.datasets, str(split), row)

    def _loader(
        self,
        choice: LoaderChoice,
        split: str,
        views: ViewSpec,
        order: Order | EvalOrder,
        rank: int = 0,
        world: int = 1,
        fixed_epoch: int | None = None,
    ) -> Loader:
        with at("data.loader", KEYS):
            spec = LoaderSpec(
                self.datasets, split, order, views, self.seed, rank=rank, world=world, workers=self.workers,
                prefetch=self.data.prefetch, fixed_epoch=fixed_epoch, masks=self.masks, classes=self.classes,
                labels=self.labels, device=self.device,
            )  # fmt: skip
            return choice.build(spec)


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
    return repeats.of(selection.samples) if selection else repeats


def _chosen_by(data: Data) -> str:
    keys = [f"data.fraction={data.fraction:g}", *["data.fraction_from=end"] * (data.fraction_from == "end")]
    keys = keys * (data.fraction < 1) + ["data.exclude"] * bool(data.exclude)
    return " ".join(keys + [f"data.negatives={data.negatives}"] * (data.negatives is not None))


def _paths(shards: Any) -> dict[str, float]:
    if isinstance(shards, str):
        return {shards: 1.0}
    if isinstance(shards, list):
        return dict.fromkeys(shards, 1.0)
    if isinstance(shards, dict) and all(isinstance(w, int | float) and w > 0 for w in shards.values()):
        return {path: float(weight) for path, weight in shards.items()}
    raise UserError(f"data.shards={shards}: give a folder, a list of folders, or {{folder: weight > 0}}")


WITHOUT = {
    "data.val_split": "; data.val_split=null trains without validation",
    "data.test_split": "; data.test_split=null trains without a test, with figures on the validation split",
}


def _sizes(datasets: list[ShardedDataset], split: str, key: str) -> tuple[int, ...]:
    for dataset in datasets:
        if split not in dataset.splits:
            have = ", ".join(dataset.splits)
            hint = nearest(split, dataset.splits) or WITHOUT.get(key, "")
            raise UserError(f"{key}={split}: {dataset.root} has {have}{hint}")
    sizes = tuple(int(np.size(d.rows(split))) for d in datasets)
    if 0 in sizes:
        where = f"{key}={split}: {datasets[sizes.index(0)].root} has no sample in split '{split}'"
        if key in WITHOUT:
            raise UserError(f"{where}{WITHOUT[key]}")
        if key != "data.split":
            filled = [name for name, count in datasets[sizes.index(0)].info.counts.items() if count]
            raise UserError(f"{where}: name another, of {', '.join(filled)}")
        raise UserError(f"{where}. A patient's images are in one split: shard again with another out and "
                        "recipe.splits='{train: 1, val: 0, test: 0}', which puts all in train")  # fmt: skip
    return sizes
