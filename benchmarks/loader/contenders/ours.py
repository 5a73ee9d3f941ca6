"""Our loaders, as training builds them; and the limits that no loader passes: decoding alone, resizing alone."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from benchmarks.loader.contenders.base import Contender
from benchmarks.loader.inputs import VIEWS, LoaderInputs
from dira_scale.data.batch import Batch
from dira_scale.data.distort import Distort
from dira_scale.data.loaders import Loader, LoaderSpec
from dira_scale.data.loaders.build import choose
from dira_scale.data.order import Order
from dira_scale.errors import UserError
from dira_scale.pixels import codecs
from dira_scale.pixels.planes import resize


def loader(name: str, inputs: LoaderInputs) -> list[Contender]:
    """The loader ``name``; of cpu also with brightness, contrast and blur, as float32, on the CPU.

    Raises UserError, as the loader does where it cannot read the case.
    """
    order = Order((inputs.images,), seed=0, batch=inputs.batch, remainder="wrap")
    built = choose(name).build(LoaderSpec([inputs.dataset], "train", order, VIEWS, seed=0, workers=inputs.workers))

    def run(batches: int) -> Iterator[Sequence[Any]]:
        return (batch.views for batch in built.iterate(0, batches))

    results = [Contender(f"ours: {name}", "ours", run)]
    if name == "cpu" and inputs.case.bits == 8:
        results.append(Contender("ours: cpu, distorted", "ours", distorted(built, inputs.workers)))
    return results


def distorted(built: Loader, workers: int) -> Callable[[int], Iterator[Sequence[Any]]]:
    """A loader's views with what the released augmentation does besides: jitter and blur, no patches.

    Batches side by side, each on one thread: torch's own threads, which wait for each other, would meet the loader's.
    """
    distort = Distort(VIEWS)

    def work(stored: Batch) -> Sequence[Any]:
        batch = stored.to("cpu")
        return [distort(view, given, corrupt=False) for view, given in zip(batch.views, batch.distortions, strict=True)]

    def run(batches: int) -> Iterator[Sequence[Any]]:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending: deque[Future[Sequence[Any]]] = deque()
            for batch in built.iterate(0, batches):
                pending.append(pool.submit(work, batch))
                if len(pending) > workers:
                    yield pending.popleft().result()
            yield from (done.result() for done in pending)

    return run


def decoding(inputs: LoaderInputs) -> list[Contender]:
    """Whole images decoded by our codec on all threads, payloads in memory."""
    if inputs.case.codec == "npy":
        raise UserError("npy is not decoded")
    payloads, codec = inputs.payloads(), inputs.case.codec

    def work(position: int) -> None:
        codecs.decode(payloads[position % len(payloads)], codec)

    return [Contender("limit: decoding", "limit", on_threads(work, inputs), reads=False)]


def resizing(inputs: LoaderInputs) -> list[Contender]:
    """Both crops of decoded images resized on all threads, by the resize of the cpu loader."""
    images = [codecs.decode(payload, inputs.case.codec) for payload in inputs.payloads()]

    def work(position: int) -> None:
        position %= len(inputs.boxes)
        for y, x, h, w in inputs.boxes[position].tolist():
            resize(images[position % len(images)][y : y + h, x : x + w], (0, 0, h, w), VIEWS.sides[0])

    return [Contender("limit: resizing", "limit", on_threads(work, inputs), reads=False)]


def on_threads(work: Callable[[int], None], inputs: LoaderInputs) -> Callable[[int], Iterator[Sequence[Any]]]:
    """``work`` on the positions of a turn, each thread with its own share: no thread waits for another."""

    def share(first: int, stop: int) -> None:
        for position in range(first, stop, inputs.workers):
            work(position)

    def run(batches: int) -> Iterator[Sequence[Any]]:
        with ThreadPoolExecutor(inputs.workers) as pool:
            stop = batches * inputs.batch
            for done in [pool.submit(share, first, stop) for first in range(inputs.workers)]:
                done.result()
        return iter(())

    return run
