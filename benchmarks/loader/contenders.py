"""What takes part in a case: our loaders, as training builds them; single files; the limits that no loader passes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.loader.files import Crops, Files, Workers
from benchmarks.loader.inputs import VIEWS, LoaderInputs
from dira_scale.base.errors import UserError
from dira_scale.dataset.pixels import codecs
from dira_scale.dataset.pixels.planes import resize
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import LOADERS, choose
from dira_scale.train.data.order import Order

CPU, DECODING, RESIZING = "ours: cpu", "limit: decoding", "limit: resizing"


@dataclass(frozen=True)
class Contender:
    """One way to load.

    Attributes:
        name: in the table, the same in every case; it begins with ``ours: `` or ``limit: ``, or it is another's.
        run: of a number of batches: yields them, each the views, arrays or tensors [B, C, 224, 224]; a limit may yield
            nothing. Begins with nothing prepared and ends with nothing left, so that no contender works in another
            one's turn.
        close: ends its processes.
    """

    name: str
    run: Callable[[int], Iterator[Sequence[Any]]]
    close: Callable[[], None] = lambda: None


def files(inputs: LoaderInputs) -> list[Contender]:
    """PIL on 8-bit JPEG and PNG."""
    if inputs.case.bits != 8 or inputs.case.codec not in ("jpg", "png"):
        raise UserError("PIL is given PNG and JPEG of 8 bits")
    workers = Workers(Files(inputs.files, Crops(inputs.boxes, inputs.flips)), inputs.workers, inputs.batch)
    return [Contender("files, PIL", workers, close=workers.close)]


def ours(name: str, inputs: LoaderInputs) -> list[Contender]:
    """The loader ``name``.

    Raises UserError, as the loader does where it cannot read the case.
    """
    order = Order((inputs.images,), seed=0, batch=inputs.batch, remainder="wrap")
    built = choose(name).build(LoaderSpec([inputs.dataset], "train", order, VIEWS, seed=0, workers=inputs.workers))
    return [Contender(f"ours: {name}", lambda batches: (batch.views for batch in built.iterate(0, batches)))]


def decoding(inputs: LoaderInputs) -> list[Contender]:
    """Whole images decoded by our codec on all threads, payloads in memory."""
    if inputs.case.codec == "npy":
        raise UserError("npy is not decoded")
    payloads, codec = inputs.payloads(), inputs.case.codec

    def work(position: int) -> None:
        codecs.decode(payloads[position % len(payloads)], codec)

    return [Contender(DECODING, on_threads(work, inputs))]


def resizing(inputs: LoaderInputs) -> list[Contender]:
    """Both crops of decoded images resized on all threads, by the resize of the cpu loader."""
    images = [codecs.decode(payload, inputs.case.codec) for payload in inputs.payloads()]

    def work(position: int) -> None:
        position %= len(inputs.boxes)
        for y, x, h, w in inputs.boxes[position].tolist():
            resize(images[position % len(images)][y : y + h, x : x + w], (0, 0, h, w), VIEWS.sides[0])

    return [Contender(RESIZING, on_threads(work, inputs))]


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


# Those with processes first, so that these start while the machine is quiet.
OFFERS: dict[str, Callable[[LoaderInputs], list[Contender]]] = {
    "files": files,
    **{f"ours: {name}": partial(ours, name) for name in LOADERS},
    DECODING: decoding,
    RESIZING: resizing,
}
