"""A toy dataset of volumes, straight from arrays, and its views by brute force."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from dira_scale.data.manifest import SCHEMA, DatasetInfo, ShardedDataset
from dira_scale.data.manifest.writer import TableWriter
from dira_scale.data.views import Blur, Cutout, InverseCutout, Jitter, Shuffle, ViewSpec
from dira_scale.pixels import codecs

NONE: dict[str, Any] = {"cutout": Cutout(p=0), "inverse_cutout": InverseCutout(p=0), "shuffle": Shuffle(p=0)}
NONE |= {"blur": Blur(p=0)}
# The same on a command line.
WORDS = [f"views.{name}.p=0" for name in NONE]


def spec(*size: int, **more: Any) -> ViewSpec:
    return ViewSpec(size=size, jitter=Jitter(p=0), **NONE | more)


def random_volumes(count: int, channels: int = 1) -> list[np.ndarray]:
    """Hounsfield units, [D, H, W] or [C, D, H, W]; no two of the same shape."""
    generator = np.random.default_rng(0)
    shapes = [(17 + i, 20 - i % 5, 16 + i % 3) for i in range(count)]
    return [
        generator.integers(-1024, 3000, (channels, *s), np.int16).squeeze(0 if channels == 1 else ()) for s in shapes
    ]


def make(root: Path, volumes: Sequence[np.ndarray], codec: str = "npy", val: int = 0) -> ShardedDataset:
    """Every second volume has a mask: whether its voxels are above 0. The last ``val`` volumes are held out."""
    root.mkdir()
    shard, rows = b"", []
    for number, voxels in enumerate(volumes):
        payload = codecs.encode(voxels, codec)
        place = {"offset": len(shard), "size": len(payload)}
        shard += payload
        if number % 2 == 0:
            mask = codecs.encode(np.uint8(voxels.reshape(-1, *voxels.shape[-3:])[0] > 0), "b2nd")
            place |= {"mask_offset": len(shard), "mask_size": len(mask)}
            shard += mask
        sides = dict(zip(("depth", "height", "width"), voxels.shape[-3:], strict=True))
        rows.append(
            dict.fromkeys(SCHEMA.names)
            | {
                "key": f"v{number}",
                "split": "val" if number >= len(volumes) - val else "train",
                "patient": f"p{number}",
            }
            | {"study": "s", "shard": "train-000000.tar", "codec": codec, "bits": 16, "low": -1024.0, "high": 3000.0}
            | {"channels": voxels.shape[0] if voxels.ndim == 4 else 1, "spacing": [2.0, 1.0, 1.0]}
            | {"affine": np.diag([1.0, 1.0, 2.0, 1.0]).ravel().tolist(), "labels": [float(number % 3 == 0)]}
            | {"xxh3": xxhash.xxh3_64_hexdigest(payload)}
            | sides
            | place
        )
    (root / "train-000000.tar").write_bytes(shard)
    with TableWriter(root / "manifest.parquet", SCHEMA) as writer:
        writer.add(rows)
    counts = {"train": len(volumes) - val} | ({"val": val} if val else {})
    info = DatasetInfo(
        name="toy", modality="CT", dims=3, codec=codec, label_names=["nodule"], counts=counts, quarantined=0,
        shards={"train-000000.tar": len(shard)}, recipe={}, recipe_hash="", licence="none", tool_version="0",
    )  # fmt: skip
    (root / "dataset.json").write_text(info.to_json())
    assert json.loads(info.to_json())["dims"] == 3
    return ShardedDataset.open(root)


def weights(extent: int, side: int) -> np.ndarray:
    """[side, extent]: a triangle as wide as the larger of the grids' two steps, in float64."""
    step = extent / side
    centre = (np.arange(side)[:, None] + 0.5) * step
    weight = np.clip(1 - np.abs(np.arange(extent) + 0.5 - centre) / max(step, 1), 0, None)
    return weight / weight.sum(1, keepdims=True)


def plain_view(voxels: np.ndarray, box: Sequence[int], flip: Sequence[bool], size: Sequence[int]) -> np.ndarray:
    """The crop [*size] of ``voxels`` [D, H, W], resized in float64 and mirrored, one axis after the other."""
    z, y, x, d, h, w = box
    view = voxels[z : z + d, y : y + h, x : x + w].astype(np.float64)
    matrices = [weights(extent, side) for extent, side in zip((d, h, w), size, strict=True)]
    view = np.einsum("zyx,az,by,cx->abc", view, *matrices)
    for axis in range(3):
        view = np.flip(view, axis) if flip[axis] else view
    return view
