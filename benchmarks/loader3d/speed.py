"""One case: who takes part, and their turns."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.loader.contenders.base import require
from benchmarks.loader.turns import Pace
from benchmarks.loader3d import limits, ours
from benchmarks.loader3d.inputs import VolumeInputs
from benchmarks.loader3d.peers import Peers
from benchmarks.loader3d.results import COPYING, DECODING, LIMIT, READING, Result
from benchmarks.loader3d.turns import Contender, check, turn
from dira_scale.errors import UserError

Turn = Callable[[float, bool], Pace]  # of so many seconds, from the disk or not


def monai(inputs: VolumeInputs) -> list[Contender]:
    """Its datasets; the package takes seconds to import."""
    require("monai", "evaluation")
    from benchmarks.loader3d import monai_datasets

    return monai_datasets.contenders(inputs)


OFFERS: dict[str, Callable[[VolumeInputs], list[Contender]]] = {
    "ours": ours.contenders,
    "MONAI": monai,
    "the limits": limits.contenders,
}


def gather(inputs: VolumeInputs) -> tuple[list[Contender], dict[str, str]]:
    """All contenders of this environment; and the reasons of those that take no part."""
    result: list[Contender] = []
    left_out: dict[str, str] = {}
    for name, offer in OFFERS.items():
        try:
            result += offer(inputs)
        except UserError as error:
            left_out[name] = str(error)
    return result, left_out


def measure(inputs: VolumeInputs, case: str, environment: Path | None, rounds: int, seconds: float) -> list[Result]:
    """All contenders in turns, from the page cache; then those that read files, from the disk.

    environment: of nnU-Net and torchio, which are left out without it.
    """
    volumes = inputs.volumes()
    here, left_out = gather(inputs)
    for contender in here:
        check(contender, inputs.crops, volumes)
    turns: dict[str, Turn] = {contender.name: partial(turn, contender) for contender in here}
    sizes = {contender.name: sum(file.stat().st_size for file in contender.files) for contender in here}
    packages = {name: version(name) for name in ("monai", "imagecodecs") if find_spec(name)}
    with ExitStack() as stack:
        try:
            peers = stack.enter_context(closing(Peers(environment, inputs.folder, inputs.crops)))
        except UserError as error:
            left_out["nnU-Net and torchio"] = str(error)
        else:
            turns |= {name: partial(peers.turn, name) for name in peers.sizes}
            sizes, packages = sizes | peers.sizes, packages | peers.packages
        results = []
        for cold in (False, True):
            in_memory = {name for name in turns if not sizes[name]} - {DECODING, COPYING}
            taking = {name: turn for name, turn in turns.items() if not (cold and name in in_memory)}
            paces, kept = take_turns(taking, rounds, seconds, cold)
            paces |= one_after_the_other(paces)
            results.append(Result(case, cold, paces, sizes, left_out | kept, packages))
    return results


def take_turns(
    turns: dict[str, Turn], rounds: int, seconds: float, cold: bool
) -> tuple[dict[str, list[Pace]], dict[str, str]]:
    """By name, one for each round, every other round backwards; and why some have none."""
    paces: dict[str, list[Pace]] = {name: [] for name in turns}
    left_out: dict[str, str] = {}
    for number in range(rounds):
        for name in list(turns)[:: 1 if number % 2 == 0 else -1]:
            try:
                if name not in left_out:
                    paces[name].append(turns[name](seconds, cold))
            except OSError as error:
                left_out[name] = str(error)
    return {name: done for name, done in paces.items() if name not in left_out}, left_out


def one_after_the_other(paces: Mapping[str, Sequence[Pace]]) -> dict[str, list[Pace]]:
    """The limit of reading, decoding and copying, round by round; nothing where one of them is missing."""
    if not {READING, DECODING, COPYING} <= set(paces):
        return {}
    parts = zip(paces[READING], paces[DECODING], paces[COPYING], strict=True)
    return {LIMIT: [Pace(1 / sum(1 / p.rate for p in each), sum(p.core_ms for p in each)) for each in parts]}
