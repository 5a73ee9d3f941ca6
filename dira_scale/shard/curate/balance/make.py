"""From embeddings to a file of repeats, a list of near-duplicates and a page."""

import json
import math
import os
import tempfile
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from etils.epy import lazy_imports

from dira_scale.base.errors import UserError, counted, print_line
from dira_scale.base.storage.atomic import as_user_error, write_atomic
from dira_scale.base.storage.owned import own
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.judge.evaluation.embeddings import About, read_parts
from dira_scale.shard.curate.balance.clusters import tree
from dira_scale.shard.curate.balance.draw import repeats
from dira_scale.shard.curate.balance.duplicates import near_duplicates
from dira_scale.train.data.repeats import KIND, content

with lazy_imports():  # matplotlib is needed for the page alone
    from dira_scale.shard.curate.balance import page

FILE, LIST, PAGE = "weights.arrow", "duplicates.csv", "clusters.html"
MEMBERS, FINEST = 64, 2**14  # images of a finest cluster, on average; at most so many of these
LESS, SMALLEST = 5, 5  # how many fewer clusters the next level has; at least so many
BLOCK = 2**14  # rows that are moved at once
ALIKE = "weights.hash", "level", "size", "mean", "deviation", "window", "pooling"  # of embeddings


def balance(paths: Sequence[str], folders: Sequence[str], out: Path, settings: Any) -> None:
    """Write what ``configs/shard_balance.yaml`` explains. Raises UserError for embeddings of other images, and for more
    clusters or draws than there are images for."""
    if len(paths) != len(folders):
        raise UserError(f"embeddings={[*folders]}: name one folder for each of {counted(len(paths), 'dataset')}")
    datasets = [ShardedDataset.open(path) for path in paths]
    tables = [each.manifest.table(["key", "patient"]).take(pa.array(each.rows(settings.split))) for each in datasets]
    rows = pa.concat_tables(tables).combine_chunks()
    with as_user_error(out, "out"):
        own(out, "balance", "out")
        with tempfile.TemporaryFile(dir=out) as scratch:  # without a name: a killed call leaves nothing
            points, about = _points(datasets, folders, rows["key"], settings.split, scratch)
            found = _found(points, settings)
        kept = rows.take(pa.array(found.kept))
        listed = rows.append_column("kept_key", kept["key"]).append_column("kept_patient", kept["patient"])
        listed = listed.append_column("cosine", pa.array(found.cosine)).take(pa.array(found.dropped))
        pa.csv.write_csv(listed, file := pa.BufferOutputStream())
        write_atomic(out / LIST, file.getvalue())
        columns = {"key": rows["key"], "repeats": found.repeats.astype(np.uint16), "end": np.cumsum(found.repeats)}
        columns["duplicate_of"] = pc.if_else(pa.array(found.kept == np.arange(len(rows))), None, kept["key"])
        columns |= {f"cluster_{number}": level for number, level in enumerate(found.levels, 1)}
        table = pa.table(columns, metadata={KIND: json.dumps(content(datasets, settings.split))})
        with pa.ipc.new_file(file := pa.BufferOutputStream(), table.schema) as stream:
            stream.write_table(table.combine_chunks(), max_chunksize=len(table))
        write_atomic(out / FILE, file.getvalue())
        write_atomic(out / PAGE, page.render(found, datasets, settings, about))  # last: an image may be damaged
    across = pc.sum(pc.not_equal(listed["patient"], listed["kept_patient"])).as_py() or 0
    images, draws = (np.bincount(found.levels[-1], by).max() / sum(by) for by in (np.ones(len(rows)), found.repeats))
    print_line(f"{len(rows)} images, of which {len(found.dropped)} are near-duplicates, {across} of another patient's")
    print_line(f"clusters: {', '.join(str(len(np.unique(level))) for level in found.levels)}; the largest of the last "
               f"level has {images:.1%} of the images and {draws:.1%} of the draws")  # fmt: skip
    print_line(f"repeats: {found.repeats.sum()} in all, at most {found.repeats.max()}, none of "
               f"{int((found.repeats == 0).sum())} images: data.weights={out / FILE}")  # fmt: skip
    print_line(f"page: {(out / PAGE).resolve()}")


