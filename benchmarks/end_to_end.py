"""Images/s of pretraining from shards by each loader, against the slower of its halves: loader alone, steps alone.

    python -m dira_scale.bench end_to_end [--shards FOLDER] [--loaders cpu helper] [--rounds 5] [--json end_to_end.json]

Ratio 1 means that loading and computing overlap without loss. The trainer that `pretrain` runs gets, in turns: one
batch of the shards repeatedly (steps alone), nothing while a loader runs at full speed (alone), and that loader's
batches (with steps). Each turn of a loader begins with untimed batches that fill its queue. Ratios are those of medians
over --rounds rounds; in brackets the rounds' lowest and highest. "ms of waiting": of a step, for its batch.

--headline: `pretrain` and the released loop, each as its user starts it (benchmarks/headline.py); on a CPU a rehearsal
at 64 pixels.

--loaders: by default every one of cpu (with data.helper=false), helper (cpu with data.helper=true), dali, ffcv and
stream (with a cache of its own); one that cannot read these shards here says why.

On a CPU both halves compete for cores: torch gets all but one (`parallel.threads`), the loader one (`data.workers`),
and a machine without a spare core cannot reach 1. Without --shards it generates phantom radiographs. --keys: KEY=VALUE
of `pretrain`, by default the small recipe on a CPU, the paper's on a GPU.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.backends import BACKENDS, make_shards, open_all
from dira_scale.base.storage.atomic import write_json
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.loaders import Loader
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.processes import start
from dira_scale.train.runs.environment import environment

GOAL = 0.95
CORES = len(os.sched_getaffinity(0))
CPU = ("experiment=small", f"parallel.threads={max(1, CORES - 1)}", "data.workers=1")
GPU = ("experiment=dira_moco", "model.bn_groups=1")


class LoaderTurns(synthetic.SyntheticImages):
    """Hands the trainer batches from memory and from each loader in turns, and reads each loader alone in between.

    Args:
        loaders: by name; all are read from the same steps on.
        prefetch: batches that a loader keeps ready; as many and one are read before the clock starts.
        wait: for the device, before the clock is read.

    Attributes:
        steps_alone: seconds of ``steps`` steps on one batch, round by round.
        taken: of each loader, likewise: ``loader`` alone, ``both``, and what of that was ``wait`` for a batch.
        broken: loaders that failed midway, and why; the others go on.
    """

    def __init__(
        self,
        views: ViewSpec,
        loaders: Mapping[str, Loader],
        prefetch: int,
        steps: int,
        rounds: int,
        wait: Callable[[], None],
    ) -> None:
        super().__init__(views)
        self.loaders, self.steps, self.rounds, self.wait = loaders, steps, rounds, wait
        self.warm = prefetch + 1  # batches
        self.length = steps + rounds * (steps + len(loaders) * (self.warm + steps))  # of all the trainer's steps
        self.steps_alone: list[float] = []
        self.taken: dict[str, dict[str, list[float]]] = {
            name: {"loader": [], "both": [], "wait": []} for name in loaders
        }
        self.broken: dict[str, str] = {}

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """Some steps to warm up, then all turns; one batch more is for the trainer's last checkpoint."""
        with closing(next(iter(self.loaders.values())).iterate(0, 1)) as batches:
            kept = next(batches)
        for _ in range(self.steps):
            yield kept
        for turn in range(self.rounds):
            with self._timed(self.steps_alone):
                for _ in range(self.steps):
                    yield kept
            for name in [name for name in self.loaders if name not in self.broken]:
                yield from self._turn(name, turn * 2 * (self.warm + self.steps))
        yield kept

    def _turn(self, name: str, first: int) -> Iterator[Batch]:
        """A loader alone, then with the steps; both times its queue is filled before."""
        loader, taken = self.loaders[name], self.taken[name]
        try:
            with closing(loader.iterate(first, first + 2 * (self.warm + self.steps))) as batches:
                for _ in range(self.warm):
                    next(batches)
                with self._timed(taken["loader"]):
                    for _ in range(self.steps):
                        next(batches)
                for _ in range(self.warm):
                    yield next(batches)
                waited = loader.seconds()["wait"]
                with self._timed(taken["both"]):
                    for _ in range(self.steps):
                        yield next(batches)
                taken["wait"].append(loader.seconds()["wait"] - waited)
        except Exception as error:  # one that breaks must not cost the others
            self.broken[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    @contextmanager
    def _timed(self, result: list[float]) -> Iterator[None]:
        """Add the seconds of the body."""
        self.wait()
        began = time.perf_counter()
        yield
        self.wait()
        result.append(time.perf_counter() - began)

    def figures(self, batch: int) -> dict[str, Any]:
        """Images/s of the steps alone; ``figures`` of each loader, or how it was ``broken``."""
        rows: dict[str, Any] = {name: {"broken": why} for name, why in self.broken.items()}
        for name in [name for name in self.loaders if name not in self.broken]:
            rows[name] = figures(self.steps_alone, **self.taken[name], steps=self.steps, batch=batch)
        alone = self.steps * batch / statistics.median(self.steps_alone)
        return {"step": alone, "loaders": {name: rows[name] for name in self.loaders}}


def figures(
    step: Sequence[float], loader: Sequence[float], both: Sequence[float], wait: Sequence[float], steps: int, batch: int
) -> dict[str, float]:
    """The rates of turns of ``steps`` steps, from seconds round by round.

    ``loader`` and ``both``: images/s. ``share``: both / the steps alone. ``ratio``: both / the slower of loader and
    steps alone, by medians; ``lowest`` and ``highest`` in a round. ``wait_ms``: of a step, for its batch.
    """
    middle = {"step": statistics.median(step), "loader": statistics.median(loader), "both": statistics.median(both)}
    rounds = sorted(max(a, b) / c for a, b, c in zip(step, loader, both, strict=True))
    return {
        "loader": steps * batch / middle["loader"],
        "both": steps * batch / middle["both"],
        "share": middle["step"] / middle["both"],
        "ratio": max(middle["step"], middle["loader"]) / middle["both"],
        "lowest": rounds[0],
        "highest": rounds[-1],
        "wait_ms": 1e3 * statistics.median(wait) / steps,
    }


def text(result: Mapping[str, Any]) -> str:
    """The figures as a table; a loader that cannot read the shards here, or broke, says why."""
    rows = result["loaders"]
    lines = [
        f"{result['device']}, batch {result['batch']} of {result['size']} pixels; images/s of the steps alone: "
        f"{result['step']:,.1f}",
        f"{'loader':<10}{'alone':>10}{'with steps':>12}{'/ steps alone':>15}{'/ the slower':>23}{'ms of waiting':>15}",
    ]
    for name, row in rows.items():
        if why := row.get("left_out") or row.get("broken"):
            lines.append(f"{name:<10}  {why}")
            continue
        spread = f"{row['ratio']:.3f} ({row['lowest']:.3f}-{row['highest']:.3f})"
        lines.append(
            f"{name:<10}{row['loader']:>10,.1f}{row['both']:>12,.1f}{row['share']:>15.3f}{spread:>23}"
            f"{row['wait_ms']:>15.1f}"
        )
    return "\n".join(lines)


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
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        opened, reasons = open_all(loaders, given, views, world.device, CORES, Path(folder))
        turns = LoaderTurns(views, opened, config.data.prefetch, steps, rounds, wait)
        composed, config = synthetic.configuration(*given, f"run={folder}/run", f"steps={turns.length + 1}")
        synthetic.train(composed, config, world, *synthetic.networks(composed, config), turns)
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
    parser.add_argument("--headline", action="store_true", help="images/s of pretrain, and of the released loop")
    parser.add_argument("--batch", type=int, default=256, help="of --headline")
    parser.add_argument("--keys", nargs="+", default=GPU if torch.cuda.is_available() else CPU, help="KEY=VALUE …")
    args = parser.parse_args(argv)
    if args.headline:
        from benchmarks import headline  # needs torchvision

        found = headline.measure(("cpu", "dali"), args.batch, not torch.cuda.is_available(), min(args.rounds, 2))
        print(*headline.text(found), sep="\n")
        return write_json(args.json, {"environment": environment(), "headline": found}) if args.json else None
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()):
            side = 512 if torch.cuda.is_available() else 256
            shards = args.shards or make_shards(Path(folder), 48, side, side, CORES)
        result = measure(shards, args.rounds, args.steps, args.keys, args.loaders)
    print(text(result))
    rows = result["loaders"].items()
    if below := [name for name, row in rows if row.get("ratio", GOAL) < GOAL]:
        print(f"below the goal of {GOAL} of the slower: {', '.join(below)}")
    if args.json:
        write_json(args.json, {"environment": environment(), "keys": list(args.keys), "goal": GOAL} | result)


if __name__ == "__main__":
    main()
