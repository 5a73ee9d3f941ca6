"""``views.foreground``: which crops are drawn around a class, by brute force; the same whoever loads them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from train.data.volumes import make, spec

from dira_scale.archive.foreground import foreground_of
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.foreground import FOREGROUND, FOREGROUND_FILE
from dira_scale.train.data import mapped
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.foreground import Foreground
from dira_scale.train.data.labels import IGNORE
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.train.data.order import Order
from dira_scale.train.data.requests import Request, Requests
from dira_scale.train.data.samples import Samples

COUNT = 6
ORDER = Order((COUNT,), seed=5, batch=COUNT)
SIDES = (8, 8, 8)


def masks() -> list[np.ndarray]:
    """The masks of volumes of 40 voxels a side have a large class 1 and a class 2 of one voxel, but for the last two,
    which have class 1 alone. ``make`` gives every second volume no mask."""
    made = []
    for number in range(COUNT):
        mask = np.zeros((40, 40, 40), np.uint8)
        mask[5:35, 4:36, 6:30] = 1
        if number < COUNT - 2:
            mask[3 + number, 38 - number, 20] = 2
        made.append(mask)
    return made


def dataset_of(root: Path, rows: list[dict[str, Any]] | None = None) -> ShardedDataset:
    dataset = make(root, [mask.astype(np.int16) for mask in masks()], "npy")
    if rows is None:
        rows = [row for number in (0, 2, 4) for row in foreground_of(masks()[number], f"v{number}")]
    pq.write_table(pa.Table.from_pylist(rows, FOREGROUND), root / FOREGROUND_FILE)
    return dataset


def requests(dataset: ShardedDataset, share: float, epochs: int, classes: Any = None, **more: Any) -> list[Request]:
    views = spec(*SIDES, count=1, foreground=share, flip=0.0, **more)
    made = Requests(Samples([dataset], "train", views=views), ORDER, views, seed=3, classes=classes)
    return list(made.of(range(epochs)))


@pytest.mark.parametrize("classes", [None, [2]])
def test_the_share_of_crops_shows_a_class_each_as_often_and_the_others_stay(tmp_path: Path, classes: Any) -> None:
    dataset, epochs, stored = dataset_of(tmp_path / "toy"), 300, masks()
    seen: dict[int, list[int]] = {0: [], 2: [], 4: []}
    anywhere = requests(dataset, 0.0, epochs)
    for request, plain in zip(requests(dataset, 0.4, epochs, classes), anywhere, strict=True):
        for i, number in enumerate(request.index.tolist()):
            box, same = request.geometries[0].box[i], plain.geometries[0].box[i]
            if (box == same).all():
                seen.setdefault(number, []).append(0)
                continue
            # The voxel in the middle, or near an edge the one that the box reaches.
            mask = stored[number]
            start = box[:3].astype(int)
            shown = mask[tuple(slice(a, a + 8) for a in start)]
            middle = mask[tuple(start + 4)] if (start > 0).all() and (start < 32).all() else 0
            assert shown.any()
            seen[number].append(2 if 2 in shown and middle != 1 else 1)
    assert {*seen[1], *seen[3], *seen[5]} == {0}  # without a mask
    for number in (0, 2, 4):
        shares = np.bincount(seen[number], minlength=3) / epochs
        small = 0.0 if number == 4 else 0.4 if classes else 0.2
        large = 0.0 if classes else 0.4 - small
        assert np.abs(shares - [1 - small - large, large, small]).max() < 0.11, (number, shares)


@pytest.mark.parametrize("classes", [None, [2]])
def test_identity_and_voxels_are_those_of_a_table_in_memory(
    tmp_path: Path, classes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the file's rows, of two datasets, and also where a node's processes map them."""
    rows = [row for number in (0, 2, 4) for row in foreground_of(masks()[number], f"v{number}")]
    shuffled = [rows[number] for number in (4, 1, 0, 3, 2)] + [{"key": "v9", "value": 2, "count": 1, "voxels": [0]}]
    samples = Samples([dataset_of(tmp_path / "one"), dataset_of(tmp_path / "two", shuffled)], "train")
    table = pa.Table.from_pylist([row | {"sample": sum(samples.sizes[:number]) + int(row["key"][1:])}
                                  for number, of in enumerate((rows, shuffled)) for row in of if row["key"] != "v9"
                                  and (classes is None or row["value"] in classes)]).sort_by("sample")  # fmt: skip
    plain = [np.array(voxels, np.uint32) for voxels in table["voxels"].to_pylist()]
    parts = table["sample"].to_numpy(), np.array([*map(len, plain)], np.int32), np.concatenate(plain)
    identity = xxhash.xxh3_128_hexdigest(b"".join(part.tobytes() for part in parts))
    index, u = np.arange(len(samples)).repeat(50), np.random.default_rng(0).random((50 * len(samples), 2))
    expected = np.full((len(index), 3), np.nan)
    for i, sample in enumerate(index):
        if len(of := np.flatnonzero(parts[0] == sample)):
            voxels = plain[of[int(u[i, 0] * len(of))]]
            expected[i] = np.unravel_index(voxels[int(u[i, 1] * len(voxels))], (40, 40, 40))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for small in (mapped.SMALL, 0):
        monkeypatch.setattr(mapped, "SMALL", small)
        foreground = Foreground(samples, classes)
        assert foreground.identity == identity
        np.testing.assert_array_equal(foreground.draw(index, u), expected)


