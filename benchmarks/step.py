"""Images/s of the training loop, compared with a bare PyTorch loop of the same network, losses, optimizers and images.

    python -m dira_scale.bench step [--cases resnet18-64 resnet50-96] [--rounds 5] [--steps N] [--json step.json]

Ours is the trainer that `pretrain` runs, with everything it does in and between steps: health monitors, NaN guard,
BatchNorm groups, means, metrics rows, progress bar, signals. The bare loops are benchmarks/plain.py, of DiRA on MoCo,
plain_dinov2.py, of DINOv2 with its crops and with a Gram anchor, and plain_distil.py. Both run in one process, in turns
of --steps steps, on images that are already on the device; their first losses must agree.

Ratio 1 means that the loop adds no overhead. It is the ratio of medians over all turns; in brackets the lowest and
highest of a round, which is four turns of each. One turn of a round measures health and one writes a row; they are
counted as often as in a run (`health.every`, `log_every`). On a CPU, time is CPU time of this process, so that other
processes do not count; on a GPU it is wall time.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import synthetic
from benchmarks.plain import Plain
from benchmarks.plain_dinov2 import PlainDINOv2
from benchmarks.plain_distil import PlainDistil
from dira_scale.base.errors import UserError, nearest
from dira_scale.base.storage.atomic import write_json
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.processes import start
from dira_scale.train.methods.dinov2 import DINOv2
from dira_scale.train.methods.distil import Distil
from dira_scale.train.models.bf16 import guard
from dira_scale.train.runs.environment import environment

GOAL = 0.97
AGREE = {"fp32": 1e-3, "bf16": 5e-2}  # relative difference of the first step's losses, at most
ROUND = 4  # turns


@dataclass(frozen=True)
class StepCase:
    encoder: str
    size: int
    batch: int
    words: tuple[str, ...] = ("method=dira_moco", "optim=sgd_moco", "model.bn_groups=1")
    method: str = ""  # where another case has the same network and size

    @property
    def name(self) -> str:
        return f"{self.encoder}-{self.size}{self.method}"

    def overrides(self) -> list[str]:
        settings = [f"model.encoder={self.encoder}", f"data.size={self.size}", f"data.batch={self.batch}"]
        return [*self.words, *settings]


# Without drop path, whose draws would differ.
DINOV2 = ("stages.dinov2.epochs=0", "stages.dira.terms=[di,ibot,koleo]", "++model.arguments.drop_path_rate=0")
# The anchor is the start, and sees the global crops at twice their side.
GRAM = ("stages.dira.terms=[di,ibot,koleo,gram]", "method.anchor=start")
SMALL_CROPS = "{count:2,scale:[0.5,1.0]},{count:4,size:32,scale:[0.2,0.5],corruptions:{}},{count:2,size:128,same_as:0}"
CROPS = "{count:2,scale:[0.32,1.0]},{count:8,size:98,scale:[0.05,0.32],corruptions:{}},{count:2,size:448,same_as:0}"
DISTIL = ("experiment=distil", "stages.distil.epochs=0", "stages.dira.terms=[global,dense]")
CPU = (
    StepCase("resnet18", 64, 32),
    StepCase("resnet50", 96, 16),
    StepCase("vit_tiny_patch16_224", 64, 32, ("experiment=small_dinov2", *DINOV2)),
    StepCase(
        "vit_tiny_patch16_224",
        64,
        32,
        ("experiment=small_dinov2", *DINOV2, *GRAM, f"views.crops=[{SMALL_CROPS}]"),
        "-gram",
    ),
    StepCase("resnet18", 64, 32, (*DISTIL, "method.teachers=[{weights:random,encoder:resnet50}]"), "-distil"),
)
GPU = (
    StepCase("resnet18", 224, 256),
    StepCase("resnet50", 224, 256),
    StepCase("vit_small_patch14_dinov2", 224, 128, ("experiment=dinov2_vits14", *DINOV2)),
    StepCase(
        "vit_small_patch14_dinov2",
        224,
        64,
        ("experiment=dinov2_vits14", *DINOV2, *GRAM, f"views.crops=[{CROPS}]"),
        "-gram",
    ),
    StepCase("resnet50", 224, 256, (*DISTIL, "method.teachers=[{weights:random,encoder:resnet101}]"), "-distil"),
)


class StepTurns(synthetic.SyntheticImages):
    """Hands batches to the trainer, and between two of its turns lets the bare loop have one; both are timed.

    Args:
        bare: one step of the bare loop.
        steps: of a turn.
        clock: seconds, after waiting for the device.
    """

    def __init__(
        self,
        views: ViewSpec,
        batches: list[Batch],
        bare: Callable[[Batch], Any],
        clock: Callable[[], float],
        steps: int,
    ) -> None:
        super().__init__(views)
        self.batches, self.bare, self.clock, self.steps = batches, bare, clock, steps
        self.ours: list[float] = []  # seconds of each turn
        self.theirs: list[float] = []
        self.first: tuple[dict[str, float], dict[str, float]] = {}, {}  # losses of the first step of both

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """All turns, a round of both to warm up. The trainer saves after the last batch, which no turn has."""
        steps, ready = self.steps, [b.to(self.trainer.world.device) for b in self.batches]
        for _ in range((stop - 1 - start) // steps):
            began = self.clock()
            for i in range(steps):
                yield self.batches[i % len(self.batches)]
                if not self.first[0]:
                    names, means = self.trainer.log.means.shared()
                    self.first[0].update(zip(names, means.tolist(), strict=True))
            self.ours.append(self.clock() - began)
            began = self.clock()
            for i in range(steps):
                losses = self.bare(ready[i % len(ready)])
                if not self.first[1]:
                    self.first[1].update({name: float(value) for name, value in losses.items()})
            self.theirs.append(self.clock() - began)
        yield self.batches[0]


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds of this process's threads on a CPU, of the wall on a GPU once it has done all it was given."""
    if device.type == "cpu":
        return time.process_time
    wait = synthetic.wait(device)

    def wall() -> float:
        wait()
        return time.perf_counter()

    return wall


