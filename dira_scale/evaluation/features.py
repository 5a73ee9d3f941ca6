"""Frozen features: full images through encoders in evaluation mode, each level of the pyramid averaged over space."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from torch import Tensor

from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.evaluation.config import PIXELS
from dira_scale.models.heads import global_average
from dira_scale.models.network import Encoder
from dira_scale.pixels.codecs import DecodeError
from dira_scale.pixels.planes import decode_crops, resize


class Images:
    """The images of ``rows`` of a dataset, uncropped, resized to ``size`` x ``size``, as float32 in [0, 1].

    As in the authors' downstream protocol: changes the aspect ratio rather than cropping borders. Nothing is random.
    """

    def __init__(self, dataset: ShardedDataset, rows: np.ndarray, size: int, workers: int) -> None:
        self.dataset, self.rows, self.size, self.workers = dataset, rows, size, workers

    def batches(self, batch: int) -> Iterator[Tensor]:
        """[b, C, size, size], in the order of ``rows``; the last batch may be short."""
        with ThreadPoolExecutor(self.workers) as pool:
            for first in range(0, len(self.rows), batch):
                yield torch.from_numpy(np.stack(list(pool.map(self._image, self.rows[first : first + batch]))))

    def _image(self, row: int) -> np.ndarray:
        column, payload = self.dataset.column, self.dataset.read(row)
        height, width = float(column("height")[row]), float(column("width")[row])
        try:
            if xxhash.xxh3_64_hexdigest(payload) != column("xxh3")[row]:
                raise DecodeError("checksum differs from the manifest's")
            whole = (0.0, 0.0, height, width)
            codec, shape = column("codec")[row], self.dataset.shape(row)
            ((pixels, box),) = decode_crops(payload, codec, [whole], self.size, shape)
        except DecodeError as error:
            raise UserError(
                f"{self.dataset.root}: sample {column('key')[row]} in shard {column('shard')[row]} cannot be read: "
                f"{error}; copy the shard again from its origin, or shard again"
            ) from error
        low, high = np.float32(column("low")[row]), np.float32(column("high")[row])
        return np.clip((resize(pixels, box, self.size).astype(np.float32) - low) / (high - low), 0, 1)


@torch.inference_mode()
def features(
    encoders: Sequence[Encoder], images: Images, layers: Sequence[int], batch: int, device: torch.device
) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Raw pixels [n, 256 C], and per encoder the spatial mean of each level in ``layers``, [n, channels].

    One pass over the images, float32; level 1 is at 1/2, level 5 at 1/32 of the image.
    """
    pixels: list[Tensor] = []
    outputs: list[list[list[Tensor]]] = [[[] for _ in layers] for _ in encoders]
    for encoder in encoders:
        encoder.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for views in images.batches(batch):
        pixels.append(F.adaptive_avg_pool2d(views, PIXELS).flatten(1))
        views = views.to(device, memory_format=torch.channels_last)
        for encoder, levels in zip(encoders, outputs, strict=True):
            pyramid = encoder(views)
            for layer, parts in zip(layers, levels, strict=True):
                parts.append(global_average(pyramid[layer].float()).cpu())
    joined = [[torch.cat(parts).numpy() for parts in levels] for levels in outputs]
    return torch.cat(pixels).numpy(), joined
