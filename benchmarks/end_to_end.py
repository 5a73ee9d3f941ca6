"""Images/s of pretraining from shards, compared with the slower of its two halves: the loader alone, the steps alone.

    python -m dira_scale.bench end_to_end [--shards FOLDER] [--rounds 5] [--steps 10] [--json end_to_end.json]

Ratio 1 means that loading and computing overlap without loss. The trainer that `pretrain` runs gets, in turns: one
batch of the shards repeatedly (steps alone), nothing while the loader runs at full speed (loader alone), and the
loader's batches (both). Each turn of a loader begins with untimed batches that fill its queue. The ratio is that of
medians over --rounds rounds; in brackets the rounds' lowest and highest.

On a CPU both halves compete for cores: torch gets all but one (`parallel.threads`), the loader one (`data.workers`),
and a machine without a spare core cannot reach 1. Without --shards it generates phantom radiographs. --keys: KEY=VALUE
of `pretrain`, by default the small recipe on a CPU, the paper's on a GPU.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from benchmarks import synthetic
from dira_scale.data.batch import Batch
from dira_scale.data.inputs import Inputs
from dira_scale.data.loaders import Loader
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.processes import start
from dira_scale.engine.signals import Signals
from dira_scale.engine.trainer import Trainer
from dira_scale.errors import UserError
from dira_scale.places.atomic import write_json
from dira_scale.runs.environment import environment
from dira_scale.runs.folder import RunFolder
from dira_scale.shard import main as shard

GOAL = 0.95
CORES = len(os.sched_getaffinity(0))
CPU = ("experiment=small", f"parallel.threads={max(1, CORES - 1)}", "data.workers=1")
GPU = ("experiment=dira_moco", "model.bn_groups=1", f"data.workers={CORES}")


class Turns(synthetic.Images):
    """Hands the trainer batches from memory and from the loader in turns, and reads the loader alone in between.

    Args:
        prefetch: batches that the loader keeps ready; as many and one are read before the clock starts.
        wait: for the device, before the clock is read.
    """

    def __init__(
        self, views: ViewSpec, loader: Loader, prefetch: int, steps: int, rounds: int, wait: Callable[[], None]
    ) -> None:
        super().__init__(views)
        self.loader, self.steps, self.rounds, self.wait = loader, steps, rounds, wait
        self.warm = prefetch + 1  # batches
        self.length = (1 + rounds) * (2 * steps + self.warm)  # of all the trainer's steps
        self.taken: dict[str, list[float]] = {"step": [], "loader": [], "both": []}

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """All turns, the first of each to warm up; one batch more is for the trainer's last checkpoint."""
        with closing(self.loader.iterate(0, 1)) as batches:
            kept = next(batches)
        for turn in range(1 + self.rounds):
            with self.timed("step"):
                for _ in range(self.steps):
                    yield kept
            first = turn * 2 * (self.warm + self.steps)
            with closing(self.loader.iterate(first, first + self.warm + self.steps)) as batches:
                for _ in range(self.warm):
                    next(batches)
                with self.timed("loader"):
                    for _ in batches:
                        pass
            first += self.warm + self.steps
            with closing(self.loader.iterate(first, first + self.warm + self.steps)) as batches:
                for _ in range(self.warm):
                    yield next(batches)
                with self.timed("both"):
                    yield from batches
        yield kept

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the seconds of the body under ``name``."""
        self.wait()
        began = time.perf_counter()
        yield
        self.wait()
        self.taken[name].append(time.perf_counter() - began)


def make_shards(folder: Path, size: int) -> Path:
    """Phantom radiographs of ``size`` pixels, all to train on."""
    sizes = ["recipe.patients=24", f"recipe.size={size}", "recipe.splits={train: 1, val: 0, test: 0}"]
    if shard(["recipe=phantom_cxr", f"+recipe.folder={folder / 'dicom'}", f"out={folder / 'shards'}", *sizes]):
        raise UserError("end_to_end: no phantoms could be made, see above")
    return folder / "shards"


def measure(shards: Path, rounds: int, steps: int, keys: Sequence[str]) -> dict[str, Any]:
    """Images/s of both halves and of the whole."""
    # Few images are gone through again and again.
    given = [*keys, f"data.shards={shards}", "data.remainder=wrap"]
    _, config = synthetic.configuration(*given)
    world = start(config.parallel, config.precision)
    views = ViewSpec(size=config.data.size)
    loader = Inputs(config.data, views, config.seed, 0, 1).train(config.data.batch)
    turns = Turns(views, loader, config.data.prefetch, steps, rounds, synthetic.wait(world.device))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        composed, config = synthetic.configuration(*given, f"run={folder}", f"steps={turns.length + 1}")
        content: Any = OmegaConf.to_container(composed)
        method, adversary = synthetic.networks(composed, config)
        run = RunFolder(Path(folder), content)
        try:
            trainer = Trainer(config, synthetic.task(config, world, method, adversary, turns), world, run)
            with Signals() as signals, contextlib.closing(trainer):
                ended = trainer.train(signals)
        finally:
            run.release()
    if ended != "done":
        raise KeyboardInterrupt
    about = {"device": world.device.type, "batch": config.data.batch, "size": config.data.size}
    return about | figures({name: found[1:] for name, found in turns.taken.items()}, steps * config.data.batch)


def figures(seconds: dict[str, list[float]], images: int) -> dict[str, float]:
    """Images/s of each, and ``ratio``: of both to the slower half, with its ``lowest`` and ``highest`` in a round."""
    speeds = {name: images / statistics.median(found) for name, found in seconds.items()}
    rounds = zip(seconds["step"], seconds["loader"], seconds["both"], strict=True)
    ratios = sorted(max(step, loader) / both for step, loader, both in rounds)
    whole = speeds["both"] / min(speeds["step"], speeds["loader"])
    return speeds | {"ratio": whole, "lowest": ratios[0], "highest": ratios[-1]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="default: phantoms, made in a temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--keys", nargs="+", default=GPU if torch.cuda.is_available() else CPU, help="KEY=VALUE …")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            shards = asked.shards or make_shards(Path(folder), 1024 if torch.cuda.is_available() else 256)
        row = measure(shards, asked.rounds, asked.steps, asked.keys)
    print(
        f"images/s: loader alone {row['loader']:.1f}, steps alone {row['step']:.1f}, both {row['both']:.1f}; "
        f"ratio to the slower {row['ratio']:.3f} ({row['lowest']:.3f} to {row['highest']:.3f})"
        f"{'' if row['ratio'] >= GOAL else f', below the goal of {GOAL}'}"
    )
    if asked.json:
        write_json(asked.json, {"environment": environment(), "keys": list(asked.keys), "goal": GOAL} | row)


if __name__ == "__main__":
    main()