def measure(case: StepCase, rounds: int, steps: int, extra: Sequence[str]) -> dict[str, Any]:
    """One case, in turns of ``steps`` steps."""
    keys = [*case.overrides(), *extra]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        _, usual = synthetic.configuration(*keys)
        every = [f"log_every={ROUND * steps}", f"health.every={ROUND * steps}"]
        length = f"steps={(1 + rounds) * ROUND * steps + 1}"
        composed, config = synthetic.configuration(*keys, *every, length, f"run={folder}")
        world = start(config.parallel, config.precision)
        method, adversary = synthetic.networks(composed, config)
        batches = synthetic.batches(PretrainBlueprint(composed), case.batch, world.device)
        bare: Callable[[Batch], Any]
        if isinstance(method, DINOv2):
            bare = PlainDINOv2(config, method, world.device)
        elif isinstance(method, Distil):
            bare = PlainDistil(config, method, world.device)
        else:
            bare = Plain(config, method, adversary, world.device)
        for part in vars(bare).values() if world.device.type == "cpu" else ():
            if isinstance(part, nn.Module):
                guard(part)  # in bf16, as the trainer does
        turns = StepTurns(method.views, batches, bare, clock(world.device), steps)
        synthetic.train(composed, config, world, method, adversary, turns)
    check_losses(*turns.first, AGREE[world.precision])
    about = {"case": case.name, "batch": case.batch, "device": world.device.type}
    result = figures(turns.ours[ROUND:], turns.theirs[ROUND:], steps, usual.health.every, usual.log_every)
    speeds = {"images_per_second": case.batch / result["seconds"]}
    speeds |= {"bare_images_per_second": case.batch / result["bare_seconds"]}
    return about | speeds | result


def check_losses(ours: dict[str, float], theirs: dict[str, float], tolerance: float) -> None:
    """Both loops must compute the same, or their times say nothing."""
    for name, value in theirs.items():
        if abs(ours[name] - value) > tolerance * abs(value):
            raise SystemExit(f"the loops differ in {name}: {ours[name]:.6g} and {value:.6g}; their times say nothing")


def figures(
    ours: Sequence[float], theirs: Sequence[float], steps: int, health_every: int, log_every: int
) -> dict[str, float]:
    """What the seconds of turns of ``steps`` steps say, in whole rounds.

    ``seconds`` and ``bare_seconds`` of a step; their ``ratio`` with its ``lowest`` and ``highest`` in a round; what a
    ``look`` at the health and a ``row`` cost, in steps. The first turn of a round has a look, the last one a row.
    """
    rounds = range(0, len(ours), ROUND)
    plain = statistics.median(seconds for i in rounds for seconds in ours[i + 1 : i + ROUND - 1])
    look = statistics.median(ours[i] for i in rounds) - plain
    row = statistics.median(ours[i + ROUND - 1] for i in rounds) - plain
    beside = look / health_every + row / log_every  # seconds of both that fall to a step
    bare = statistics.median(theirs) / steps
    seconds = plain / steps + beside
    each = [
        statistics.median(theirs[i : i + ROUND]) / (statistics.median(ours[i + 1 : i + ROUND - 1]) + steps * beside)
        for i in rounds
    ]
    return {
        "seconds": seconds, "bare_seconds": bare, "ratio": bare / seconds, "lowest": min(each), "highest": max(each),
        "look": look / seconds, "row": row / seconds,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    cases = {case.name: case for case in (GPU if torch.cuda.is_available() else CPU)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(cases), help=f"of {', '.join(cases)}")
    parser.add_argument("--rounds", type=int, default=5)
    steps = 5 if torch.cuda.is_available() else 1  # a GPU must not be waited for after every step
    parser.add_argument("--steps", type=int, default=steps, help=f"of a turn; default {steps}")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument(
        "--keys", nargs="+", default=["parallel.threads=1"], help="KEY=VALUE of pretrain; default: %(default)s"
    )
    args = parser.parse_args(argv)
    for name in args.cases:
        if name not in cases:
            raise UserError(f"--cases {name}: there is {', '.join(cases)}{nearest(name, cases)}")
    rows = []
    print(f"{'case':<29}batch  ours/s  bare/s  ratio                look  row   (images/s; costs in steps)")
    for name in args.cases:
        rows.append(row := measure(cases[name], args.rounds, args.steps, args.keys))
        print(
            f"{row['case']:<29}{row['batch']:>5}{row['images_per_second']:8.1f}{row['bare_images_per_second']:8.1f}"
            f"{row['ratio']:7.3f} ({row['lowest']:.3f} to {row['highest']:.3f}){row['look']:6.2f}{row['row']:5.2f}"
            f"{'' if row['ratio'] >= GOAL else f'   below the goal, {GOAL}'}", flush=True
        )  # fmt: skip
    if args.json:
        write_json(args.json, {"environment": environment(), "keys": args.keys, "goal": GOAL, "cases": rows})


if __name__ == "__main__":
    main()
