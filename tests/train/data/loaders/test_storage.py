"""A storage of one's own: four methods, chosen by a loader."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from train.data.volumes import make, random_volumes, spec

from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.dataset import ReadInto
from dira_scale.dataset.pixels.arena import Allocate
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.storage import Storage
from dira_scale.train.data.views import ViewSpec

Make = Callable[..., ShardedDataset]


class Memory:
    """Whole shards in memory."""

    def __init__(self, datasets: Sequence[ShardedDataset]) -> None:
        self.datasets = datasets
        self.shards = [{name: d.file(name).read_bytes() for name in d.info.shards} for d in datasets]

    def payload(self, dataset: int, row: int, new: Allocate) -> memoryview:
        return self.part(dataset, row, "offset", "size")

    def mask(self, dataset: int, row: int) -> memoryview:
        return self.part(dataset, row, "mask_offset", "mask_size")

    def shard(self, dataset: int, row: int) -> AbstractContextManager[ReadInto]:
        content = self.shards[dataset][self.datasets[dataset].cell("shard", row)]

        def read_into(buffer: memoryview, offset: int) -> int:
            (file := BytesIO(content)).seek(offset)
            return file.readinto(buffer)

        return nullcontext(read_into)

    def renew(self, dataset: int, row: int) -> bool:
        return False

    def part(self, dataset: int, row: int, offset: str, size: str) -> memoryview:
        shard, first, count = (self.datasets[dataset].cell(name, row) for name in ("shard", offset, size))
        return memoryview(self.shards[dataset][shard])[first : first + count]


class MemoryLoader(CpuLoader):
    def storage(self) -> Storage:
        return Memory(self.samples.datasets)


@pytest.fixture(params=["images", "volumes"])
def data(request: pytest.FixtureRequest, make_dataset: Make, tmp_path: Path) -> tuple[list[ShardedDataset], ViewSpec]:
    if request.param == "volumes":
        return [make(tmp_path / name, random_volumes(4), "b2nd") for name in "ab"], spec(8, 10, 9)
    masks = [np.random.default_rng(n).integers(0, 2, (40 + n, 50), np.uint8) for n in range(4)]
    images = [100 * mask for mask in masks]
    return [make_dataset(images, name=name, masks=[*masks[:3], None]) for name in "ab"], ViewSpec(size=16)


def test_a_loader_reads_from_the_storage_that_it_chooses(data: tuple[list[ShardedDataset], ViewSpec]) -> None:
    datasets, views = data
    arguments = LoaderSpec(datasets, "train", EvalOrder(8, 4), views, seed=0, workers=2, masks=True)
    expected, loader = [*CpuLoader(arguments).iterate(0, 2)], MemoryLoader(arguments)
    for shard in (dataset.file(name) for dataset in datasets for name in dataset.info.shards):
        shard.write_bytes(b"")  # nothing else is read
    for ours, theirs in zip(loader.iterate(0, 2), expected, strict=True):
        assert ours.mask is not None and theirs.mask is not None and torch.equal(ours.mask, theirs.mask)
        assert all(map(torch.equal, ours.views, theirs.views))


def test_whatever_the_storage_a_wrong_payload_is_named(make_dataset: Make) -> None:
    samples = Samples([make_dataset([np.zeros((20, 20), np.uint8)] * 2)], "train")

    class Lost(Memory):
        def payload(self, dataset: int, row: int, new: Allocate) -> memoryview:
            if row == 0:
                raise OSError("gone")
            return memoryview(b"other bytes")

    reader = SampleReader(samples, Lost(samples.datasets))
    for sample, cause in enumerate(("gone", "checksum differs from the manifest's")):
        with pytest.raises(DatasetError, match=rf"sample toy{sample} \(shard .*\) cannot be read: {cause}"):
            reader.payload(sample)


@pytest.mark.parametrize("masks", [False, True])
def test_neighbours_of_a_batch_are_one_read(make_dataset: Make, monkeypatch: pytest.MonkeyPatch, masks: bool) -> None:
    """In whatever order the batch has them, with the masks between them; a damaged one is named as ever, and a batch of
    others is read as before."""
    images = [np.random.default_rng(n).integers(0, 255, (40 + n, 50), np.uint8) for n in range(24)]
    between = {"masks": [np.uint8(image > 127) for image in images]} if masks else {}
    dataset, reads = make_dataset(images, per_shard=12, **between), list[int]()  # type: ignore[arg-type]
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *at: reads.append(len(at[1][0])) or read(*at))

    def read_by(order: EvalOrder | Order, step: int = 0) -> list[torch.Tensor]:
        loader = CpuLoader(LoaderSpec([dataset], "train", order, ViewSpec(size=16), seed=0))
        return [*next(loader.iterate(step, step + 1)).views]

    together = read_by(EvalOrder(24, 24))
    assert len(reads) == 4 and sum(reads) >= dataset.column("size").sum()  # a task has 6 samples
    reads.clear()
    shuffled = Order((24,), seed=0, batch=12, block=12, lanes=1)
    parts = [read_by(shuffled, step) for step in (0, 1)]
    assert len(reads) <= 9
    reads.clear()
    monkeypatch.setattr(SampleReader, "near", -1)
    assert all(map(torch.equal, together, read_by(EvalOrder(24, 24)))) and len(reads) == 24
    assert all(all(map(torch.equal, part, read_by(shuffled, step))) for step, part in enumerate(parts))
    monkeypatch.undo()
    shard = dataset.file("train-000000.tar")
    content, at = bytearray(shard.read_bytes()), int(dataset.column("offset")[3]) + 40
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match=r"sample toy3 .* cannot be read: checksum"):
        read_by(EvalOrder(24, 24))