def test_a_crop_is_around_its_voxel_or_as_near_as_it_stays_within(tmp_path: Path) -> None:
    rows = [{"key": "v0", "value": 1, "count": 1, "voxels": [20 * 1600 + 1 * 40 + 39]}]
    (request,) = requests(dataset_of(tmp_path / "toy", rows), 1.0, 1)
    assert request.geometries[0].box[request.index.tolist().index(0)].tolist() == [16, 0, 32, 8, 8, 8]
    (request,) = requests(dataset_of(tmp_path / "wide", rows), 1.0, 1, extents=((4, 8, 16),), spacing=(1.0, 2.0, 1.0))
    # Spacing [2, 1, 1] is stored: 4, 8, 16 voxels of 1, 2, 1 mm are 2, 16, 16 stored ones.
    assert request.geometries[0].box[request.index.tolist().index(0)].tolist() == [19, 0, 24, 2, 16, 16]


def batches(dataset: ShardedDataset, name: str = "cpu", **more: Any) -> list[Batch]:
    views = spec(*SIDES, count=1, foreground=0.5, turns=0.5)
    settings: dict[str, Any] = {"datasets": [dataset], "split": "train", "order": ORDER, "views": views, "seed": 3}
    loader = choose(name).build(LoaderSpec(**settings | {"masks": True} | more))
    return list(loader.iterate(0, 4))


def test_every_loader_worker_and_rank_has_the_same_crops(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "toy")
    expected = batches(dataset)
    for other in (batches(dataset, workers=3), batches(dataset, "stream")):
        for batch, same in zip(other, expected, strict=True):
            assert torch.equal(batch.views[0], same.views[0]) and torch.equal(batch.mask, same.mask)  # type: ignore[arg-type]
    ranks = [batches(dataset, rank=rank, world=3) for rank in range(3)]
    for step, same in enumerate(expected):
        assert torch.equal(torch.cat([rank[step].views[0] for rank in ranks]), same.views[0])
    masked = torch.cat([batch.mask[batch.index % 2 == 0] for batch in expected])  # type: ignore[index]
    assert (masked > 0).flatten(1).any(1).float().mean() > 0.5 and IGNORE not in masked


def test_what_cannot_be_drawn_is_one_error(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "toy")
    with pytest.raises(
        DatasetError, match=r"no volume in split 'train' of .*toy has a voxel of a class that is learned"
    ):
        requests(dataset, 0.5, 1, classes=[7])
    outside = [{"key": "v2", "value": 1, "count": 1, "voxels": [40**3]}]
    with pytest.raises(DatasetError, match=re.escape("foreground.parquet: a voxel is outside its volume")):
        requests(dataset_of(tmp_path / "outside", outside), 0.5, 1)
    (tmp_path / "toy" / FOREGROUND_FILE).write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"foreground\.parquet cannot be read"):
        requests(dataset, 0.5, 1)
    (tmp_path / "toy" / FOREGROUND_FILE).unlink()
    with pytest.raises(DatasetError, match=r"toy has no foreground\.parquet \(it has no masks, or an older version"):
        requests(dataset, 0.5, 1)
    assert requests(dataset, 0.0, 1)
    with pytest.raises(ArgumentError, match=r"^foreground: expected 0 of fixed crops, and of pairs"):
        spec(*SIDES, foreground=0.5, iou=0.2)
