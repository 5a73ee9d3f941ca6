"""Images/s of pretraining from shards by each loader, against the slower of its halves: loader alone, steps alone.

    python -m dira_scale.bench end_to_end [--shards FOLDER] [--loaders cpu helper] [--rounds 5] [--json end_to_end.json]

Ratio 1 means that loading and computing overlap without loss. The trainer that `pretrain` runs gets, in turns: one
batch of the shards repeatedly (steps alone), nothing while a loader runs at full speed (alone), and that loader's
batches (with steps). Each turn of a loader begins with untimed batches that fill its queue. Ratios are those of medians
over --rounds rounds; in brackets the rounds' lowest and highest. "ms of waiting": of a step, for its batch.

--loaders: by default every one of cpu, helper (cpu with data.helper=true), dali, ffcv and stream (with a cache of its
own); one that cannot read these shards here says why.

On a CPU both halves compete for cores: torch gets all but one (`parallel.threads`), the loader one (`data.workers`),
and a machine without a spare core cannot reach 1. Without --shards it generates phantom radiographs. --keys: KEY=VALUE
of `pretrain`, by default the small recipe on a CPU, the paper's on a GPU.
"""

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from benchmarks import synthetic
from benchmarks.backends import BACKENDS, make_shards, open_all
from benchmarks.overlap import LoaderTurns, text
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.processes import start
from dira_scale.engine.loop import Loop
from dira_scale.engine.signals import Signals
from dira_scale.runs.environment import environment
from dira_scale.runs.folder import RunFolder
from dira_scale.storage.atomic import write_json

GOAL = 0.95
CORES = len(os.sched_getaffinity(0))
CPU = ("experiment=small", f"parallel.threads={max(1, CORES - 1)}", "data.workers=1")
GPU = ("experiment=dira_moco", "model.bn_groups=1")


def measure(
    shards: Path, rounds: int, steps: int, keys: Sequence[str], loaders: Sequence[str] = tuple(BACKENDS)
) -> dict[str, Any]:
    """``LoaderTurns.figures`` of these loaders, with ``device``, ``batch`` and ``size``.

    Raises UserError if none of them can read the shards.
    """
    # Few images are gone through again and again.
    given = [*keys, f"data.shards={shards}", "data.remainder=wrap"]
    _, config = synthetic.configuration(*given)
    world = start(config.parallel, config.precision)
    views, wait = ViewSpec(size=config.data.size), synthetic.wait(world.device)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        opened, reasons = open_all(loaders, given, views, world.device, CORES, Path(folder))
        turns = LoaderTurns(views, opened, config.data.prefetch, steps, rounds, wait)
        composed, config = synthetic.configuration(*given, f"run={folder}/run", f"steps={turns.length + 1}")
        content: Any = OmegaConf.to_container(composed)
        method, adversary = synthetic.networks(composed, config)
        run = RunFolder(Path(config.run), content)
        try:
            trainer = Loop(config, synthetic.task(config, world, method, adversary, turns), world, run)
            with Signals() as signals, contextlib.closing(trainer):
                ended = trainer.train(signals)
        finally:
            run.release()
    if ended != "done":
        raise KeyboardInterrupt
    result = turns.figures(config.data.batch)
    rows = {name: result["loaders"].get(name, {"left_out": reasons.get(name)}) for name in loaders}
    about = {"device": world.device.type, "batch": config.data.batch, "size": config.data.size}
    return about | result | {"loaders": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="default: phantoms, made in a temporary folder")
    parser.add_argument("--loaders", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--keys", nargs="+", default=GPU if torch.cuda.is_available() else CPU, help="KEY=VALUE …")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            shards = asked.shards or make_shards(Path(folder), 24, 512 if torch.cuda.is_available() else 256)
        result = measure(shards, asked.rounds, asked.steps, asked.keys, asked.loaders)
    print(text(result))
    rows = result["loaders"].items()
    if below := [name for name, row in rows if row.get("ratio", GOAL) < GOAL]:
        print(f"below the goal of {GOAL} of the slower: {', '.join(below)}")
    if asked.json:
        write_json(asked.json, {"environment": environment(), "keys": list(asked.keys), "goal": GOAL} | result)


if __name__ == "__main__":
    main()
