"""The CPU loader: threads decode, crop and resize into the batch.

The decoders and Pillow's resampling release the GIL, so threads use all cores; nothing is pickled, and a view is
written once, directly into its slot of the batch.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter

import numpy as np
import torch
import xxhash

from dira_scale.data import codecs
from dira_scale.data.batch import Batch
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.order import EvalOrder, Order
from dira_scale.data.resize import resize
from dira_scale.data.views import Geometry, ViewSpec, draw
from dira_scale.errors import UserError

_COLUMNS = ("codec", "channels", "bits", "height", "width", "low", "high", "xxh3")


class CpuLoader:
    """Batches of 2D images; interface and arguments as in ``loaders.Loader``.

    All images must have the same number of channels; 8-bit and 16-bit images may mix, keeping their values.

    Raises UserError when the datasets are not 2D, differ in channels or have no sample in ``split``.
    """

    def __init__(
        self,
        datasets: list[ShardedDataset],
        split: str,
        order: Order | EvalOrder,
        views: ViewSpec,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 1,
        prefetch: int = 4,
        fixed_epoch: int | None = None,
    ):
        self.datasets, self.order, self.views, self.seed = datasets, order, views, seed
        self.rank, self.world, self.workers, self.prefetch, self.fixed_epoch = (
            rank,
            world,
            workers,
            prefetch,
            fixed_epoch,
        )
        self.waited = 0.0
        rows = [dataset.rows(split) for dataset in datasets]
        sizes = [len(r) for r in rows]
        _check(datasets, split, rows)
        assert sum(sizes) == (order.size if isinstance(order, EvalOrder) else sum(order.sizes)), "order of other data"
        self._dataset, self._row = np.repeat(np.arange(len(datasets)), sizes), np.concatenate(rows)
        self._columns = {
            name: np.concatenate([d.column(name)[r] for d, r in zip(datasets, rows, strict=True)]) for name in _COLUMNS
        }
        self._channels = int(self._columns["channels"][0])
        self._dtype = torch.uint8 if self._columns["bits"].max() == 8 else torch.uint16
        self._labels: np.ndarray | None = None
        if datasets[0].info.label_names and len({tuple(d.info.label_names) for d in datasets}) == 1:
            self._labels = np.concatenate([d.labels(r) for d, r in zip(datasets, rows, strict=True)])

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of steps ``start_step`` to ``stop_step - 1``."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        pending: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            for step in range(start_step, stop_step):
                began = perf_counter()
                while len(pending) <= self.prefetch and step + len(pending) < stop_step:
                    pending.append(self._begin(step + len(pending), pool))
                batch, parts = pending.popleft()
                for part in parts:
                    part.result()
                self.waited += perf_counter() - began
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, step: int, pool: ThreadPoolExecutor) -> tuple[Batch, list[Future[None]]]:
        """A batch with empty views, and the tasks that fill them."""
        positions = self.order.batch_at(step, self.rank, self.world)
        index, epoch = positions.index, positions.epoch if self.fixed_epoch is None else self.fixed_epoch
        geometries, distortions = zip(
            *(
                draw(self.views, self.seed, epoch, index, positions.occurrence, view, *self._sizes(index))
                for view in range(self.views.count)
            ),
            strict=True,
        )
        shape = len(index), self._channels, self.views.size, self.views.size
        views = tuple(
            torch.empty(shape, dtype=self._dtype, pin_memory=torch.cuda.is_available()) for _ in range(self.views.count)
        )
        batch = Batch(
            views,
            distortions,
            torch.from_numpy(index),
            torch.from_numpy(self._columns["low"][index]),
            torch.from_numpy(self._columns["high"][index]),
            step,
            epoch,
            None if self._labels is None else torch.from_numpy(self._labels[index]),
            flips=tuple(torch.from_numpy(geometry.flip) for geometry in geometries),
        )
        slots = [view.numpy() for view in views]
        part = -(-len(index) // (4 * self.workers)) or 1  # several samples per task, several tasks per thread
        tasks = [range(first, min(first + part, len(index))) for first in range(0, len(index), part)]
        return batch, [pool.submit(self._fill, slots, index, geometries, samples) for samples in tasks]

    def _sizes(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._columns["height"][index], self._columns["width"][index]

    def _fill(
        self, slots: list[np.ndarray], index: np.ndarray, geometries: tuple[Geometry, ...], samples: range
    ) -> None:
        for i in samples:
            boxes = [tuple(geometry.box[i].tolist()) for geometry in geometries]
            for slot, geometry, (pixels, box) in zip(slots, geometries, self._crops(index[i], boxes), strict=True):
                view = resize(pixels, box, self.views.size)
                slot[i] = view[..., ::-1] if geometry.flip[i] else view

    def _crops(self, sample: int, boxes: list[codecs.Box]) -> list[tuple[np.ndarray, codecs.Box]]:
        dataset, row = self.datasets[self._dataset[sample]], self._row[sample]
        payload = dataset.read(row)
        try:
            if xxhash.xxh3_64_hexdigest(payload) != self._columns["xxh3"][sample]:
                raise codecs.DecodeError("checksum differs from the manifest's")
            return codecs.decode_crops(payload, self._columns["codec"][sample], boxes, self.views.size)
        except codecs.DecodeError as error:
            where = f"shard {dataset.column('shard')[row]}, offset {dataset.column('offset')[row]}"
            raise UserError(
                f"{dataset.root}: sample {dataset.column('key')[row]} ({where}) cannot be read: {error}; "
                "the shard is damaged: copy it again from its origin, or shard again"
            ) from error


def _check(datasets: list[ShardedDataset], split: str, rows: list[np.ndarray]) -> None:
    channels: dict[int, object] = {}
    for dataset, r in zip(datasets, rows, strict=True):
        dataset.require_images("this loader")
        if len(r) == 0:
            raise UserError(f"{dataset.root} has no sample in split '{split}': {dataset.info.counts}")
        channels |= {int(c): dataset.root for c in np.unique(dataset.column("channels")[r])}
    if len(channels) > 1:
        found = " and ".join(f"{c} in {root}" for c, root in sorted(channels.items()))
        raise UserError(f"images differ in their number of channels ({found}): shard all with the same number")
