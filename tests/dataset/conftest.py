"""Small sharded datasets straight from arrays: payloads one after another in a file, and a manifest."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from scipy import ndimage

from dira_scale.dataset.manifest import SCHEMA, DatasetInfo, ShardedDataset, schema_of
from dira_scale.dataset.pixels import codecs

# Of ten images: sizes differ within a batch, and some crops are enlarged.
SIZES = [(60, 80), (45, 45), (100, 52), (64, 48), (30, 33), (81, 70), (50, 90), (44, 61), (72, 40), (39, 39)]


def _radiograph(height: int, width: int, bits: int = 8, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Smooth shapes with a little noise over the whole range: [H, W], or [H, W, C] for several channels."""
    noise = np.random.default_rng(seed).normal(size=(height, width, channels))
    image = ndimage.gaussian_filter(noise, (9, 9, 0)) + 0.002 * noise
    image = (image - image.min()) / max(np.ptp(image), 1e-9) * (2**bits - 1)
    return image.round().astype(np.uint8 if bits == 8 else np.uint16).squeeze(2 if channels == 1 else ())


@pytest.fixture
def radiograph() -> Callable[..., np.ndarray]:
    return _radiograph


@pytest.fixture
def images() -> Callable[..., list[np.ndarray]]:
    """Images of SIZES, ``grow`` times as large."""
    return lambda bits=8, channels=1, grow=1: [
        _radiograph(grow * h, grow * w, bits, channels, seed=i) for i, (h, w) in enumerate(SIZES)
    ]


def row_of(key: str, **known: Any) -> dict[str, Any]:
    """A row of a manifest, of what is known."""
    fixed = {"split": "train", "study": "s", "shard": "train-000000.tar", "channels": 1, "depth": 1, "bits": 8}
    return dict.fromkeys(SCHEMA.names) | fixed | {"key": key} | known


def write_dataset(
    root: Path, rows: Sequence[Mapping[str, Any]], shards: Mapping[str, bytes], **info: Any
) -> ShardedDataset:
    """A dataset of these rows and shards; ``info`` of its description."""
    root.mkdir(exist_ok=True)
    for name, content in shards.items():
        (root / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist([*rows], schema_of(info.get("channels", ()))), root / "manifest.parquet")
    fields: dict[str, Any] = {
        "name": root.name, "modality": "CXR", "dims": 2, "codec": rows[0]["codec"], "label_names": ["a"],
        "counts": dict(Counter(row["split"] for row in rows)), "quarantined": 0,
        "shards": {name: len(content) for name, content in shards.items()}, "recipe": {}, "recipe_hash": "",
        "licence": "none", "tool_version": "0",
    }  # fmt: skip
    (root / "dataset.json").write_text(DatasetInfo(**fields | info).to_json())
    return ShardedDataset.open(root)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., ShardedDataset]:
    return maker(tmp_path)


def maker(folder: Path) -> Callable[..., ShardedDataset]:
    """Return a function that makes datasets below ``folder``."""

    def make(
        images: Sequence[np.ndarray],
        codec: str = "png",
        name: str = "toy",
        label_names: Sequence[str] = ("a",),
        masks: Sequence[np.ndarray | None] = (),
        labels: Sequence[Sequence[float]] = (),
        splits: Sequence[str] = (),
        patients: Sequence[str] = (),
        boxes: Sequence[Sequence[Mapping[str, Any]]] = (),
        lows: Sequence[float] = (),
        per_shard: int = 10**6,
        checksums: bool = False,
        **info: Any,
    ) -> ShardedDataset:
        """Image i has the labels i, and is of patient i in train, unless they are given."""
        rows, shards = [], defaultdict(bytes)
        for number, image in enumerate(images):
            payload, shard = codecs.encode(image, codec), f"train-{number // per_shard:06d}.tar"
            facts = {
                "split": splits[number] if splits else "train",
                "patient": patients[number] if patients else f"p{number}",
                "codec": codec, "shard": shard, "offset": len(shards[shard]), "size": len(payload),
                "channels": image.shape[2] if image.ndim == 3 else 1, "height": image.shape[0], "width": image.shape[1],
                "bits": 8 * image.itemsize, "low": lows[number] if lows else 0.0,
                "high": float(np.iinfo(image.dtype).max), "xxh3": xxhash.xxh3_64_hexdigest(payload),
                "labels": list(labels[number]) if labels else [float(number)] * len(label_names),
                "boxes": [*boxes[number]] if boxes else None,
            }  # fmt: skip
            shards[shard] += payload
            if masks and (values := masks[number]) is not None:
                mask = codecs.encode(values, "png")
                facts |= {"mask_offset": len(shards[shard]), "mask_size": len(mask)}
                shards[shard] += mask
            rows.append(row_of(f"{name}{number}", **facts))
        sums = {shard: xxhash.xxh3_64_hexdigest(content) for shard, content in shards.items()} if checksums else {}
        described = {"label_names": list(label_names), "codec": codec, "checksums": sums} | info
        return write_dataset(folder / name, rows, shards, **described)

    return make


@pytest.fixture
def tf32():
    """Allowed for a GPU's products."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before
