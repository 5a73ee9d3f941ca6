"""FFCV's own loader: ``ffcv_centre_crops.py BETON SIZE OUT.npy`` writes every image's largest centred square, resized.

For a process of its own: see ``tests/shard/curate/read_beton.py``.
"""

import sys

import numpy as np
from ffcv.fields.decoders import CenterCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.compiler import Compiler

if __name__ == "__main__":
    Compiler.is_enabled = False  # the same C functions; compiling takes seconds
    path, size, out = sys.argv[1:]
    pipelines = {"image": [CenterCropRGBImageDecoder((int(size), int(size)), ratio=1)], "index": None}
    loader = Loader(
        path, batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False, pipelines=pipelines
    )
    np.save(out, np.concatenate([batch[0].copy() for batch in loader]))
