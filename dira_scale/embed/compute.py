"""Computes a folder of embeddings, on one process or several, and goes on where an earlier call was stopped.

In each round every process makes a part, then they tell each other whether a signal has come and what was unreadable.
"""

import logging
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from dira_scale.data.batch import UNITS
from dira_scale.data.manifest import ShardedDataset
from dira_scale.distributed import processes
from dira_scale.distributed.config import Parallel
from dira_scale.distributed.control import AgreedError, broadcast_from_main, check_equal, gather_objects, raise_on_all
from dira_scale.distributed.launcher import check_launch
from dira_scale.distributed.world import World
from dira_scale.engine.signals import STOP_SIGNALS
from dira_scale.errors import UserError, print_line
from dira_scale.evaluation import embeddings as folder
from dira_scale.evaluation.embeddings import About
from dira_scale.evaluation.feature_source import FeatureSource, open_source
from dira_scale.evaluation.features import ALL, Images, StoredImages, UnreadableImagesError, pooled, rows_of, width
from dira_scale.machine.progress import bar
from dira_scale.models.network import moved
from dira_scale.runs.exit_codes import BAD_INPUT, DONE, INTERRUPTED
from dira_scale.storage.atomic import as_user_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a process's part ended. ``signal``: that has stopped it."""

    signal: str = ""
    unreadable: tuple[str, ...] = ()
    written: int = 0  # rows


def compute(cfg: DictConfig) -> int:
    """Compute what ``cfg.out`` lacks; the exit code. Collective."""
    world = connect(cfg)
    try:
        job = raise_on_all(lambda: EmbeddingJob.open(cfg, world))
        check_equal({"weights": job.about.weights.hash, "data.shards": job.dataset.hash})
        if world.main and (line := processes.crowded(world.idle, "threads")):
            logger.info(line)
        with _signals() as received:
            code = job.run(received)
    except AgreedError as error:
        if world.main:
            logger.error(error)
        world.wait()  # a launcher ends all when the first exits, which must not precede the message
        return BAD_INPUT
    world.end()
    return code


def connect(cfg: DictConfig) -> World:
    """Join the processes that a launcher has started. Raises UserError for one that contradicts the configuration."""
    parallel = Parallel("ddp", 1, cfg.threads, False, False, False, False, cfg.timeout)
    check_launch(parallel, cfg.precision, None)
    return processes.start(parallel, cfg.precision)


