"""Computes a folder of embeddings, part after part (``evaluation.rounds``)."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import torch
from omegaconf import DictConfig
from torch import Tensor

from dira_scale.archive.claim import ShardSlice
from dira_scale.base.errors import UserError, print_line
from dira_scale.base.machine.progress import bar
from dira_scale.base.storage.atomic import as_user_error
from dira_scale.base.storage.store import is_local, locate
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.judge.evaluation import embeddings as folder
from dira_scale.judge.evaluation.config import MAP
from dira_scale.judge.evaluation.embeddings import About
from dira_scale.judge.evaluation.feature_source import open_source
from dira_scale.judge.evaluation.features import (
    ALL,
    Images,
    StoredImages,
    UnreadableImagesError,
    map_sides,
    mapped,
    pooled,
    rows_of,
    width,
)
from dira_scale.judge.evaluation.rounds import Received, on_processes, own_parts, rounds
from dira_scale.train.data.batch import UNITS
from dira_scale.train.distributed.control import AgreedError, broadcast_from_main, check_equal, raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.models.network import moved
from dira_scale.train.runs.exit_codes import DONE, INTERRUPTED

logger = logging.getLogger(__name__)


def compute(cfg: DictConfig) -> int:
    """Compute what ``cfg.out`` lacks; the exit code. Collective."""

    def work(world: World) -> int:
        job = raise_on_all(lambda: EmbeddingJob(cfg, world))
        check_equal({"weights": job.about.weights.hash, "data.shards": job.dataset.hash})
        return job.run()

    return on_processes(cfg.threads, cfg.timeout, cfg.precision, work)


class EmbeddingJob:
    """A folder to be filled.

    Attributes:
        rows: of the manifest, by position in the folder.
    """

    def __init__(self, cfg: DictConfig, world: World) -> None:
        """Raises UserError naming key or file. Must not wait for another process."""
        mine = is_local(locate(cfg.data.shards, "data.shards")) and (world.rank, world.ranks)
        dataset, source = ShardedDataset.open(cfg.data.shards, mine), open_source(cfg)
        dataset.require(source.encoder.dimensions, "this encoder")
        splits = [each for each in dataset.splits if cfg.data.split in (ALL, each)]
        dataset.require_channels(splits, source.encoder.channels[0], source.channels, source.encoder.name)
        if len(channels := {kind.channels for each in splits for kind in dataset.kinds(each)}) > 1:
            listed = " and ".join(map(str, sorted(channels)))
            raise UserError(
                f"data.shards={dataset.root} has images of {listed} channel(s); {source.encoder.name} takes 1 or "
                f"{source.encoder.channels[0]}, the same in all: shard again with one number of channels"
            )
        self.cfg, self.world, self.dataset, self.source, self.out = cfg, world, dataset, source, Path(cfg.out)
        self.slice = ShardSlice.parse(cfg.slice)
        self.rows = rows_of(dataset, cfg.data.split)
        info, input, level = dataset.info, source.input, source.level
        sides = map_sides(source.encoder, level, input.size) if cfg.what == MAP else []
        features, bytes_each = width(source.encoder, level), 2 if cfg.dtype == "float16" else 4
        row_bytes = bytes_each * features * math.prod(sides) if sides else 0
        names, classes = info.label_names, info.classes
        self.about = About(
            name=source.name, weights=source.weights,
            dataset=folder.EmbeddedDataset(info.name, dataset.hash, info.modality, info.licence, names, classes),
            split=cfg.data.split, size=[*input.size], mean=[*input.mean], deviation=[*input.deviation], level=level,
            width=features, dtype=cfg.dtype, precision=world.precision, rows=len(self.rows),
            part_rows=folder.part_rows(len(self.rows), row_bytes), window=[*(input.window or ())],
            pooling="none" if sides else "mean over space" if isinstance(level, int) else "tokens", sides=sides,
        )  # fmt: skip

    def run(self) -> int:
        """Make the missing parts, until a signal comes; the exit code. Raises AgreedError."""

        def claim() -> About:
            with as_user_error(self.out, "out"):
                return folder.claim(self.out, self.about)

        about = raise_on_all(claim if self.world.main else lambda: self.about)
        everywhere = folder.missing_parts(self.out, about) if self.world.main else []
        self.about, missing = broadcast_from_main((about, everywhere))
        mine = [part for part in missing if part % self.slice.total == self.slice.number - 1]
        # No batch has images of two parts: what is computed at once is the same for any number of processes, and after
        # a stop.
        size, workers, window = self.cfg.batch, self.cfg.data.workers, self.source.input.window
        images = Images(self.dataset, self.rows, self.about.size, workers, window, self.world.device)
        spans = [self.rows[self.about.span(part)] for part in own_parts(self.world, mine)]
        batches = images.loaded(rows[i : i + size] for rows in spans for i in range(0, len(rows), size))
        moved(self.source.encoder, self.world.device)
        done = self.about.rows - sum(len(self.rows[self.about.span(part)]) for part in missing)
        end = done + sum(len(self.rows[self.about.span(part)]) for part in mine)
        unreadable: list[str] = []
        progress = bar("embedding", UNITS[self.dataset.info.dims])
        progress.disable = not self.world.main
        with progress:
            task = progress.add_task("", total=self.about.rows, completed=done)
            for outcomes, stopped in rounds(self.world, mine, lambda part, got: self._part(part, batches, got)):
                done += sum(written for written, _ in outcomes)
                progress.update(task, completed=done)
                unreadable += [message for _, messages in outcomes for message in messages]
                if stopped and done < end:
                    rows = self.about.rows
                    logger.info("%s: %d of %d rows are kept; the same command continues", stopped, done, rows)
                    return INTERRUPTED
        if unreadable:
            raise AgreedError(f"{UnreadableImagesError(unreadable)}; the parts without them are kept")
        if self.world.main and len(mine) < len(missing):
            print_line(f"slice {self.slice} of {self.out} is made; the command without slice=… makes what is missing")
        elif self.world.main:
            kind, shape = "maps" if self.about.sides else "embeddings", " x ".join(map(str, self.about.shape))
            print_line(f"{self.about.rows} {kind} of {shape} numbers in {self.out}")
        return DONE

    def _part(self, part: int, batches: Iterator[StoredImages], received: Received) -> tuple[int, list[str]]:
        """Compute and write a part, unless a signal comes or an image is unreadable; how many rows were written, and a
        message for each unreadable image. Waits for no other process."""
        source, rows = self.source, self.rows[self.about.span(part)]
        values: list[Tensor] = []
        unreadable: list[str] = []
        for _ in range(0, len(rows), self.cfg.batch):
            if received:
                return 0, []
            images = next(batches)
            unreadable += images.unreadable
            if not unreadable:
                with self.world.autocast():
                    if self.about.sides:
                        values.append(mapped(source.encoder, images.scaled(), source.level).cpu())
                    else:
                        values.append(pooled(source.encoder, images.scaled(), [source.level])[0])
        if unreadable:
            return 0, unreadable
        about = pa.concat_tables(self.dataset.manifest.at(["key", "patient", "split"], rows))
        with as_user_error(self.out, "out"):
            computed = torch.cat(values).cpu().numpy()
            where = folder.places(self.dataset, rows, self.about.sides) if self.about.sides else {}
            folder.write_part(self.out, self.about, part, about, self.dataset.labels(rows), computed, where)
        return len(rows), []
