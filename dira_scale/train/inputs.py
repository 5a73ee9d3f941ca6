"""From the configuration's ``data.*`` to loaders: opens and checks datasets, makes the order and held-out batches."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError, counted
from dira_scale.dataset.manifest import INFO_FILE
from dira_scale.train import opened
from dira_scale.train.blocks import block_of
from dira_scale.train.broken_batch import save_batch
from dira_scale.train.config import StagedTraining
from dira_scale.train.data.batch import UNITS, Batch
from dira_scale.train.data.cache.settings import CacheSettings
from dira_scale.train.data.config import Data
from dira_scale.train.data.foreground import Foreground
from dira_scale.train.data.labels import ColumnsChoice
from dira_scale.train.data.loaders import Loader, LoaderSpec
from dira_scale.train.data.loaders.build import STREAM, choose
from dira_scale.train.data.order import ORDER_VERSION, EvalOrder, Order
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.processes import default_threads, default_workers
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.preflight import DIGITS
from dira_scale.train.engine.task import Detail, StagePlan
from dira_scale.train.held_out import DistributedEvalOrder, HeldOutBatches
from dira_scale.train.sampling import KEYS, Sampling
from dira_scale.train.schedule import batches_of, check_division


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

    require_channels = opened.require_channels

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
        data = replace(data, block=block_of(data))
        self.data, self.views, self.seed, self.device, self.masks = data, views, seed, torch.device(device), masks
        self.classes, self.held_out_views, self.rank, self.ranks = classes, held_out_views or views, rank, ranks
        self.workers = data.workers or default_workers(self.device, cores)
        self.datasets = opened.datasets(data.shards, views.dimensions, rank, ranks)
        with at("data", KEYS):
            self.loader_choice = choose(data.loader, self.datasets, self.device, CacheSettings.of(data))
            self.processes = self.loader_choice.processes(data.helper, self.device, self.workers)
        sampling = Sampling.of(data, self.datasets)
        self.chosen_by = sampling.chosen_by
        self.labels = labels.of(self.datasets) if labels else None
        opened.check_labels(self, data.split, sampling.samples)
        self.order, self.orders = sampling.orders(data, self.datasets, seed, batches or (data.batch,), ranks)
        # A loader refuses what it cannot read when it is built: before there is a run folder.
        self._first: dict[tuple[int, int | None], Loader] = {}
        first = next(iter(self.orders))
        self._first[first, None] = loader = self.train(first)
        self._costs: Callable[[], str] = getattr(loader, "costs", str)  # your own has none
        with at("data", KEYS):
            drawn_around = Foreground(Samples(self.datasets, data.split), classes) if views.around_foreground else None
        self.foreground = drawn_around.identity if drawn_around else ""
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

    def loader(self, stage: StagePlan) -> Loader:
        return self.train(stage.batch, stage.size)

    def train(self, batch: int, size: int | None = None) -> Loader:
        """This rank's part of training batches of ``batch`` samples, with views of another ``size`` than usual."""
        if (batch, size) in self._first:
            return self._first.pop((batch, size))
        views = self.views.resized(size) if size else self.views
        return self._loader(self.data.split, views, self.orders[batch])

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
        size = sum(opened.sizes(self.datasets, split, key))
        opened.check_labels(self, split, None)
        batches = EvalOrder(size, batch).steps
        order = DistributedEvalOrder(size, batch, min(batches, limit or batches), rank, ranks)
        return HeldOutBatches(self._loader(split, views, order), order)

    def targets(self, split: str) -> torch.Tensor:
        """Return what all samples of a split, counted over all datasets, have of the ``labels``: float32 [N, L]."""
        assert self.labels is not None
        samples = np.arange(sum(len(dataset.rows(split)) for dataset in self.datasets))
        return self.labels.targets(torch.from_numpy(self.labels.values(self.datasets, split, samples)))

    def learned_targets(self) -> torch.Tensor:
        """Return those of the samples that are trained on, as often as they are."""
        targets, selection, repeats = self.targets(self.data.split), self.order.selection, self.order.repeats
        targets = targets if selection is None else targets[torch.from_numpy(selection.samples)]
        counts = np.concatenate([*repeats.every()]) if repeats else None
        return targets if counts is None else targets.repeat_interleave(torch.from_numpy(counts), 0)

    def identity(self) -> dict[str, Any]:
        """The data's part of a run's identity beyond the configuration: content, weights, order, views, selection."""
        weights = opened.weights_of(self.data.shards).values()
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

    def summary(self, stage: StagePlan) -> list[str]:
        """Lines to print at the start; ``stage`` is the first."""
        order = self.orders[stage.batch]
        unit = UNITS[self.views.dimensions]
        samples = f"{order.split_size} {unit}"
        if order.selection:
            samples = f"{len(order.selection.samples)} of {samples} ({self.chosen_by})"
        if order.repeats:
            samples = f"{sum(order.sizes)} draws (data.weights) of {samples}"
        costs = self._costs()
        few = self.data.negatives is not None and order.selection and max(order.selection.weights[1::2]) > 0.5
        kind = "process" if self.processes else "thread"
        return [
            f"data: {samples}, {counted(order.steps_per_epoch, 'step')} an epoch",
            *[Detail(f"each epoch leaves out {order.dropped}, others in turn")] * bool(order.dropped),
            *["data.negatives: the negatives are too few for two epochs: the next has some of them again"] * bool(few),
            *([costs if self.loader_choice.name == STREAM else Detail(costs)] if costs else []),
            Detail(f"{self.loader_choice}, {self.processes or self.workers} {kind}(s)"),
        ]

    def save_batch(self, folder: Path, batch: Batch, held_out: bool, row: dict[str, Any]) -> None:
        split = self.data.val_split if held_out else self.data.split
        save_batch(folder, batch, self.datasets, str(split), row)

    def _loader(self, split: str, views: ViewSpec, order: Order | EvalOrder) -> Loader:
        """Build a loader. Training's order is the whole, of which it takes this rank's part; others are this rank's."""
        rank, world, epoch = (self.rank, self.ranks, None) if isinstance(order, Order) else (0, 1, 0)
        with at("data.loader", KEYS):
            spec = LoaderSpec(
                self.datasets, split, order, views, self.seed, rank=rank, world=world, workers=self.workers,
                prefetch=self.data.prefetch, fixed_epoch=epoch, masks=self.masks, classes=self.classes,
                labels=self.labels, device=self.device,
            )  # fmt: skip
            return self.loader_choice.build(spec, self.processes)
