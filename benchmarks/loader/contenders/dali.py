"""NVIDIA's DALI on its CPU backend: the same bytes, the same crops."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.loader.contenders.base import Contender, require
from benchmarks.loader.inputs import VIEWS, LoaderInputs
from dira_scale.errors import UserError


def dali(inputs: LoaderInputs) -> list[Contender]:
    """``external_source``, ``decoders.image`` once, then two antialiased ``resize`` of a region, and flips."""
    if inputs.case.codec == "npy":
        raise UserError("decoders.image does not read npy")
    require("nvidia.dali", "dali")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # DALI's own OpenCV warns of every grey JPEG 2000
    from nvidia.dali import fn, pipeline_def, types

    payloads = [np.frombuffer(payload, np.uint8) for payload in inputs.payloads()]
    boxes, flips = inputs.boxes.astype(np.float32), inputs.flips.astype(np.int32)
    left = iter(range(0))  # numbers of the batches of this turn

    def source() -> list[Any]:
        first = next(left) * inputs.batch
        at = np.arange(first, first + inputs.batch) % len(boxes)
        fed: list[Any] = [[payloads[position % len(payloads)] for position in at]]
        for view in range(VIEWS.count):
            start = boxes[at, view, :2]
            fed += [start, start + boxes[at, view, 2:], flips[at, view]]
        return fed

    @pipeline_def(batch_size=inputs.batch, num_threads=inputs.workers, device_id=None, prefetch_queue_depth=2)
    def pipeline() -> Any:
        encoded, *drawn = fn.external_source(source, num_outputs=1 + 3 * VIEWS.count, batch=True)
        # ANY_DATA on a JPEG of one channel ends the process.
        kind = {"output_type": types.GRAY} if inputs.case.codec == "jpg" else {"output_type": types.ANY_DATA}
        pixels = fn.decoders.image(encoded, dtype=types.UINT8 if inputs.case.bits == 8 else types.UINT16, **kind)
        views = [
            fn.resize(pixels, size=[VIEWS.sides[0]] * 2, roi_start=start, roi_end=end, interp_type=types.INTERP_LINEAR)
            for start, end in zip(drawn[::3], drawn[1::3], strict=True)
        ]
        flipped = [fn.flip(view, horizontal=flip) for view, flip in zip(views, drawn[2::3], strict=True)]
        return tuple(fn.transpose(view, perm=[2, 0, 1]) for view in flipped)

    built = pipeline()
    built.build()

    def run(batches: int) -> Iterator[Sequence[Any]]:
        nonlocal left
        left = iter(range(batches))
        for _ in range(batches):
            yield [view.as_array() for view in built.run()]
        try:
            built.run()
        except StopIteration:  # the source has no more: the pipeline is empty, and starts again
            built.reset()

    return [Contender("DALI, CPU", "others", run, reads=False)]
