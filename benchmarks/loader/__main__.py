"""Images/s of our loaders against what others use, in one run.

    python -m dira_scale.bench loader [--cases jpg8-1024 jpg8-512] [--json loader.json] [--plot loader.svg]
    python -m dira_scale.bench loader --cases --grow      only how it grows
    python -m dira_scale.bench loader --tune SHARDS [--out tuned] [--size 224]

Every contender gives two random resized crops of 224 x 224 an image, with flips, from the same 1024 x 1024 radiographs;
those whose design lets them take the very same crops. Each has all cores: so many threads or processes. They take turns
in one process; a ratio is the median over the rounds of both sides' images/s, with the lowest and the highest. Starting
and ending a turn does not count. "core ms" is the processor time of an image, in all processes; other programs on the
machine hardly change it, nor "per core", which is ours / it by that time. The files are in the page cache; --cold adds
one pass from the disk, if the kernel lets go of the pages.

Others: single files with PIL and torch's DataLoader ("files"; "released": with the augmentation of DiRA's authors, ours
distorted likewise), webdataset, FFCV, DALI on the CPU, OpenCV on plain threads; litdata and MosaicML's streaming, which
need an environment of their own, were measured once (`python -m benchmarks.loader.peers`) and enter by their ratio to
"files, PIL". Limits: decoding alone and resizing alone, on all threads.

--tune: which loader, threads and prefetch load this dataset fastest here, written to OUT/data/tuned.yaml, which
`pretrain --config-dir OUT data=tuned` takes; and what another stored form would give.

--grow: threads; 10,000 to 10,000,000 rows, 10 to 10,000 shards; resuming at a random step; memory over time.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
from dataclasses import asdict
from datetime import date
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.loader import grow
from benchmarks.loader.goals import goals
from benchmarks.loader.inputs import CASES, forget, prepare, radiographs
from benchmarks.loader.peers import PEERS
from benchmarks.loader.plot import draw
from benchmarks.loader.speed import Result, measure
from benchmarks.loader.tables import tell_case, tell_goals, tell_growth
from benchmarks.loader.tune import tune
from dira_scale.errors import UserError
from dira_scale.runs.environment import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES), help="stored forms; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a contender in a round")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cold", action="store_true", help="also one pass from the disk")
    parser.add_argument("--grow", action="store_true", help="also how it grows")
    parser.add_argument("--tune", type=Path, metavar="SHARDS", help="find the best settings for this dataset instead")
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="with --tune: a folder of configuration")
    parser.add_argument("--size", type=int, default=224, help="with --tune: pixels of a view")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--plot", type=Path, help="a picture of the cases: .svg or .png")
    arguments = parser.parse_args()
    if arguments.plot and arguments.plot.suffix not in (".svg", ".png"):
        raise UserError(f"--plot {arguments.plot}: expected a name that ends in .svg or .png")
    if arguments.images < arguments.batch:
        raise UserError(f"--images {arguments.images} do not fill one batch of {arguments.batch}: use more")
    console = Console()
    if arguments.tune:
        cores = len(os.sched_getaffinity(0))
        return tune(arguments.tune, arguments.out, arguments.size, cores, arguments.rounds, arguments.seconds, console)
    run(arguments, console if console.is_terminal else Console(width=130))


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure, print, and write after every case what there is so far."""
    # All workers are forked from a server that has imported once what takes them seconds.
    multiprocessing.set_forkserver_preload(
        ["torch", "torchvision.transforms", "webdataset", "dira_scale.archive.writer"]
    )
    forkserver.ensure_running()
    workers = len(os.sched_getaffinity(0))
    peers = json.loads(PEERS.read_text()) if PEERS.exists() else {}
    result: dict[str, Any] = {"date": f"{date.today()}", "environment": environment(), "workers": workers, "cases": []}
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals, result["images"] = radiographs(folder / "originals", arguments.images)
        console.print(f"{result['images']}; {workers} workers, batches of {arguments.batch}\n", highlight=False)

        def ready(case: str) -> Any:
            return prepare(CASES[case], originals, folder, workers, arguments.batch)

        for case in arguments.cases:
            inputs = ready(case)
            results.append(measure(inputs, arguments.rounds, arguments.seconds, arguments.cold))
            forget(inputs, folder)
            tell_case(console, results[-1], peers, f"{workers} workers")
            result["cases"].append(asdict(results[-1]))
            write(arguments, result)
        reached = goals(results, peers)
        if arguments.grow:
            result["grow"] = {"workers": grow.threads(ready("jpg8-512"), arguments.rounds, arguments.seconds)}
            result["grow"] |= grow.datasets(folder / "grow", grow.SIZES, grow.SAMPLES, arguments.rounds)
            tell_growth(console, result["grow"])
            reached += grow.goals(result["grow"])
    tell_goals(console, reached)
    result["goals"] = [asdict(goal) | {"met": goal.met} for goal in reached]
    write(arguments, result)
    if arguments.plot and results:
        draw(arguments.plot, results, peers)


def write(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """The figures as JSON, if asked for."""
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
