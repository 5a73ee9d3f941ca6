"""FFCV on the ``.beton`` that ``shard convert`` makes of the same samples."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.loader.contenders.base import Contender, require
from benchmarks.loader.inputs import VIEWS, LoaderInputs
from dira_scale.errors import UserError


def beton(inputs: LoaderInputs) -> list[Contender]:
    """Two outputs of the image field, each decoded and cropped on its own, as FFCV does several views.

    Its crops are its own, of the same distribution. It holds grey images as three channels, and decodes with libjpeg's
    fast and coarse DCT.
    """
    require("ffcv", "ffcv")
    if inputs.case.bits != 8:
        raise UserError("FFCV holds 8 bits only")
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    def view() -> PipelineSpec:
        decoder = RandomResizedCropRGBImageDecoder((VIEWS.sides[0], VIEWS.sides[0]), VIEWS.scale, VIEWS.ratio)
        flip = [RandomHorizontalFlip(), ToTensor(), ToTorchImage(channels_last=False)]
        return PipelineSpec("image", decoder, flip)

    others: dict[str, Any] = dict.fromkeys(("index", "key", "json", "labels"))
    loader = Loader(
        str(inputs.dataset.root / "train.beton"), inputs.batch, inputs.workers, os_cache=True,
        order=OrderOption.SEQUENTIAL, pipelines=others | {"image": view(), "second": view()},
    )  # fmt: skip

    def run(batches: int) -> Iterator[Sequence[Any]]:
        loader.indices = np.arange(batches * inputs.batch, dtype=np.uint64) % inputs.images
        loader.first_traversal_order = loader.traversal_order.indices = loader.indices
        return iter(loader)

    return [Contender("FFCV", "others", run, reads=False)]
