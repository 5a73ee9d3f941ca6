"""Images/s of our loaders against what others use, in one run.

    python -m dira_scale.bench loader [--cases jpg8-1024 jpg8-512] [--json loader.json]
    python -m dira_scale.bench loader --tune SHARDS [--out tuned] [--size 224]

Every contender gives the same two random resized crops of 224 x 224 an image, with flips, from the same 1024 x 1024
radiographs; FFCV draws its own. Each has all cores: so many threads or processes. They take
turns; a ratio is the median over the rounds of both sides' images/s, with the lowest and the highest. Starting and
ending a turn does not count. "core ms" is the processor time of an image, in all processes; other programs on the
machine hardly change it, nor "per core", which is ours / it by that time. The files are in the page cache.

Others: single files with PIL and torch's DataLoader; of JPEG also litdata and MosaicML's streaming, which need an
environment of their own: `python -m benchmarks.peers FOLDER` makes it, --peers FOLDER or DIRA_SCALE_PEERS names it.
Limits: decoding alone and resizing alone, on all threads.

--tune: which loader, threads and prefetch load this dataset fastest here, written to OUT/data/tuned.yaml, which
`pretrain --config-dir OUT data=tuned` takes.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import tables
from benchmarks.loader.contenders import CPU, DECODING, OFFERS, RESIZING
from benchmarks.loader.inputs import CASES, LoaderInputs, prepare, radiographs
from benchmarks.loader.tune import tune
from benchmarks.peers import Peers, add_flag, gather
from benchmarks.turns import Spread, rates, ratio, take_turns, turn_of
from dira_scale.base.errors import UserError
from dira_scale.train.runs.environment import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="stored forms; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a contender in a round")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    add_flag(parser)
    parser.add_argument("--tune", type=Path, metavar="SHARDS", help="find the best settings for this dataset instead")
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="with --tune: a folder of configuration")
    parser.add_argument("--size", type=int, default=224, help="with --tune: pixels of a view")
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args()
    if arguments.images < arguments.batch:
        raise UserError(f"--images {arguments.images} do not fill one batch of {arguments.batch}: use more")
    if arguments.tune:
        cores = len(os.sched_getaffinity(0))
        return tune(
            arguments.tune, arguments.out, arguments.size, cores, arguments.rounds, arguments.seconds, Console()
        )
    run(arguments, tables.console())


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure, print, and write after every case what there is so far."""
    # All workers are forked from a server that has imported once what takes them seconds.
    multiprocessing.set_forkserver_preload(["torch", "dira_scale.archive.writer"])
    forkserver.ensure_running()
    workers = len(os.sched_getaffinity(0))
    result: dict[str, Any] = {"date": f"{date.today()}", "environment": environment(), "workers": workers, "cases": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals, result["images"] = radiographs(folder / "originals", arguments.images)
        console.print(f"{result['images']}; {workers} workers, batches of {arguments.batch}\n", highlight=False)
        for case in arguments.cases:
            with tempfile.TemporaryDirectory(dir=folder) as its_own:  # ten of 1024 pixels would need gigabytes
                inputs = prepare(CASES[case], originals, Path(its_own), workers, arguments.batch)
                measured = measure(inputs, arguments.peers, arguments.rounds, arguments.seconds)
            tell_case(console, measured, f"{workers} workers")
            result["cases"].append(asdict(measured))
            if arguments.json:
                arguments.json.write_text(json.dumps(result, indent=1) + "\n")


@dataclass(frozen=True)
class Result:
    """What one case gave.

    Attributes:
        case, kilobytes: its name, and the mean of an image as stored.
        speeds: images/s of each contender, round by round.
        core_ms: processor time of an image, likewise.
        left_out: who takes no part, and why.
    """

    case: str
    kilobytes: float
    speeds: dict[str, list[float]]
    core_ms: dict[str, list[float]]
    left_out: dict[str, str]

    @property
    def limit(self) -> str:
        """What no loader passes: decoding alone, or resizing alone where nothing is decoded."""
        return DECODING if DECODING in self.speeds else RESIZING

    def rows(self) -> list[tuple[str, ...]]:
        """A row a contender: name, images/s, ours by it (in images/s, per core), it by the limit, core ms."""
        rows: list[tuple[str, ...]] = []
        for name, speeds in self.speeds.items():
            compared = ("", "") if name.startswith("ours: ") else (
                str(ratio(self.speeds[CPU], speeds)), str(ratio(self.core_ms[name], self.core_ms[CPU]))
            )  # fmt: skip
            of_limit, spent = ratio(speeds, self.speeds[self.limit]), Spread.of(self.core_ms[name]).median
            rows.append((name, Spread.of(speeds).whole(), *compared, str(of_limit), f"{spent:.2f}"))
        return rows


def measure(inputs: LoaderInputs, environment: Path | None, rounds: int, seconds: float) -> Result:
    """All contenders in turns. ``environment``: of litdata and streaming, which are left out without it."""
    contenders, left_out = gather(OFFERS, inputs)
    turns = {contender.name: turn_of(contender.run, inputs.batch) for contender in contenders}
    with ExitStack() as stack:
        for contender in contenders:
            stack.callback(contender.close)
        try:
            if inputs.case.codec != "jpg":
                raise UserError("they are given JPEGs")
            peers = stack.enter_context(Peers(environment, "loader", inputs.save()))
        except UserError as error:
            left_out["litdata, streaming"] = str(error)
        else:
            turns |= peers.turns
        paces = take_turns(turns, rounds, seconds)
    kilobytes = float(inputs.dataset.column("size").mean()) / 1e3
    cost = {name: [turn.core_ms for turn in turns] for name, turns in paces.items()}
    return Result(str(inputs.case), kilobytes, rates(paces), cost, left_out)


def tell_case(console: Console, result: Result, title: str) -> None:
    """One case, its absentees below."""
    head = ["contender", "images/s", "ours / it", "per core", f"it / {result.limit}", "core ms"]
    title = f"{result.case}: {result.kilobytes:,.0f} kB an image; {title}"
    tables.tell(console, title, head, result.rows(), result.left_out)
    console.print()


if __name__ == "__main__":
    main()