def _points(
    datasets: Sequence[ShardedDataset], folders: Sequence[str], keys: pa.ChunkedArray, split: str, scratch: Any
) -> tuple[np.ndarray, About]:
    """Return the embeddings of all rows, divided by their lengths, float32 [n, d], in a file, read part by part."""
    about, filled = read_parts(folders[0])[0], 0
    if not len(keys):
        raise UserError(f"split={split}: it has no image")
    os.posix_fallocate(scratch.fileno(), 0, 4 * len(keys) * about.width)  # or a full disk ends the process
    points = np.memmap(scratch, np.float32, "w+", shape=(len(keys), about.width))
    for dataset, folder in zip(datasets, folders, strict=True):
        of, parts = read_parts(folder)
        if (of.dataset.hash, bool(of.sides)) != (dataset.hash, False) or of.split not in (split, "all"):
            raise UserError(f"embeddings={folder} holds {of.column}s of split {of.split} of {of.dataset.name} "
                            f"({of.dataset.hash[:12]}): name what embed what=pooled wrote of split {split} of "
                            f"{dataset.root} ({dataset.hash[:12]})")  # fmt: skip
        if other := [name for name in ALIKE if attrgetter(name)(about) != attrgetter(name)(of)]:
            raise UserError(
                f"embeddings={folder} has other {', '.join(other)} than {folders[0]}: embed both with the same"
            )
        for part in parts:
            part = part.filter(pc.equal(part["split"], split))
            values = part["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, of.width).astype(np.float32)
            lengths = np.linalg.norm(values, axis=1, keepdims=True)
            if part["key"] != keys.slice(filled, len(part)) or not np.isfinite(lengths).all():
                wrong = f"has other rows than {dataset.root}, or features that are not finite"
                raise UserError(f"embeddings={folder} {wrong}: look at the weights, and call embed again")
            points[filled : filled + len(part)] = values / np.maximum(lengths, 1e-12)
            filled += len(part)
    return points, about


def _found(points: np.ndarray, settings: Any) -> "page.Balanced":
    """Return what is found of the ``points``, which are not what they were afterwards."""
    kept, cosine = np.arange(len(points)), np.ones(len(points), np.float32)
    if settings.duplicates is not None:
        # All embeddings may lie in nearly one direction: of random weights any two radiographs have a cosine of 0.99.
        mean, length = points.mean(0, dtype=np.float64).astype(np.float32), np.empty((len(points), 1), np.float32)
        for block in _blocks(len(points)):
            points[block] -= mean
            length[block] = np.maximum(np.linalg.norm(points[block], axis=1, keepdims=True), 1e-12)
            points[block] /= length[block]
        kept, cosine = near_duplicates(points, min(settings.duplicates, 1 - 1e-6), settings.seed)
        for block in _blocks(len(points)):
            points[block] = points[block] * length[block] + mean
    drawn, distinct = np.zeros(len(points), np.int64), np.flatnonzero(kept == np.arange(len(points)))
    for block in _blocks(len(distinct)):
        points[block] = points[distinct[block]]
    points = points[: len(distinct)]  # clusters are of these alone
    room = settings.most * len(points)
    draws = settings.draws or min(len(kept), room)
    counts = [*(settings.clusters or _counts(len(points)))]
    if sorted([len(points), *counts], reverse=True) != [len(points), *counts] or draws > room:
        raise UserError(f"clusters={counts} and draws={draws} of {len(points)} images that are no near-duplicates, "
                        f"each at most {settings.most} times: use at most {len(points)} clusters, no more on any "
                        f"further level, and at most {room} draws")  # fmt: skip
    levels, centroids = tree(points, counts, settings.rounds, settings.seed)
    drawn[distinct] = repeats(levels, np.full(len(points), settings.most), draws, settings.seed)
    distance = np.full(len(kept), np.inf, np.float32)
    for block in _blocks(len(points)):
        distance[distinct[block]] = ((points[block] - centroids[levels[-1][block]]) ** 2).sum(1)
    of_kept = np.searchsorted(distinct, kept)
    return page.Balanced(kept, cosine, [level[of_kept] for level in levels], distance, drawn)


def _blocks(rows: int) -> list[slice]:
    return [slice(first, min(first + BLOCK, rows)) for first in range(0, rows, BLOCK)]


def _counts(images: int) -> list[int]:
    """Return how many clusters each level has by default."""
    counts = [min(FINEST, max(images // MEMBERS, math.isqrt(images)))]
    while counts[-1] // LESS >= SMALLEST:
        counts.append(counts[-1] // LESS)
    return counts
