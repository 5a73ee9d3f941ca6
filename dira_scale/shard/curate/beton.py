"""``shard convert``: a dataset's tars to FFCV's ``.beton``, one per split, with the same samples.

JPEGs are copied. FFCV has no other compression: PNG, HTJ2K and npy become raw pixels of three equal channels, with the
size of these.
"""

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import sync_folder, write_atomic
from dira_scale.base.storage.store import is_local
from dira_scale.dataset.manifest import INFO_FILE, ShardedDataset
from dira_scale.dataset.manifest.beton import (
    JPEG,
    RAW,
    ArrayField,
    BytesField,
    Field,
    ImageField,
    IntField,
    JsonField,
    Writer,
    pages_for,
)
from dira_scale.dataset.manifest.tar import BLOCK, member_at


def to_beton(path: str | Path) -> dict[str, int]:
    """Write ``{split}.beton`` beside the tars. Returns their sizes by name, which enter ``dataset.json``.

    Fields: ``image``; ``index`` (row of the manifest); ``key`` (24 ASCII bytes); ``json`` (the sample's KEY.json);
    ``labels`` (float32, NaN = unknown) if there are any; ``mask_size`` and ``mask`` (PNG; one byte if ``mask_size`` is
    0) if there are any.

    Raises UserError unless it is 8-bit 2D, or if it is in a store, which FFCV cannot read.
    """
    dataset = ShardedDataset.open(path)
    if dataset.info.dims != 2 or not (dataset.column("bits") == 8).all():
        found = f"these are {dataset.info.dims}D of {dataset.column('bits').max()} bits"
        cure = "; shard again with recipe.bits=8" if dataset.info.dims == 2 else ""
        raise UserError(f"path={path}: FFCV holds 8-bit images only, {found}{cure}")
    if not is_local(dataset.root):
        raise UserError(f"path={path}: FFCV maps files into memory, so copy the dataset to a disk first")
    for split in dataset.splits:
        if (file := dataset.root / f"{split}.beton").name not in dataset.info.betons and file.exists():
            raise UserError(f"{file} would be replaced, and dataset.json does not name it: move it")
    _announce(dataset)
    sizes = {}
    for split in dataset.splits:
        file = dataset.root / f"{split}.beton"
        part = file.with_name(f".{file.name}.part")
        rows = dataset.rows(split)
        fields: dict[str, Field] = {
            "image": ImageField(), "index": IntField(), "key": ArrayField("|u1", (24,)), "json": JsonField()
        }  # fmt: skip
        if dataset.info.label_names:
            fields["labels"] = ArrayField("<f4", (len(dataset.info.label_names),))
        if dataset.has_mask(rows).any():
            fields |= {"mask_size": IntField(), "mask": BytesField()}
        try:
            with Writer(part, fields, len(rows), _largest(dataset, rows)) as writer:
                keys = (key for part in dataset.manifest.at(["key"], rows) for key in part["key"].to_pylist())
                for row, key in zip(track(rows, f"{split}.beton"), keys, strict=True):
                    values = _values(dataset, int(row), key)
                    writer.add({name: value for name, value in values.items() if name in fields})
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        part.replace(file)
        sizes[file.name] = file.stat().st_size
    sync_folder(dataset.root)
    write_atomic(dataset.root / INFO_FILE, replace(dataset.info, betons=sizes).to_json())
    return sizes


def _announce(dataset: ShardedDataset) -> None:
    """Print about how large the files will be. Raises UserError if the disk lacks the space."""
    estimate = 0
    for rows in map(dataset.rows, dataset.splits):  # a page of records, then the samples, each within one page
        page = next(iter(pages_for(_largest(dataset, rows))), 0)
        pages, room = 1, 0
        for size in map(int, _sizes(dataset, rows)):
            if size > room:
                pages, room = pages + 1, page
            room -= size
        estimate += pages * page
    needed, have = estimate / 1e6, sum(dataset.info.shards.values()) / 1e6
    free = shutil.disk_usage(dataset.root).free / 1e6
    print(f"FFCV's format will take about {needed:,.1f} MB, the shards take {have:,.1f} MB; {free:,.0f} MB are free")
    if needed > free:
        raise UserError(
            f"path={dataset.root}: the disk has {free:,.0f} MB free, and FFCV's format needs about {needed:,.0f} MB, "
            "as all but JPEG becomes raw pixels: free space, or shard with recipe.codec=jpg"
        )


def _values(dataset: ShardedDataset, row: int, key: str) -> dict[str, Any]:
    payload, mask = dataset.read(row), dataset.read_mask(row) or b""
    height, width = int(dataset.column("height")[row]), int(dataset.column("width")[row])
    if dataset.cell("codec", row) == "jpg":
        image = (JPEG, height, width, payload)
    else:
        pixels = dataset.pixels(row)
        colour = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)
        image = (RAW, height, width, colour.tobytes())
    shard, name = dataset.cell("shard", row), f"{key}.json"  # which follows the image
    start = int(dataset.column("offset")[row]) + -(-int(dataset.column("size")[row]) // BLOCK) * BLOCK
    with dataset.file(shard).open("rb") as file:
        try:
            member = member_at(file, start, dataset.info.shards[shard])
        except tarfile.TarError as error:
            raise UserError(f"shard {dataset.file(shard)} is damaged ({error}): shard again") from error
        if member is None or member.name != name:
            raise UserError(f"shard {dataset.file(shard)} has no {name} after its image: shard again")
        sidecar = file.read(member.size)
    return {
        "image": image,
        "index": row,
        "key": np.frombuffer(key.encode("ascii"), np.uint8),
        "json": sidecar + b"\0",
        "labels": dataset.labels(np.array([row]))[0],
        "mask_size": len(mask),
        "mask": mask or b"\0",
    }


def _sizes(dataset: ShardedDataset, rows: np.ndarray) -> np.ndarray:
    """Bytes of each sample's image and mask: JPEGs as they are, everything else raw."""
    raw = 3 * dataset.column("height")[rows].astype(np.int64) * dataset.column("width")[rows]
    codecs, names = dataset.codes("codec")
    image = np.where(codecs[rows] == names.index("jpg"), dataset.column("size")[rows], raw)
    return np.asarray(image + np.maximum(dataset.index.records["mask_size"][rows], 1))


def _largest(dataset: ShardedDataset, rows: np.ndarray) -> int:
    """Upper bound of a sample's bytes, including 64 KiB of JSON."""
    return int(_sizes(dataset, rows).max()) + 24 + 4 * len(dataset.info.label_names) + 2**16
