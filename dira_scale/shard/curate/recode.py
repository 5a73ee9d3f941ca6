"""``shard convert to=webdataset``: a dataset's shards in another codec, bit depth or size, without its source.

Resumable, and the same bytes for any number of workers, by the means of ``shard`` itself (``archive``). Shards keep
their names and samples; all that is not pixels is carried over.
"""

import os
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale import __version__
from dira_scale.archive.claim import remove_leftovers, write_dataset
from dira_scale.archive.finish import discard, joined, publish_dataset
from dira_scale.archive.outcome import sample_counts
from dira_scale.archive.output import check_output, finished
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.writer import Conversion
from dira_scale.data.manifest import MANIFEST_FILE, QUARANTINE_FILE, DatasetInfo, ShardedDataset
from dira_scale.data.tar import checksum
from dira_scale.errors import UserError, counted
from dira_scale.machine.console import Console
from dira_scale.shard.curate.recode_sample import QUALITY, Form, StoredSample, recoded
from dira_scale.storage.store import is_local, locate, open_file


class RecodePlan:
    """Which samples of a dataset make which shard of the new one; a ``PlannedShards`` (:mod:`dira_scale.archive.plan`).

    Attributes:
        shards: file name -> rows of the origin's manifest, in its order.
        label_names: those of the origin.
        hash: xxHash3 of the origin's manifest.
    """

    def __init__(self, origin: ShardedDataset):
        self._origin = origin
        self.label_names = tuple(origin.info.label_names)
        self.channels = ()  # images have one range, in colour, too
        with open_file(origin.root / MANIFEST_FILE) as file:
            self.hash = checksum(file)
        shards = pc.index_in(origin.table["shard"], pa.array(origin.info.shards.keys(), pa.string())).to_numpy()
        order = np.argsort(shards, kind="stable")
        ends = np.cumsum(np.bincount(shards, minlength=len(origin.info.shards)))
        rows = np.split(order, ends[:-1])
        self.shards = dict(zip(own_names(list(origin.info.shards)), rows, strict=True))

    def items(self, shard: str) -> list[StoredSample]:
        """The samples of one shard."""
        rows = self._origin.table.take(self.shards[shard]).to_pylist()
        return [StoredSample(self._origin.file(row["shard"]), row) for row in rows]


def own_names(shards: Sequence[str]) -> list[str]:
    """File names in the new folder: the shards' own. Where the origin points into several datasets with equal names,
    the shards of each prefix are numbered anew."""
    names = [shard.rpartition("/")[2] for shard in shards]
    if len(set(names)) == len(names):
        return names
    prefixes, seen = [name.rpartition("-")[0] for name in names], Counter[str]()
    numbered = []
    for prefix in prefixes:
        numbered.append(f"{prefix}-{seen[prefix]:06d}.tar")
        seen[prefix] += 1
    return numbered


def check(origin: ShardedDataset, form: Form, out: Path) -> None:
    """Raises UserError if ``out`` is in the origin's folder, or the origin cannot have ``form`` or has it already."""
    path, stored = f"path={origin.root}", pixels_of(origin)
    if origin.info.dims != 2:
        raise UserError(f"{path} holds volumes (dims 3), and to=webdataset converts images: shard the volumes again "
                        "with another recipe.codec or recipe.volume.spacing, or with recipe.slices=axial, whose "
                        "slices can be converted")  # fmt: skip
    if not {*origin.column("channels").tolist()} <= {1, 3}:
        raise UserError(f"{path} has images of several channels, and to=webdataset converts grey images and those in "
                        "colour: shard again")  # fmt: skip
    if is_local(out) and is_local(origin.root):
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(origin.root)):
            raise UserError(f"out={out} is the folder of {path}, or in it: name another, as the origin stays as it is")
    elif str(out) == str(origin.root):
        raise UserError(f"out={out} is {path}: name another, as the origin stays as it is")
    codecs = {form.codec_of(codec) for codec in stored["codec"]}
    deep = int((origin.column("bits") == 16).sum())
    if "jpg" in codecs and form.bits is None and deep:
        raise UserError(f"codec={form.codec or 'jpg'}: JPEG stores 8 bits, and {deep} images of {path} have 16: add "
                        "bits=8, or use codec=png, jp2 or npy")  # fmt: skip
    if form.bits == 16 and deep < len(origin.table):
        raise UserError(f"bits=16: {len(origin.table) - deep} images of {path} have 8 bits; what they lost is only in "
                        "the source: shard it again with recipe.bits=16")  # fmt: skip
    if form.quality is not None and "jpg" not in codecs:
        raise UserError(f"quality={form.quality} applies to JPEG, and these become {' and '.join(sorted(codecs))}: add "
                        "codec=jpg, or leave quality out")  # fmt: skip
    if not changed(origin, form):
        raise UserError(f"nothing to convert: {path} has {described(origin)} already; give another codec, bits, "
                        "quality, or a smaller max_side (images are never enlarged)")  # fmt: skip


