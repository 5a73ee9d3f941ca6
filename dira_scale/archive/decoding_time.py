"""The size of a dataset's images and the time that decoding takes, as stored and in the codecs that GPUs decode."""

import time

import numpy as np

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import DECODED_ON_GPU, decode, encode, gpu_codec

IMAGES = 8  # measured
REPEATS = 3  # of which the fastest counts
FORMS = {"jpg": "jpg (quality 95, lossy)", "jp2": "jp2 (lossless)"}


def gpu_codecs_line(dataset: ShardedDataset) -> str | None:
    """Return a line with the mean size of an image and its decoding time on one core, as stored and in the others.

    None where a GPU decodes what is stored, and for volumes, which none decodes.

    Raises OSError where the shards cannot be read.
    """
    if dataset.info.dims == 3 or dataset.codecs <= set(DECODED_ON_GPU):
        return None
    rows = np.unique(np.linspace(0, sum(dataset.info.counts.values()) - 1, IMAGES).astype(int))
    stored = [(dataset.read(row), str(codec)) for row, codec in zip(rows, dataset.column("codec")[rows], strict=True)]
    images = [decode(payload, codec) for payload, codec in stored]
    deep = any(image.itemsize > 1 for image in images)
    measured = [f"{' and '.join(sorted(dataset.codecs))} has no GPU decoder: {_cost(stored)}"]
    for codec in ("jp2",) if deep else ("jpg", "jp2"):
        measured.append(f"{FORMS[codec]} {_cost([(encode(image, codec), codec) for image in images])}")
    advised = gpu_codec(16 if deep else 8)
    return f"codec: {'; '.join(measured)}. For training on GPUs: recipe.codec=gpu, which stores {advised}"


def _cost(payloads: list[tuple[bytes, str]]) -> str:
    size = sum(len(payload) for payload, _ in payloads) / len(payloads)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for payload, codec in payloads:
            decode(payload, codec)
        seconds.append(time.perf_counter() - start)
    return f"{size / 1e3:.0f} KB, {1e3 * min(seconds) / len(payloads):.2g} ms an image"
