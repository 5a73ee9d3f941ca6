"""Small sharded datasets straight from arrays: payloads one after another in one file, and a manifest."""

from collections import Counter
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

from dira_scale.data.manifest import SCHEMA, DatasetInfo, ShardedDataset
from dira_scale.pixels import codecs


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
def make_dataset(tmp_path: Path) -> Callable[..., ShardedDataset]:
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
        **info: Any,
    ) -> ShardedDataset:
        """Image i has the labels i, and is of patient i in train, unless they are given."""
        root = tmp_path / name
        root.mkdir()
        rows, shard = [], b""
        for number, image in enumerate(images):
            payload = codecs.encode(image, codec)
            rows.append(
                dict.fromkeys(SCHEMA.names)
                | {"key": f"{name}{number}", "split": splits[number] if splits else "train", "study": "s"}
                | {"patient": patients[number] if patients else f"p{number}", "codec": codec}
                | {"shard": "train-000000.tar", "offset": len(shard), "size": len(payload), "depth": 1}
                | {"channels": image.shape[2] if image.ndim == 3 else 1}
                | {"height": image.shape[0], "width": image.shape[1], "bits": 8 * image.itemsize}
                | {"low": 0.0, "high": float(np.iinfo(image.dtype).max), "xxh3": xxhash.xxh3_64_hexdigest(payload)}
                | {"labels": list(labels[number]) if labels else [float(number)] * len(label_names)}
                | {"boxes": [*boxes[number]] if boxes else None}
            )
            shard += payload
            if masks and (values := masks[number]) is not None:
                mask = codecs.encode(values, "png")
                rows[-1] |= {"mask_offset": len(shard), "mask_size": len(mask)}
                shard += mask
        (root / "train-000000.tar").write_bytes(shard)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), root / "manifest.parquet")
        counts = dict(Counter(row["split"] for row in rows))
        facts: dict[str, Any] = {"recipe": {}, "recipe_hash": "", "licence": "none", "tool_version": "0"} | info
        described = DatasetInfo(
            name=name, modality="CXR", dims=2, codec=codec, label_names=list(label_names), counts=counts,
            quarantined=0, shards={"train-000000.tar": len(shard)}, **facts,
        )  # fmt: skip
        (root / "dataset.json").write_text(described.to_json())
        return ShardedDataset.open(root)

    return make


@pytest.fixture
def tf32():
    """Allowed for a GPU's products."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before
