"""Contenders of others that read our files or shards: single files, a webdataset pipeline, OpenCV on threads."""

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.loader.contenders.base import Contender, require
from benchmarks.loader.contenders.files import SIZE, Crops, Files, ReleasedTransforms, Workers
from benchmarks.loader.inputs import LoaderInputs
from dira_scale.errors import UserError
from dira_scale.pixels import codecs


def files(inputs: LoaderInputs) -> list[Contender]:
    """Of 8-bit JPEG and PNG; beside JPEG, also of the original PNGs."""
    if inputs.case.bits != 8 or inputs.case.codec not in ("jpg", "png"):
        raise UserError("the released code reads PNG and JPEG of 8 bits")
    require("torchvision", "bench")
    plain = Files(inputs.files, "L", Crops(inputs.boxes, inputs.flips))
    result = {"files, PIL": plain, "files, released": Files(inputs.files, "RGB", ReleasedTransforms())}
    if inputs.case.codec == "jpg":
        result["original PNGs, released"] = Files(inputs.originals, "RGB", ReleasedTransforms())
    return [_contender(name, Workers(dataset, inputs.workers, inputs.batch)) for name, dataset in result.items()]


def tars(inputs: LoaderInputs) -> list[Contender]:
    """webdataset over our tars."""
    if inputs.case.bits != 8 or inputs.case.codec not in ("jpg", "png"):
        raise UserError("its decoder is PIL to 8 bits")
    require("webdataset", "bench")
    return [_contender("webdataset", TarWorkers(inputs))]


def _contender(name: str, loader: Workers) -> Contender:
    return Contender(name, "others", loader, close=loader.close)


class Tars(IterableDataset[torch.Tensor]):
    """A plain webdataset pipeline: shards drawn with replacement, decoded by PIL, batched in the worker."""

    def __init__(self, inputs: LoaderInputs, batches: Any) -> None:
        self.shards = [str(inputs.dataset.file(shard)) for shard in inputs.dataset.info.shards]
        self.rows = {key: row for row, key in enumerate(inputs.dataset.column("key").tolist())}
        self.crops, self.suffix = Crops(inputs.boxes, inputs.flips), inputs.case.codec
        self.batch, self.batches = inputs.batch, batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        import webdataset

        worker: Any = torch.utils.data.get_worker_info()
        mine = len(range(worker.id, self.batches.value, worker.num_workers))
        pipeline = webdataset.WebDataset(self.shards, resampled=True, shardshuffle=False).decode("pill")
        samples = pipeline.to_tuple("__key__", self.suffix)
        views = (self.crops(image, self.rows[key.rpartition("/")[2]]) for key, image in samples)
        for _ in range(mine):
            yield torch.stack(list(itertools.islice(views, self.batch)))


class TarWorkers(Workers):
    """The same of webdataset's; its processes learn a turn's length from shared memory."""

    def __init__(self, inputs: LoaderInputs) -> None:
        context = multiprocessing.get_context("forkserver")
        self.batches = context.Value("q", 0)
        self.loader = DataLoader(
            Tars(inputs, self.batches), batch_size=None, num_workers=inputs.workers, persistent_workers=True,
            multiprocessing_context=context,
        )  # fmt: skip

    def __call__(self, batches: int) -> Iterator[Sequence[Any]]:
        self.batches.value = batches
        for views in self.loader:
            yield views.unbind(1)


def threads(inputs: LoaderInputs) -> list[Contender]:
    """A pool of threads, each making whole batches: the whole image decoded by our codec, crops resized by OpenCV.

    What a good programmer writes in twenty lines. INTER_AREA is OpenCV's only filter against aliasing.
    """
    payloads, codec, batch = inputs.payloads(), inputs.case.codec, inputs.batch

    def make(number: int) -> Sequence[np.ndarray]:
        views = np.empty((2, batch, 1, SIZE, SIZE), np.uint8 if inputs.case.bits == 8 else np.uint16)
        for i, position in enumerate(range(number * batch, (number + 1) * batch)):
            position %= len(inputs.boxes)
            pixels = codecs.decode(payloads[position % len(payloads)], codec)
            for view, (y, x, h, w) in enumerate(inputs.boxes[position].tolist()):
                crop = cv2.resize(pixels[y : y + h, x : x + w], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
                views[view, i, 0] = crop[:, ::-1] if inputs.flips[position, view] else crop
        return list(views)

    def run(batches: int) -> Iterator[Sequence[np.ndarray]]:
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            with ThreadPoolExecutor(inputs.workers) as pool:
                yield from pool.map(make, range(batches))
        finally:
            cv2.setNumThreads(before)

    return [Contender("threads, OpenCV", "others", run, reads=False)]
