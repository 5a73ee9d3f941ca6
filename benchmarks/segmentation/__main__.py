"""Masks of test volumes after equal minutes on this machine: our fine-tuning against nnU-Net 3d_fullres.

    python -m dira_scale.bench segmentation SHARDS --task task=phantom_ct --count nodule --minutes 20 --seeds 0 1 2
        --ours "views.foreground=0" "views.foreground=0.33" --nnunet-python ENVIRONMENT/bin/python

A sitting is one side and one seed; its result is a line of FOLDER/results.jsonl, and the same command goes on with what
is missing. Both sides learn from random weights, on the same voxels and patients: our split is nnU-Net's fold 0. Each
first tries how long its steps take, and then has as many as end with their schedule in the minutes. Steps and
validations count; the start, checkpoints and pictures do not, nor do sharding, planning and preprocessing. Ours is
`preset=volumes_small` with the words of --ours; nnU-Net's are all defaults but the number of epochs and of their
iterations (nnunet/budget.py). Each predicts the test volumes in its own way; one scorer has both masks (score.py).
Minutes to a useful mask: until a validation, as each side has it, found a Dice above 0.5.
"""

import argparse
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from statistics import fmean
from subprocess import check_output

from benchmarks.peers import VARIABLE
from benchmarks.segmentation.score import score
from benchmarks.segmentation.sides import CORES, Bench, NnUNet, Ours, Result
from dira_scale.base.machine.hardware import hardware
from dira_scale.train.runs.environment import version_of

VERSION = "from importlib.metadata import version; print(version('nnunetv2'))"


def sit(side: Ours | NnUNet, folder: Path, seed: int, counted: Sequence[str]) -> Result:
    """One line of the results."""
    shutil.rmtree(folder, ignore_errors=True)  # of a sitting that was interrupted
    trained, cases = side.train(folder, seed), side.bench.cases(side.predict(folder))
    return {"side": side.name, "seed": seed, "scores": score(cases, side.bench.classes, counted), **trained}


def scored(name: str, row: Result) -> float | None:
    figure: float | None = row["scores"][name]
    return figure


def table(rows: Sequence[Result]) -> str:
    """Markdown: of each side the mean over its sittings, with the lowest and the highest."""
    figures: dict[str, Callable[[Result], float | None]] = {
        "minutes": lambda row: row["seconds"] / 60, "steps": lambda row: row["steps"],
        "minutes to a useful mask": lambda row: row["first"] and row["first"] / 60,
        **{name: partial(scored, name) for row in rows for name in row["scores"]},
    }  # fmt: skip
    lines = [f"| | n | {' | '.join(figures)} |", "|---" * (2 + len(figures)) + "|"]
    for side in dict.fromkeys(row["side"] for row in rows):
        mine = [row for row in rows if row["side"] == side]
        cells = [side, f"{len(mine)}"]
        for figure in figures.values():
            values = [value for row in mine if (value := figure(row)) is not None]
            few = f", {len(values)} of {len(mine)}" * (len(values) < len(mine))
            spread = f" ({min(values):.4g}-{max(values):.4g})" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.4g}{spread}{few}" if values else "none")
        lines.append(f"| {' | '.join(cells)} |")
    about = [f"{row['side']}: batches of {row['batch']} x {row['patch']}" for row in rows]
    return "\n".join([*lines, "", "; ".join(dict.fromkeys([*about, *(row["on"] for row in rows)]))])


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    home = os.environ.get(VARIABLE)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="a dataset of volumes with masks, in train, val and test")
    parser.add_argument("--task", nargs="+", required=True, help="words of finetune: task=…, and its keys")
    parser.add_argument(
        "--ours", nargs="*", default=[""], help="words of finetune in one string, each a side of its own"
    )
    parser.add_argument("--nnunet-python", type=Path, default=home and Path(home, "bin", "python"),
                        help=f"default: of {VARIABLE}; without one, ours alone")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", nargs="*", default=[], help="classes whose findings are counted")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("out/segmentation"))
    return parser.parse_args(argv)


def sittings(args: argparse.Namespace) -> list[Result]:
    """Have those that are missing, and return all."""
    folder, words = args.folder.absolute(), [*args.task, "preset=volumes_small", "init=random"]
    bench = Bench(args.shards.absolute(), words, args.minutes, args.device)
    sides: list[Ours | NnUNet] = [Ours(bench, words.split()) for words in args.ours]
    on = f"{CORES} cores of {hardware().cpu}, {args.device}, torch {version_of('torch')}"
    if args.nnunet_python:
        sides.insert(0, NnUNet(bench, args.nnunet_python, folder / f"nnunet-{bench.dataset.hash[:12]}"))
        on += f", nnunetv2 {check_output([args.nnunet_python, '-c', VERSION], text=True).strip()}"
    case = {"data": bench.dataset.hash, "task": args.task, "minutes": args.minutes, "device": args.device}
    results = folder / "results.jsonl"
    for seed, side in itertools.product(args.seeds, sides):
        if not any((row["side"], row["seed"]) == (side.name, seed) for row in rows_of(results, case)):
            name = re.sub("[^a-z0-9.]+", "-", f"{seed} {side.name}".lower())
            row = sit(side, folder / name, seed, args.count)
            with results.open("a") as file:
                file.write(json.dumps(case | row | {"on": f"{on}, {date.today()}"}) + "\n")
            print(f"seed {seed}, {row}", flush=True)
    return rows_of(results, case)


def rows_of(results: Path, case: Result) -> list[Result]:
    """The sittings so far of the same data, task and minutes."""
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return [row for row in rows if case.items() <= row.items()]


if __name__ == "__main__":
    print(table(sittings(arguments())))
