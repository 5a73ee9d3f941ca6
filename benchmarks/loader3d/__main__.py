"""Crops/s of volumes: our loader against nnU-Net's reader, MONAI's datasets and torchio's Queue, in one run.

    python -m benchmarks.loader3d.peers out/peers3d           once: the environment of nnU-Net and torchio
    python -m dira_scale.bench loader3d --peers out/peers3d [--json loader3d.json]

Every contender reads crops of 64 x 64 x 32 or of 96 x 96 x 96 voxels from the same CT, without resampling. They take
the same crops, which are compared with the voxels before anything is timed, but for torchio's Queue, which samples in
its own way. Voxels are stored as int16; nnU-Net's dataloader is also shown as it is, with float32. A batch has one crop
of every volume. One core each: this process and that of nnU-Net are bound to one. They take turns; a ratio is the
median over the rounds of both sides' figures, with the lowest and the highest. Both keep the memory that they free, as
training does.

"a core": by processor time, which other programs on the machine hardly change. "cold": the files are taken out of the
page cache before every batch; there, read the crops/s, as a processor that waits takes no time. Limits, over the same
crops: reading, decoding and copying alone, and all three, one after the other.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.loader.goals import Goal
from benchmarks.loader.tables import tell_goals
from benchmarks.loader3d.inputs import SIZES, VolumeInputs, crop_list, prepare, sources
from benchmarks.loader3d.peers import HOW, VARIABLE
from benchmarks.loader3d.results import goals, tell_result
from benchmarks.loader3d.speed import measure
from dira_scale.distributed.processes import keep_freed_memory
from dira_scale.runs.environment import environment
from dira_scale.storage.atomic import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of crops; default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a contender in a round")
    parser.add_argument("--patients", type=int, default=3, help="phantoms, of one to three volumes each")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of the phantoms")
    parser.add_argument("--folder", type=Path, default=Path("out/loader3d"), help="where phantoms are made and kept")
    parser.add_argument(
        "--peers", type=Path, default=os.environ.get(VARIABLE), help=f"folder of the environment: {HOW}"
    )
    parser.add_argument("--json", type=Path, help="write the results here too")
    asked = parser.parse_args()
    console = Console()
    run(asked, console if console.is_terminal else Console(width=130))


def run(asked: argparse.Namespace, console: Console) -> None:
    """Measure, print, and write after every case what there is so far."""
    asked.folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"date": f"{date.today()}", "environment": environment(), "results": [], "goals": []}
    reached: list[Goal] = []
    keep_freed_memory()
    with one_core(), tempfile.TemporaryDirectory(dir=asked.folder) as name:
        for number, (volumes, words) in enumerate(sources(asked.folder, asked.patients, asked.side)):
            folder = Path(name) / str(number)
            folder.mkdir()
            dataset = prepare(words, folder)
            for size in asked.sizes:
                inputs = VolumeInputs(dataset, folder, crop_list(dataset, SIZES[size]))
                for result in measure(inputs, f"{volumes}, {size}", asked.peers, asked.rounds, asked.seconds):
                    tell_result(console, result)
                    reached += goals(result, size)
                    told["results"].append(asdict(result))
                    told["goals"] = [asdict(goal) | {"met": goal.met} for goal in reached]
                    if asked.json:
                        write_json(asked.json, told)
    tell_goals(console, reached)


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
