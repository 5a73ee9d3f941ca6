"""Crops/s of volumes: our loader against nnU-Net's reader, MONAI's datasets, medrs and torchio's Queue, in one run.

    python -m benchmarks.peers out/peers           once: the environment of nnU-Net, medrs and torchio
    python -m dira_scale.bench loader3d --peers out/peers [--json loader3d.json]

Every contender reads crops of 64 x 64 x 32 or of 96 x 96 x 96 voxels from the same CT, without resampling. They take
the same crops, which are compared with the voxels before anything is timed, but for torchio's Queue, which samples in
its own way. Voxels are stored as int16. A batch has one crop of every volume. One core each: this process and that of
nnU-Net are bound to one. They take turns; a ratio is the median over the rounds of both sides' figures, with the lowest
and the highest. Both keep the memory that they free, as training does.

"a core": by processor time, which other programs on the machine hardly change. The files are in the page cache.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import tables
from benchmarks.loader3d.contenders import LOADER, OFFERS
from benchmarks.loader3d.inputs import SIZES, VolumeInputs, crop_list, prepare, source
from benchmarks.loader3d.turns import check, turn
from benchmarks.peers import Peers, add_flag, gather
from benchmarks.turns import Pace, Spread, Turn, ratio, take_turns
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import write_json
from dira_scale.train.distributed.processes import keep_freed_memory
from dira_scale.train.runs.environment import environment

# What keep_freed_memory() of ours sets.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": f"{2**30}", "MALLOC_TRIM_THRESHOLD_": f"{2**31 - 1}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of crops; default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a contender in a round")
    parser.add_argument("--patients", type=int, default=3, help="phantoms, of one to three volumes each")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of the phantoms")
    parser.add_argument("--folder", type=Path, default=Path("out/loader3d"), help="where phantoms are made and kept")
    add_flag(parser)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    run(args, tables.console())


def run(args: argparse.Namespace, console: Console) -> None:
    """Measure, print, and write after every case what there is so far."""
    args.folder.mkdir(parents=True, exist_ok=True)
    reported: dict[str, Any] = {"date": f"{date.today()}", "environment": environment(), "results": []}
    keep_freed_memory()
    with one_core(), tempfile.TemporaryDirectory(dir=args.folder) as name:
        dataset = prepare(source(args.folder, args.patients, args.side), Path(name))
        for size in args.sizes:
            inputs = VolumeInputs(dataset, Path(name), crop_list(dataset, SIZES[size]))
            title = f"CT phantoms of {args.side} x {args.side}, {size}"
            result = measure(inputs, title, args.peers, args.rounds, args.seconds)
            tell_result(console, result)
            reported["results"].append(asdict(result))
            if args.json:
                write_json(args.json, reported)


@dataclass(frozen=True)
class Result:
    """Crops of one size of one set of volumes.

    Attributes:
        case: which.
        paces: of each contender, round by round.
        sizes: bytes of the files that each one reads; 0: it has all in memory.
        left_out: who takes no part, and why.
        packages: versions of the other environment.
    """

    case: str
    paces: Mapping[str, Sequence[Pace]]
    sizes: Mapping[str, int]
    left_out: Mapping[str, str]
    packages: Mapping[str, str]


def measure(inputs: VolumeInputs, case: str, environment: Path | None, rounds: int, seconds: float) -> Result:
    """All contenders in turns. ``environment``: of nnU-Net, medrs and torchio, which are left out without it."""
    here, left_out = gather(OFFERS, inputs)
    volumes = inputs.volumes()
    for contender in here:
        check(contender, inputs.crops, volumes)
    turns: dict[str, Turn] = {contender.name: partial(turn, contender) for contender in here}
    sizes = {contender.name: sum(file.stat().st_size for file in contender.files) for contender in here}
    packages: dict[str, str] = {}
    with ExitStack() as stack:
        inputs.crops.save(inputs.folder / "crops.npz")
        try:
            peers = stack.enter_context(Peers(environment, "loader3d", inputs.folder, KEEP_FREED_MEMORY))
        except UserError as error:
            left_out["nnU-Net, medrs and torchio"] = str(error)
        else:
            turns, sizes, packages = turns | peers.turns, sizes | peers.sizes, peers.packages
        paces = take_turns(turns, rounds, seconds)
    return Result(case, paces, sizes, left_out, packages)


def tell_result(console: Console, result: Result) -> None:
    """One table, who is left out below."""
    rates = {name: [pace.rate for pace in paces] for name, paces in result.paces.items()}
    a_core = {name: [1000 / pace.core_ms for pace in paces] for name, paces in result.paces.items()}
    rows = []
    for name in result.paces:
        row = [name]
        for figures in (rates, a_core):
            row += [
                Spread.of(figures[name]).whole(),
                "" if name == LOADER else str(ratio(figures[LOADER], figures[name])),
            ]
        rows.append((*row, f"{result.sizes[name] / 1e6:,.0f}" if result.sizes.get(name) else ""))
    head = ["contender", "crops/s", "ours / it", "crops/s a core", "ours / it", "MB stored"]
    tables.tell(console, f"{result.case}, warm", head, rows, result.left_out)
    console.print()


@contextmanager
def one_core() -> Iterator[None]:
    """This process, and those that it starts, on one core with one thread of torch."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
