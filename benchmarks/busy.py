"""Training on a CPU beside another program that keeps one core busy, compared with training alone.

    python -m dira_scale.bench busy [--rounds 8] [--steps 4] [--keys KEY=VALUE ...] [--json busy.json]

Three processes take turns of --steps steps, alone and beside a program that only counts: ``ours``, as `pretrain` runs
(its waiting threads spin, and yield while another program computes); ``spinning``, OpenMP's default; ``sleeping``,
OMP_WAIT_POLICY=PASSIVE. Images are on the device already. Figures are medians of images/s of the wall clock; on a
machine that is not otherwise idle they say nothing.

Ratios and their goals: `ours` beside the program to `ours` alone (0.55), and `ours` alone to `spinning` alone (0.97).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks import synthetic
from benchmarks.step import BATCHES, CPU
from dira_scale.data.batch import Batch
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.processes import start
from dira_scale.distributed.spinning import INTERVAL
from dira_scale.engine.signals import Signals
from dira_scale.engine.trainer import Trainer
from dira_scale.places.atomic import write_json
from dira_scale.runs.environment import environment
from dira_scale.runs.folder import RunFolder

SHARE, ALONE = 0.55, 0.97  # the goals
# 300,000 is libgomp's default; as it is set, ours leaves it alone.
WAITING = {"ours": {}, "spinning": {"GOMP_SPINCOUNT": "300000"}, "sleeping": {"OMP_WAIT_POLICY": "PASSIVE"}}
CASE = CPU[0]
WARM_UP = 3  # steps
READY, TOOK = "turns: ready", "turns: took "  # in front of what a process answers, among the trainer's lines


class ServedTurns(synthetic.SyntheticImages):
    """Yields batches when standard input has a number of steps, and writes the seconds that they took."""

    batches: list[Batch]

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        for i in range(WARM_UP):
            yield self.batches[i % BATCHES]
        print(READY, flush=True)
        for line in sys.stdin:
            began = time.perf_counter()
            for i in range(int(line)):
                yield self.batches[i % BATCHES]
            print(f"{TOOK}{time.perf_counter() - began}", flush=True)


def serve(keys: Sequence[str]) -> None:
    """Train on synthetic images, in turns that standard input asks for."""
    with tempfile.TemporaryDirectory() as folder:
        rare = f"health.every={synthetic.NEVER}", f"log_every={synthetic.NEVER}", f"run={folder}"
        composed, config = synthetic.configuration(*CASE.overrides("pretrain"), *rare, *keys)
        world = start(config.parallel, config.precision)
        method, adversary = synthetic.networks(composed, config)
        turns = ServedTurns(ViewSpec(size=CASE.size))
        turns.batches = [synthetic.batch(turns.views, CASE.batch, step, world.device) for step in range(BATCHES)]
        content: Any = OmegaConf.to_container(composed)
        run = RunFolder(Path(folder), content)
        try:
            with Signals() as signals:
                Trainer(config, synthetic.task(config, world, method, adversary, turns), world, run).train(signals)
        finally:
            run.release()


class Contestant:
    """A process that trains in turns."""

    def __init__(self, waiting: dict[str, str], keys: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dira_scale.bench", "busy", "--serve", "--keys", *keys],
            env=os.environ | waiting,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer(READY)

    def images_per_second(self, steps: int) -> float:
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        return steps * CASE.batch / float(self._answer(TOOK))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self, kind: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(kind):
                return line.removeprefix(kind)
        raise SystemExit("a process that trains has ended; its message is above")


def measure(rounds: int, steps: int, keys: Sequence[str]) -> dict[str, dict[str, float]]:
    """Images/s of each way of waiting, ``alone`` and ``beside`` the other program."""
    contestants = {name: Contestant(waiting, keys) for name, waiting in WAITING.items()}
    result: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in WAITING}
    try:
        for _ in range(rounds):
            for where in ("alone", "beside"):
                other = subprocess.Popen([sys.executable, "-c", "while True: pass" if where == "beside" else ""])
                time.sleep(3 * INTERVAL)  # until ours has seen it
                for name, contestant in contestants.items():
                    result[name][where].append(contestant.images_per_second(steps))
                other.kill()
                other.wait()
    finally:
        for contestant in contestants.values():
            contestant.close()
    return {name: {where: statistics.median(rates) for where, rates in both.items()} for name, both in result.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="of a turn; default %(default)s")
    parser.add_argument("--keys", nargs="+", default=["precision=auto"], help="KEY=VALUE of pretrain")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.serve:
        return serve(asked.keys)
    result = measure(asked.rounds, asked.steps, asked.keys)
    print("threads that wait   alone/s   beside/s   share")
    for name, rates in result.items():
        print(f"{name:<17}{rates['alone']:10.1f}{rates['beside']:11.1f}{rates['beside'] / rates['alone']:8.2f}")
    ours, spinning = result["ours"], result["spinning"]
    share, alone = ours["beside"] / ours["alone"], ours["alone"] / spinning["alone"]
    for what, ratio, goal in (("beside / alone", share, SHARE), ("alone / spinning alone", alone, ALONE)):
        print(f"ours, {what}: {ratio:.2f}{'' if ratio >= goal else f'   below the goal, {goal}'}")
    if asked.json:
        goals = {"share": SHARE, "alone": ALONE}
        write_json(asked.json, {"environment": environment(), "keys": asked.keys, "goals": goals, "rates": result})


if __name__ == "__main__":
    main()
