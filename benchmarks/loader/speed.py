"""One case: who takes part, and their images/s in turns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.loader import pagecache
from benchmarks.loader.contenders import baselines, beton, dali, dicom, ours
from benchmarks.loader.contenders.base import Contender
from benchmarks.loader.inputs import LoaderInputs
from benchmarks.loader.turns import core_ms, exhaust, rates, take_turns
from dira_scale.data.loaders.build import LOADERS
from dira_scale.errors import UserError

Offer = Callable[[LoaderInputs], list[Contender]]
# Those with processes first, so that these start while the machine is quiet.
OFFERS: dict[str, Offer] = {
    "files": baselines.files,
    "webdataset": baselines.tars,
    **{f"ours: {name}": partial(ours.loader, name) for name in LOADERS},
    "FFCV": beton.beton,
    "DALI, CPU": dali.dali,
    "threads, OpenCV": baselines.threads,
    "DICOM files": dicom.dicom,
    "limit: decoding": ours.decoding,
    "limit: resizing": ours.resizing,
}


@dataclass(frozen=True)
class Result:
    """What one case gave.

    Attributes:
        case, kilobytes: its name, and the mean of an image as stored.
        speeds: images/s of each contender, round by round.
        core_ms: processor time of an image, likewise.
        kinds: ``Contender.kind`` by name.
        left_out: who takes no part, and why.
        cold: as ``speeds``, of one pass from the disk; empty if not asked for.
        warm_only: why there is no ``cold`` although it was asked for.
    """

    case: str
    kilobytes: float
    speeds: dict[str, list[float]]
    core_ms: dict[str, list[float]]
    kinds: dict[str, str]
    left_out: dict[str, str]
    cold: dict[str, list[float]] = field(default_factory=dict)
    warm_only: str = ""


def gather(inputs: LoaderInputs) -> tuple[list[Contender], dict[str, str]]:
    """All contenders of a case; and the reasons of those that have none."""
    result: list[Contender] = []
    left_out = {}
    for name, offer in OFFERS.items():
        try:
            result += offer(inputs)
        except UserError as error:
            left_out[name] = str(error)
    return result, left_out


def measure(inputs: LoaderInputs, rounds: int, seconds: float, cold: bool) -> Result:
    """All contenders in turns, from the page cache; then, if asked for, from the disk."""
    contenders, left_out = gather(inputs)
    sizes = inputs.dataset.column("size")
    try:
        paces = take_turns({contender.name: contender.run for contender in contenders}, inputs.batch, rounds, seconds)
        from_disk = _cold([contender for contender in contenders if contender.reads], inputs, rounds) if cold else {}
    finally:
        for contender in contenders:
            contender.close()
    kinds = {contender.name: contender.kind for contender in contenders}
    kilobytes = float(sizes.mean()) / 1e3
    return Result(str(inputs.case), kilobytes, rates(paces), core_ms(paces), kinds, left_out, **from_disk)


def _cold(contenders: list[Contender], inputs: LoaderInputs, rounds: int) -> dict[str, Any]:
    """``Result.cold``: one pass over all images, its start included, as only the first pass is cold."""
    shards = [inputs.dataset.file(shard) for shard in inputs.dataset.info.shards]
    files = [*shards, *inputs.files, *inputs.originals]
    result: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            if stays := pagecache.evict(files):
                return {"warm_only": f"{stays:.0%} of the pages stay in the cache, says mincore"}
            batches = inputs.images // inputs.batch
            result[contender.name].append(batches * inputs.batch / exhaust(contender.run, batches))
    return {"cold": result}
