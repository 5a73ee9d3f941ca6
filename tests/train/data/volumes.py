"""A toy dataset of volumes, straight from arrays, and its views by brute force."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from dataset.conftest import row_of, write_dataset
from train.models.stub3d import TARGET

from dira_scale.archive.foreground import foreground_of
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.foreground import FOREGROUND, FOREGROUND_FILE
from dira_scale.dataset.pixels import codecs
from dira_scale.train.data.views import Blur, Cutout, InverseCutout, Jitter, PlaneViews, Shuffle, ViewSpec

NONE: dict[str, Any] = {"cutout": Cutout(p=0), "inverse_cutout": InverseCutout(p=0), "shuffle": Shuffle(p=0)}
NONE |= {"blur": Blur(p=0)}
# DiRA with MoCo on the tests' own network, with such views.
WORDS = ["method=dira_moco", "method.base.queue=16", f"model._target_={TARGET}", "+model.width=4", "model.bn_groups=2",
         *(f"~model.{key}" for key in ("encoder", "decoder_channels", "zero_init_residual")),
         *(f"views.{name}.p=0" for name in NONE)]  # fmt: skip


def spec(*size: int, **more: Any) -> ViewSpec:
    return ViewSpec(size=size, jitter=Jitter(p=0), **NONE | more)


def alone(views: ViewSpec, view: int) -> ViewSpec:
    """Views of the kind of number ``view`` only, with the same numbers, and a blur in pixels of the first kind's."""
    kind = [kind for kind in views.crops for _ in range(kind["count"])][view]
    kind = {"size": views.size, **kind, "count": views.count}
    only = replace(views, size=kind["size"], count=views.count, crops=(kind,))
    (entry,) = only.entries
    if isinstance(entry, PlaneViews):
        vars(only)["entries"] = (replace(entry, first_side=views.sides[-1]),)
    return only


def random_volumes(count: int, channels: int = 1) -> list[np.ndarray]:
    """Hounsfield units, [D, H, W] or [C, D, H, W]; no two of the same shape."""
    generator = np.random.default_rng(0)
    shapes = [(17 + i, 20 - i % 5, 16 + i % 3) for i in range(count)]
    return [
        generator.integers(-1024, 3000, (channels, *s), np.int16).squeeze(0 if channels == 1 else ()) for s in shapes
    ]


def make(
    root: Path,
    volumes: Sequence[np.ndarray],
    codec: str = "npy",
    val: int = 0,
    spacing: Sequence[Sequence[float] | None] | None = None,
    test: int = 0,
    boxes: Sequence[Sequence[dict[str, Any]]] = (),
    words: Sequence[int | None] | None = None,
    ranges: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
    channels: Sequence[str] = (),
    studies: Sequence[str] = (),
    splits: Sequence[str] = (),
) -> ShardedDataset:
    """Every second volume has a mask: whether its voxels are above 0. The last ``val`` and ``test`` are held out,
    unless all have their ``splits``.
    ``spacing`` of each, in mm; None: of all [2, 1, 1]. ``words``: of each the class of a label ``word``; None: a label
    ``nodule``. ``ranges``: of each low and high by channel, whose names ``channels`` are."""
    shard, rows, foreground = b"", [], list[dict[str, Any]]()
    splits = splits or (len(volumes) - val - test) * ["train"] + val * ["val"] + test * ["test"]
    for number, voxels in enumerate(volumes):
        payload = codecs.encode(voxels, codec)
        facts = {
            "split": splits[number], "patient": f"p{number}", "codec": codec, "bits": 16,
            "low": -1024.0, "high": 3000.0, "channels": voxels.shape[0] if voxels.ndim == 4 else 1,
            "spacing": [2.0, 1.0, 1.0] if spacing is None else spacing[number],
            "affine": np.diag([1.0, 1.0, 2.0, 1.0]).ravel().tolist(), "xxh3": xxhash.xxh3_64_hexdigest(payload),
            "labels": [float(number % 3 == 0) if words is None else words[number]],
            "offset": len(shard), "size": len(payload), "boxes": [*boxes[number]] if boxes else None,
        }  # fmt: skip
        facts |= dict(zip(("low", "high"), ranges[number], strict=True)) if ranges else {}
        facts |= {"study": studies[number]} if studies else {}
        facts |= dict(zip(("depth", "height", "width"), voxels.shape[-3:], strict=True))
        shard += payload
        if number % 2 == 0:
            values = np.uint8(voxels.reshape(-1, *voxels.shape[-3:])[0] > 0)
            mask = codecs.encode(values, "b2nd")
            foreground += foreground_of(values, f"v{number}")
            facts |= {"mask_offset": len(shard), "mask_size": len(mask)}
            shard += mask
        rows.append(row_of(f"v{number}", **facts))
    named = {} if words is None else {"word": [f"w{number}" for number in range(1 + max(filter(None, words)))]}
    described = {"name": "toy", "modality": "CT", "dims": 3, "label_names": [*named] or ["nodule"], "classes": named}
    described |= {"channels": [*channels]}
    root.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(foreground, FOREGROUND), root / FOREGROUND_FILE)
    return write_dataset(root, rows, {"train-000000.tar": shard}, **described)


def weights(extent: float, side: int) -> np.ndarray:
    """[side, whole voxels around]: a triangle as wide as the larger of the grids' two steps, in float64."""
    step = extent / side
    centre = (np.arange(side)[:, None] + 0.5) * step
    weight = np.clip(1 - np.abs(np.arange(math.ceil(extent)) + 0.5 - centre) / max(step, 1), 0, None)
    return weight / weight.sum(1, keepdims=True)


def plain_view(
    voxels: np.ndarray,
    box: Sequence[float],
    flip: Sequence[bool],
    size: Sequence[int],
    transposed: bool = False,
    outside: int = 0,
) -> np.ndarray:
    """The crop [*size] of ``voxels`` [D, H, W], resized in float64 and mirrored, one axis after the other."""
    far = 40  # voxels beyond the volume that a box may reach
    starts = [int(start) + far for start in box[:3]]
    assert [start - far for start in starts] == list(box[:3])
    around = tuple(slice(a, a + math.ceil(extent)) for a, extent in zip(starts, box[3:], strict=True))
    view = np.pad(voxels, far, constant_values=outside)[around].astype(np.float64)
    turned = (size[0], size[2], size[1]) if transposed else size
    matrices = [weights(extent, side) for extent, side in zip(box[3:], turned, strict=True)]
    view = np.einsum("zyx,az,by,cx->abc", view, *matrices, optimize=True)
    for axis in range(3):
        view = np.flip(view, axis) if flip[axis] else view
    return view.transpose(0, 2, 1) if transposed else view