class EmbeddingJob:
    """A folder to be filled.

    Attributes:
        rows: of the manifest, by position in the folder.
    """

    def __init__(self, cfg: DictConfig, world: World, dataset: ShardedDataset, source: FeatureSource) -> None:
        self.cfg, self.world, self.dataset, self.source, self.out = cfg, world, dataset, source, Path(cfg.out)
        self.rows = rows_of(dataset, cfg.data.split)
        self.about = _about(cfg, world, dataset, source, len(self.rows))

    @classmethod
    def open(cls, cfg: DictConfig, world: World) -> "EmbeddingJob":
        """Raises UserError naming key or file. Must not wait for another process."""
        dataset = ShardedDataset.open(cfg.data.shards)
        source = open_source(cfg)
        check_images(dataset, source, cfg.data.split)
        return cls(cfg, world, dataset, source)

    def run(self, received: list[int]) -> int:
        """Make the missing parts, until a signal is ``received``; the exit code. Raises AgreedError."""
        about = raise_on_all(self._claim if self.world.main else lambda: self.about)
        self.about, missing = broadcast_from_main((about, folder.missing_parts(self.out, about)))
        mine = missing[self.world.rank :: self.world.ranks]
        batches = self._batches(mine)
        moved(self.source.encoder, self.world.device)
        done = self.about.rows - sum(len(self.rows[self.about.span(part)]) for part in missing)
        unreadable: list[str] = []
        progress = bar("embedding", UNITS[self.dataset.info.dims])
        progress.disable = not self.world.main
        with progress:
            task = progress.add_task("", total=self.about.rows, completed=done)
            for number in range(math.ceil(len(missing) / self.world.ranks)):
                part = mine[number] if number < len(mine) else None

                def make(part: int | None = part) -> Outcome:
                    return Outcome() if part is None else self._part(part, batches, received)

                outcomes = gather_objects(raise_on_all(make))
                done += sum(outcome.written for outcome in outcomes)
                progress.update(task, completed=done)
                unreadable += [message for outcome in outcomes for message in outcome.unreadable]
                if name := next((outcome.signal for outcome in outcomes if outcome.signal), ""):
                    logger.info("%s: %d of %d rows are kept; the same command continues", name, done, self.about.rows)
                    return INTERRUPTED
        if unreadable:
            raise AgreedError(f"{UnreadableImagesError(unreadable)}; the parts without them are kept")
        if self.world.main:
            print_line(f"{self.about.rows} embeddings of {self.about.width} numbers in {self.out}")
        return DONE

    def _claim(self) -> About:
        with as_user_error(self.out, "out"):
            return folder.claim(self.out, self.about)

    def _batches(self, parts: list[int]) -> Iterator[StoredImages]:
        """The images of these parts. No batch has images of two: what is computed at once is the same for any number
        of processes, and after a stop."""
        window = self.source.input.window
        images = Images(self.dataset, self.rows, self.about.size, self.cfg.data.workers, window, self.world.device)
        spans = (self.rows[self.about.span(part)] for part in parts)
        return images.loaded(
            rows[first : first + self.cfg.batch] for rows in spans for first in range(0, len(rows), self.cfg.batch)
        )

    def _part(self, part: int, batches: Iterator[StoredImages], received: list[int]) -> Outcome:
        """Compute and write a part, unless a signal comes or an image is unreadable. Waits for no other process."""
        rows = self.rows[self.about.span(part)]
        values: list[Tensor] = []
        unreadable: list[str] = []
        for _ in range(0, len(rows), self.cfg.batch):
            if received:
                return Outcome(signal.Signals(received[0]).name)
            images = next(batches)
            unreadable += images.unreadable
            if not unreadable:
                with self.world.autocast():
                    values += pooled(self.source.encoder, images.scaled(), [self.source.level])
        if unreadable:
            return Outcome(unreadable=tuple(unreadable))
        about = self.dataset.manifest.table(["key", "patient", "split"]).take(rows)
        with as_user_error(self.out, "out"):
            computed = torch.cat(values).cpu().numpy()
            folder.write_part(self.out, self.about, part, about, self.dataset.labels(rows), computed)
        return Outcome(written=len(rows))


def check_images(dataset: ShardedDataset, source: FeatureSource, split: str) -> None:
    """Raise UserError for images of other dimensions or numbers of channels than the encoder takes."""
    dataset.require(source.encoder.dimensions, "this encoder")
    splits = dataset.splits if split == ALL else [split]
    channels = {kind.channels for each in splits if each in dataset.splits for kind in dataset.kinds(each)}
    if len(channels) > 1 or channels - {1, source.encoder.channels[0]}:
        listed = " and ".join(map(str, sorted(channels)))
        raise UserError(
            f"data.shards={dataset.root} has images of {listed} channel(s); {source.encoder.name} takes 1 or "
            f"{source.encoder.channels[0]}, the same in all: shard again with one number of channels"
        )


def _about(cfg: DictConfig, world: World, dataset: ShardedDataset, source: FeatureSource, rows: int) -> About:
    info, input = dataset.info, source.input
    data = folder.EmbeddedDataset(info.name, dataset.hash, info.modality, info.licence, info.label_names, info.classes)
    return About(
        name=source.name, weights=source.weights, dataset=data, split=cfg.data.split, size=[*input.size],
        mean=[*input.mean], deviation=[*input.deviation], level=source.level,
        width=width(source.encoder, source.level), dtype=cfg.dtype, precision=world.precision, rows=rows,
        part_rows=folder.part_rows(rows), window=[*(input.window or ())],
        pooling="mean over space" if isinstance(source.level, int) else "tokens",
    )  # fmt: skip


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The stop signals received meanwhile."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