def pixels_of(origin: ShardedDataset) -> dict[str, list[Any]]:
    """The distinct codecs and bit depths of a dataset, and its largest height and width."""
    distinct = {name: sorted(set(origin.column(name).tolist())) for name in ("codec", "bits")}
    return distinct | {"largest": [int(origin.column(side).max()) for side in ("height", "width")]}


def described(origin: ShardedDataset) -> str:
    """``764 images, png, 16 bits, at most 1024 x 900``."""
    texts = {name: " and ".join(map(str, values)) for name, values in pixels_of(origin).items() if name != "largest"}
    height, width = pixels_of(origin)["largest"]
    return f"{counted(len(origin.table), 'image')}, {texts['codec']}, {texts['bits']} bits, at most {height} x {width}"


def planned(origin: ShardedDataset, form: Form) -> str:
    """``all become jp2, at most 512 on a side``; ``12 become …, the others are copied``."""
    count, total = changed(origin, form), len(origin.table)
    words = [form.codec or ""]
    words += [f"quality {form.quality}"] if form.quality else []
    words += [f"{form.bits} bits"] if form.bits else []
    words += [f"at most {form.max_side} on a side"] if form.max_side else []
    how = ", ".join(filter(None, words))
    return f"all become {how}" if count == total else f"{count:,} become {how}, the others are copied"


def changed(origin: ShardedDataset, form: Form) -> int:
    """How many images get another payload."""
    decisive = ["codec", "bits", "height", "width"]
    kinds = origin.table.select(decisive).group_by(decisive).aggregate([([], "count_all")]).to_pylist()
    return sum(kind["count_all"] for kind in kinds if form.changes(kind))


def identity(origin: ShardedDataset, form: Form) -> dict[str, Any]:
    """The recipe of the converted dataset: that of its origin with the new form, and what it was converted from."""
    recipe, before = origin.info.recipe, pixels_of(origin)
    came = {"dataset": origin.hash, "recipe_hash": origin.info.recipe_hash, **before}
    came |= {"converted_from": recipe["converted_from"]} if "converted_from" in recipe else {}
    jpeg = "jpg" in {form.codec_of(codec) for codec in before["codec"]}
    quality = {"quality": form.quality or QUALITY} if jpeg else {}
    return recipe | form.given | quality | {"converted_from": came}


SHOWN = 5  # damaged samples that are printed individually


class Damaged(NamedTuple):
    """A sample of the origin that could not be converted; ``shard`` is the new dataset's."""

    shard: str
    key: str
    reason: str


class Recoded(NamedTuple):
    """The result of a conversion."""

    info: DatasetInfo
    damaged: list[Damaged]


