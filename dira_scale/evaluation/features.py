"""Frozen features: whole images through encoders in evaluation mode, each level of the pyramid averaged over space."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from torch import Tensor

from dira_scale.data.batch import CHANNELS_LAST
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.manifest.index import SIDES
from dira_scale.distributed.precision import set_fp32
from dira_scale.errors import UserError, nearest
from dira_scale.evaluation.config import PIXELS
from dira_scale.models.heads import global_average
from dira_scale.models.network import Encoder, moved
from dira_scale.pixels.boxes import Crop
from dira_scale.pixels.codecs import DecodeError
from dira_scale.pixels.crops import fill

POOLS = {4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}  # by the number of a tensor's dimensions


AHEAD = 2  # batches that are decoded while another is computed
ALL = "all"  # the value of ``data.split`` for every split


class UnreadableImagesError(UserError):
    """``messages``: one for each image."""

    def __init__(self, messages: Sequence[str]) -> None:
        self.messages = tuple(messages)
        several = f"{len(messages)} images cannot be read, the first: " if len(messages) > 1 else ""
        super().__init__(several + messages[0])


class Images:
    """The images of ``rows`` of a dataset, uncropped, each axis resized to ``size``, as float32 in [0, 1].

    ``size``: of all axes, or of each. As in the authors' downstream protocol: changes the aspect ratio rather than
    cropping borders. Nothing is random. ``window``: the stored values that become 0 and 1; None: each image's own.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        rows: np.ndarray,
        size: int | Sequence[int],
        workers: int,
        window: Sequence[float] | None = None,
    ) -> None:
        self.dataset, self.rows, self.workers, self.window = dataset, rows, workers, window
        self.size = dataset.info.dims * [size] if isinstance(size, int) else [*size]

    def batches(self, batch: int) -> Iterator[Tensor]:
        """[b, C, *size], in the order of ``rows``; the last batch may be short. Decoded ahead.

        Raises UnreadableImagesError after the last image, so that it counts them.
        """
        messages: list[str] = []
        for images, unreadable in self.loaded(np.split(self.rows, range(batch, len(self.rows), batch))):
            messages += unreadable
            if not messages:
                yield images
        if messages:
            raise UnreadableImagesError(messages)

    def loaded(self, groups: Iterable[np.ndarray]) -> Iterator[tuple[Tensor, list[str]]]:
        """For each group of row numbers its images [n, C, *size] without the unreadable ones, and a message for each
        of these."""
        ahead: deque[list[Future[np.ndarray]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for rows in groups:
                ahead.append([pool.submit(self._image, row) for row in rows])
                if len(ahead) > AHEAD:
                    yield _joined(ahead.popleft())
            while ahead:
                yield _joined(ahead.popleft())

    def _image(self, row: int) -> np.ndarray:
        column, payload = self.dataset.column, self.dataset.read(row)
        sides = [float(column(name)[row]) for name in SIDES[self.dataset.info.dims]]
        whole = Crop((*len(sides) * [0.0], *sides), len(sides) * (False,))
        image = np.empty((int(column("channels")[row]), *self.size), np.int32)
        try:
            if xxhash.xxh3_64_hexdigest(payload) != column("xxh3")[row]:
                raise DecodeError("checksum differs from the manifest's")
            fill(payload, column("codec")[row], [whole], [image], self.dataset.shape(row))
        except DecodeError as error:
            raise UserError(
                f"{self.dataset.root}: sample {column('key')[row]} in shard {column('shard')[row]} cannot be read: "
                f"{error}; copy the shard again from its origin, or shard again"
            ) from error
        low, high = map(np.float32, self.window or (column("low")[row], column("high")[row]))
        return np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)


def _joined(images: Sequence[Future[np.ndarray]]) -> tuple[Tensor, list[str]]:
    errors = [image.exception() for image in images]
    for error in errors:
        if error is not None and not isinstance(error, UserError):
            raise error
    readable = [image.result() for image, error in zip(images, errors, strict=True) if error is None]
    stacked = torch.from_numpy(np.stack(readable)) if readable else torch.empty(0)
    return stacked, [str(error) for error in errors if error is not None]


@torch.inference_mode()
def pooled(encoder: Encoder, images: Tensor, layers: Sequence[int], device: torch.device) -> list[Tensor]:
    """The spatial mean of each level in ``layers``, float32 [b, channels] on ``device``; ``images`` [b, C, *size]."""
    pyramid = encoder(images.to(device, memory_format=CHANNELS_LAST[images.dim()]))
    return [global_average(pyramid[layer].float()) for layer in layers]


def features(
    encoders: Sequence[Encoder], images: Images, layers: Sequence[int], batch: int, device: torch.device
) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Raw pixels [n, 256 C], and per encoder the spatial mean of each level in ``layers``, [n, channels].

    One pass over the images, in IEEE fp32; level 1 is at 1/2, level 5 at 1/32 of the image.
    """
    set_fp32("fp32")
    pixels: list[Tensor] = []
    outputs: list[list[list[Tensor]]] = [[[] for _ in layers] for _ in encoders]
    for encoder in encoders:
        moved(encoder.eval(), device)
    for views in images.batches(batch):
        pixels.append(POOLS[views.dim()](views, PIXELS).flatten(1))
        for encoder, levels in zip(encoders, outputs, strict=True):
            for values, parts in zip(pooled(encoder, views, layers, device), levels, strict=True):
                parts.append(values.cpu())
    joined = [[torch.cat(parts).numpy() for parts in levels] for levels in outputs]
    return torch.cat(pixels).numpy(), joined


def rows_of(dataset: ShardedDataset, split: str) -> np.ndarray:
    """Return the row numbers of a split, or of all, in manifest order. Raises UserError if there is none."""
    if split == ALL:
        rows = np.arange(sum(dataset.info.counts.values()))
    elif split in dataset.splits:
        rows = dataset.rows(split)
    else:
        have = ", ".join([*dataset.splits, ALL])
        raise UserError(f"data.split={split}: {dataset.root} has {have}{nearest(split, dataset.splits)}")
    if not len(rows):
        raise UserError(f"data.split={split}: {dataset.root} has no image there")
    return rows
