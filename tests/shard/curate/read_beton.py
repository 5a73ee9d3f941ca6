"""The samples of a beton as FFCV reads them. ``read_beton.py BETON OUT.npz`` reads with compiled code.

That is for a process of its own: what FFCV compiles outlives its loader, and Numba's finalizers fail in whatever runs
when Python's garbage collector finds it.
"""

import sys
from pathlib import Path

import numpy as np
from ffcv.fields.decoders import BytesDecoder, IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.compiler import Compiler


def read(beton: Path) -> dict[str, np.ndarray]:
    """Every field of all samples, in order."""
    pipelines = {
        "image": [SimpleRGBImageDecoder()], "index": [IntDecoder()], "key": [NDArrayDecoder()],
        "json": [BytesDecoder()], "labels": [NDArrayDecoder()], "mask_size": [IntDecoder()], "mask": [BytesDecoder()],
    }  # fmt: skip
    loader = Loader(
        str(beton), batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False, os_cache=True,
        pipelines=pipelines,
    )  # fmt: skip
    samples = [[np.array(field[n]) for field in batch] for batch in loader for n in range(len(batch[0]))]
    return {name: np.stack(values) for name, values in zip(pipelines, zip(*samples, strict=True), strict=True)}


def read_uncompiled(beton: Path) -> dict[str, np.ndarray]:
    """A run without FFCV's compiler, which takes seconds."""
    before = Compiler.is_enabled
    Compiler.is_enabled = False
    try:
        return read(beton)
    finally:
        Compiler.is_enabled = before


if __name__ == "__main__":
    np.savez(sys.argv[2], **read(Path(sys.argv[1])))