def recode(path: str | Path, out: str | Path, form: Form, workers: int) -> None:
    """Write the dataset at ``path`` to ``out`` in another form; resumes an interrupted call.

    A sample whose bytes are damaged goes to quarantine, and is counted and named in what is printed.

    Raises UserError if the dataset cannot have that form, ``out`` is unsuitable, no sample is readable, or the disk or
    store fails.
    """
    console = Console(soft_wrap=True, highlight=False)
    folder, origin = locate(out, "out"), ShardedDataset.open(path)
    check(origin, form, folder)
    recipe = identity(origin, form)
    started = time.monotonic()
    try:
        plan = RecodePlan(origin)
        made: ShardedDataset | Recoded | None = finished(folder, recipe)
        if made is None:
            check_output(folder, None)
            console.print(f"{origin.root}: {described(origin)}; {planned(origin, form)}")
            work = Conversion(partial(recoded, form=form), doing="converting")
            join = partial(_finish, folder, plan, origin, recipe, form)
            made = write_dataset(folder, plan, recipe, work, workers, join)
            assert made is not None
    except OSError as error:
        raise UserError(
            f"converting to {folder} failed ({error}); finished shards are kept: fix this, then run the same command "
            "again"
        ) from error
    if isinstance(made, Recoded):
        return _print_outcome(console, folder, origin, made, time.monotonic() - started)
    if made.info.plan_hash != plan.hash:
        raise UserError(f"path={path} has changed since out={out} was made (its labels, boxes or splits): choose "
                        f"another out, or delete {out} to remake it")  # fmt: skip
    remove_leftovers(folder)
    console.print(f"{folder} is complete: {sample_counts(made.info)}")


def _finish(
    out: Path, plan: RecodePlan, origin: ShardedDataset, recipe: dict[str, Any], form: Form, scratch: Path
) -> Recoded:
    """Join the shards' states and the origin's quarantine into the tables. Raises UserError if no sample is left."""
    counts, damaged = Counter(dict.fromkeys(origin.info.counts, 0)), list[Damaged]()
    sizes, checksums = {}, {}
    with open_file(origin.root / QUARANTINE_FILE) as file:
        rejected = pq.read_table(file).to_pylist()
    for shard, state in joined(out, plan, recipe, scratch, rejected):
        sizes[shard], checksums[shard] = state["size"], state["xxh3"]
        counts.update(row["split"] for row in state["rows"])
        damaged += [Damaged(shard, entry["source"], entry["reason"]) for entry in state["rejected"]]
    if not counts.total():
        discard(out, plan, scratch)
        raise UserError(f"none of the {len(damaged)} images of path={origin.root} can be converted, the first because: "
                        f"{damaged[0].reason}")  # fmt: skip
    info = replace(
        origin.info,
        codec=form.codec or origin.info.codec,
        counts=dict(counts),
        quarantined=origin.info.quarantined + len(damaged),
        shards=sizes,
        checksums=checksums,
        recipe=recipe,
        recipe_hash=identity_hash(recipe),
        plan_hash=plan.hash,
        betons={},
        tool_version=__version__,
    )
    publish_dataset(out, scratch, info)
    return Recoded(info, damaged)


def _print_outcome(console: Console, out: Path, origin: ShardedDataset, outcome: Recoded, seconds: float) -> None:
    info, damaged = outcome
    size, before = (sum(dataset.shards.values()) / 1e6 for dataset in (info, origin.info))
    shards = counted(len(info.shards), "shard")
    console.print(f"{out}: {sample_counts(info)}; {size:.1f} MB in {shards}, {before:.1f} MB before; {seconds:.0f} s")
    if damaged:
        console.print(f"warning: {counted(len(damaged), 'image')} of {origin.root} cannot be converted and went to "
                      "quarantine:", style="yellow")  # fmt: skip
        for shard, key, reason in damaged[:SHOWN]:
            console.print(f"  {shard}, sample {key}: {reason}")
        if len(damaged) > SHOWN:
            console.print(f"  … and {len(damaged) - SHOWN} more")
        console.print(
            f"to include them, repair {origin.root} (shard repair, or an intact copy), delete {out}, convert again"
        )
    console.print(f"look: python -m dira_scale.shard stats {shlex.quote(f'path={out}')}")
