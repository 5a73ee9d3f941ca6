"""Several processes here, measured; 8 to 1,024 GPUs, simulated; and how far the simulation is to be trusted.

    python -m dira_scale.bench scaling [--out out/scaling] [--processes 1 2 4] [--experiment dira_moco]

Measured: `pretrain` itself (DiRA-MoCo, ResNet-18, 64 pixels, phantoms, gloo) with the same work for every process. As
processes share this machine's cores, a run of W together is compared with W runs apart that start at the same moment:
what is left between the two is the price of being one job. The plain ratio to one process stands beside it.

Simulated: the step of dira_scale.planning (arithmetic, rings and trees, what is hidden, the slowest of W), fed with
what was measured here (arithmetic apart, its jitter, gloo's bandwidth and latency); then others' published figures;
then the GPUs that `python -m dira_scale.plan` describes, with the jitter that torchtitan's 97 % implies, failures and
checkpoints. Every row says which it is. OUT/scaling.json has all figures, OUT/scaling.png the curves.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from dira_scale.config import compose
from dira_scale.planning.cluster import Cluster
from dira_scale.planning.goodput import Failures
from dira_scale.planning.ledger import Collective
from dira_scale.planning.network import Networks, one_rank_of
from dira_scale.planning.rehearsal import Rehearsal, rehearse
from dira_scale.planning.scaling import PUBLISHED, Job
from dira_scale.planning.strategies import BUCKET
from dira_scale.shard import main as shard
from dira_scale.train.run import environment
from dira_scale.train.step import Step

IMAGES = 16  # of a process here
WARM = 3  # steps not counted
BYTES = (1024, 32 * 2**20)  # of the all-reduces that measure gloo
SECONDS = 900  # bound on every wait
GPUS = tuple(2**i for i in range(3, 11))
STAGE = "dira"


# ---------------------------------------------------------------------- measured: processes of this machine


@dataclass(frozen=True)
class Measured:
    """Seconds of a step of ``processes``: as one job, and as so many jobs beside each other."""

    processes: int
    together: float
    apart: float
    jitter: float  # of the runs apart, as a share of their step

    @property
    def efficiency(self) -> float:
        """1 where being one job costs nothing."""
        return self.apart / self.together


def keys(processes: int) -> list[str]:
    """Of the measured run: every process has one BatchNorm group of IMAGES images."""
    batch = [f"data.batch={IMAGES * processes}", f"model.bn_groups={processes}", "data.remainder=wrap"]
    stages = ["stages.di.epochs=0", "stages.dir.epochs=0", f"stages.{STAGE}.epochs=10000"]
    once = ["parallel.threads=1", "data.workers=1", "data.val_split=null", "checkpoint.every=100000", "log_every=1"]
    return ["experiment=small", "precision=fp32", *batch, *stages, *once]


def measure(processes: int, steps: int, shards: Path, out: Path) -> Measured:
    rest = [f"data.shards={shards}", f"steps={steps}"]
    together = [f"run={out}/runs/together{processes}", *keys(processes), *rest]
    run([torchrun(processes, "pretrain", *together)], out, processes)
    alone = [[f"run={out}/runs/apart{processes}.{i}", *keys(1), *rest] for i in range(processes)]
    run([[sys.executable, "-m", "benchmarks.scaling", "pretrain", *own] for own in alone], out, processes)
    apart = [statistics.median(times(Path(own[0].removeprefix("run=")))) for own in alone]
    spread = [deviation(times(Path(own[0].removeprefix("run=")))) for own in alone]
    seconds = statistics.median(times(out / f"runs/together{processes}"))
    return Measured(processes, seconds, statistics.fmean(apart), statistics.fmean(spread))


def times(folder: Path) -> list[float]:
    """Seconds of each step of a run that is not warming up."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["time/step"] + row.get("time/data", 0.0) for row in rows if row["split"] == "train"][WARM:]


def deviation(values: Sequence[float]) -> float:
    """Standard deviation as a share of the median, by the median of absolute deviations: few steps, some disturbed."""
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - middle) for value in values) / middle


def torchrun(processes: int, *words: str) -> list[str]:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [sys.executable, "-m", *launcher, "-m", "benchmarks.scaling", *words]


def run(commands: Sequence[list[str]], out: Path, processes: int) -> None:
    """Run commands beside each other; their first steps wait for one another (:func:`pretrain`)."""
    gate = out / f"gate{time.time_ns()}"
    gate.mkdir(parents=True)
    own = os.environ | {"SCALING_GATE": str(gate), "SCALING_PROCESSES": str(processes), "OMP_NUM_THREADS": "1"}
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    started = []
    try:
        for i, command in enumerate(commands):
            log = (gate / f"{i}.log").open("w")
            started.append(
                subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=own, start_new_session=True)
            )
        codes = [process.wait(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    for i, code in enumerate(codes):
        if code:
            raise SystemExit(f"{' '.join(commands[i])}: exit code {code}\n{(gate / f'{i}.log').read_text()[-2000:]}")


def pretrain(arguments: list[str]) -> int:
    """The verb, its first step taken when all processes have come to theirs."""
    from dira_scale.pretrain import main as verb

    gate, processes, take = Path(os.environ["SCALING_GATE"]), int(os.environ["SCALING_PROCESSES"]), Step.__call__

    def wait(self: Any, step: int, batch: Any) -> None:
        (gate / f"ready{os.getpid()}").touch()
        end = time.monotonic() + SECONDS
        while len(list(gate.glob("ready*"))) < processes and time.monotonic() < end:
            time.sleep(0.01)
        take(self, step, batch)

    Step.__call__ = wait  # type: ignore[method-assign]
    return verb(arguments)


def link(arguments: list[str]) -> int:
    """Seconds of all-reduces over gloo, written by rank 0 to the file that is named."""
    dist.init_process_group("gloo")
    found = []
    for size in BYTES:
        x, taken = torch.zeros(size // 4), []
        for _ in range(12):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(x)
            taken.append(time.perf_counter() - began)
        found.append(statistics.median(taken[2:]))
    if dist.get_rank() == 0:
        Path(arguments[0]).write_text(json.dumps(found))
    dist.destroy_process_group()
    return 0


def gloo(processes: int, out: Path) -> Cluster:
    """This machine as a cluster of one node, from two sizes of all-reduce."""
    file = out / f"link{processes}.json"
    run([torchrun(processes, "link", str(file))], out, processes)
    small, large = json.loads(file.read_text())
    latency = small / (2 * (processes - 1))
    sent = 2 * (processes - 1) / processes * (BYTES[1] - BYTES[0])
    speed = sent / max(large - small, 1e-9)
    return Cluster(per_node=processes, within=speed, between=speed, latency=latency)


# ---------------------------------------------------------------------- simulated


def step_of(arguments: Sequence[str], processes: int, images: int) -> Rehearsal:
    """The step of a configuration, gone through as one of many ranks."""
    cfg = compose("plan", list(arguments))
    config: Any = OmegaConf.to_object(cfg)
    with one_rank_of(processes):
        return rehearse(config, Networks(config, cfg), config.stages[STAGE], images)


def here(found: Measured, cluster: Cluster) -> float:
    """Seconds of the step that was measured, simulated from the runs apart and from gloo's all-reduce."""
    step = step_of(keys(found.processes), found.processes, IMAGES)
    return replace(
        Job(cluster, compute=found.apart, reduced=step.trained, messages=max(1, round(step.trained / BUCKET))),
        own=lambda ranks: step.collectives,
        forward=step.forward / (step.forward + step.backward),
        jitter=found.jitter,
    ).seconds(found.processes)


def gpus(experiment: str, keys: Sequence[str], images: int, jitter: float) -> tuple[Job, dict[str, Any]]:
    """The job of ``experiment`` on the machine of configs/plan.yaml, ``images`` and one BatchNorm group a GPU."""

    def arguments(ranks: int) -> list[str]:
        return [f"experiment={experiment}", f"data.batch={images * ranks}", f"model.bn_groups={ranks}", *keys]

    few, more = (step_of(arguments(ranks), ranks, images) for ranks in (8, 16))
    machine = {**compose("plan", arguments(8)).plan, "gpus": 8}

    def own(ranks: int) -> list[Collective]:
        """What is gathered grows with the global batch, what is averaged does not: a line through two jobs."""
        pairs = zip(few.collectives, more.collectives, strict=True)
        sizes = [(a.kind, a.size + (b.size - a.size) * (ranks - 8) / 8) for a, b in pairs]
        return [Collective(kind, round(size), ranks) for kind, size in sizes]

    job = Job(
        Cluster(8, machine["within"] * 1e9, machine["between"] * 1e9, machine["latency"]),
        compute=(few.forward + few.backward) / (machine["tflops"] * 1e12),
        reduced=few.trained,
        messages=max(1, round(few.trained / BUCKET)),
        own=own,
        forward=few.forward / (few.forward + few.backward),
        jitter=jitter,
    )
    return job, machine


# ---------------------------------------------------------------------- told


def tell(console: Console, title: str, head: str, rows: Sequence[Sequence[str]]) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, header_style="dim", padding=(0, 2, 0, 0)
    )
    for i, name in enumerate(head.split(",")):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def draw(path: Path, result: dict[str, Any]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    simulated, measured = result["simulated_gpus"], result["measured"]
    ranks = [row["gpus"] for row in simulated]
    left.plot(ranks, [100 * row["efficiency"] for row in simulated], "-", label="simulated: GPUs of configs/plan.yaml")
    first = min(measured, key=lambda row: row["processes"])["processes"] if measured else 1
    left.plot(
        [r["processes"] for r in measured], [100 * r["efficiency"] for r in measured], "ko", label="measured here"
    )
    for published in result["published"]:
        (point,) = left.plot(published["many"], 100 * published["efficiency"], "^", ms=7, mfc="none")
        left.plot(published["many"], 100 * published["simulated"], "x", ms=7, color=point.get_color())
    left.plot([], [], "k^", mfc="none", label="published")
    left.plot([], [], "kx", label="published, simulated")
    left.set(xscale="log", xlabel="GPUs or processes", ylabel="efficiency (%)", ylim=(0, 104))
    left.set_xticks([first, 2, 4, *ranks], [str(n) for n in [first, 2, 4, *ranks]], fontsize=8)
    left.minorticks_off()
    left.legend(loc="lower left", fontsize=8)
    right.plot(ranks, [100 * row["goodput"] for row in simulated], "-", label="goodput, best interval (simulated)")
    right.set(xscale="log", xlabel="GPUs", ylabel="goodput (%)", ylim=(None, 100.2))
    right.set_xticks(ranks, [str(n) for n in ranks], fontsize=8)
    right.minorticks_off()
    other = right.twinx()
    other.plot(ranks, [row["interval"] / 60 for row in simulated], "--", color="tab:orange")
    other.set(ylabel="best checkpoint interval (minutes, dashed)", ylim=(0, None))
    right.legend(loc="upper center", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def study(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    out: Path = arguments.out
    shards, cores = out / "shards", len(os.sched_getaffinity(0))
    made = shard(
        ["recipe=phantom_cxr", f"+recipe.folder={out}/dicom", "recipe.patients=8", "recipe.size=128", f"out={shards}",
         "recipe.splits={train: 1, val: 0, test: 0}"]
    )  # fmt: skip
    assert made == 0
    measured = []
    for processes in arguments.processes:
        console.print(f"{processes} process(es), as one job and apart …", style="dim")
        measured.append(measure(processes, arguments.steps, shards, out))
    one = next((m for m in measured if m.processes == 1), None)
    calibrated = {m.processes: here(m, gloo(m.processes, out)) for m in measured if m.processes > 1}
    busy = os.getloadavg()[0]
    rows = []
    for m in measured:
        ratio = f"{m.processes * one.together / m.together:.2f}" if one else "–"
        rows.append(
            (
                "measured",
                str(m.processes),
                f"{1000 * m.apart:.0f}",
                f"{1000 * m.together:.0f}",
                ratio,
                percent(m.efficiency),
            )
        )
        if m.processes in calibrated:
            seconds = calibrated[m.processes]
            error = f"{100 * (seconds / m.together - 1):+.0f} %"
            rows.append(
                ("simulated", str(m.processes), "", f"{1000 * seconds:.0f} ({error})", "", percent(m.apart / seconds))
            )
    head = "row,processes,ms apart,ms together,speed-up,efficiency"
    tell(console, f"This machine: {cores} cores (load {busy:.0f}), gloo; ms of a step", head, rows)

    jitter = PUBLISHED[0].jitter()
    published = [
        {"what": p.what, "few": p.few, "many": p.many, "efficiency": p.efficiency, "simulated": p.simulated(jitter)}
        for p in PUBLISHED
    ]
    table = [(p.what, f"{p.few} → {p.many}", percent(p.efficiency), percent(p.simulated(jitter))) for p in PUBLISHED]
    title = f"Published measurements; simulated with a jitter of {percent(jitter)}, fitted to the first"
    tell(console, title, "measured by,GPUs,published,simulated", table)

    job, machine = gpus(arguments.experiment, arguments.keys, arguments.images, jitter)
    simulated = [simulate(job, ranks, arguments) for ranks in GPUS]
    told = [
        (
            "simulated",
            str(found["gpus"]),
            f"{1000 * found['step']:.1f}",
            f"{found['images_per_second']:,.0f}",
            percent(found["efficiency"]),
            percent(found["efficiency_without_own"]),
            f"{found['mtbf'] / 3600:,.0f} h",
            f"{found['interval'] / 60:.0f} min",
            f"{found['young'] / 60:.0f} min",
            f"{100 * found['goodput']:.2f} %",
        )
        for found in simulated
    ]
    head = "row,GPUs,ms/step,images/s,efficiency,without keys,MTBF,save every,Young,goodput"
    title = f"{arguments.experiment}, {arguments.images} images a GPU, nodes of 8 (configs/plan.yaml)"
    tell(console, title, head, told)
    console.print(
        "'without keys': without what the method itself gathers and averages (MoCo with several BatchNorm groups "
        f"shuffles the images of all GPUs).\nFailures: a GPU once in {arguments.mtbf:,.0f} h (Llama 3: 419 in 54 days "
        f"of 16,384), {arguments.restart:.0f} s to restart, {arguments.save:g} s still for a checkpoint. No loader is "
        "late.",
        style="dim",
        highlight=False,
    )
    return {
        "environment": environment() | {"cores": cores, "load": busy},
        "measured": [asdict(m) | {"efficiency": m.efficiency} for m in measured],
        "simulated_here": calibrated,
        "published": published,
        "jitter": jitter,
        "machine": machine,
        "simulated_gpus": simulated,
    }


def simulate(job: Job, ranks: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Figures of one number of GPUs."""
    without = replace(job, own=lambda _: ())
    failures = Failures.of(ranks, arguments.mtbf, arguments.save, arguments.restart)
    interval = failures.best_interval()
    return {
        "gpus": ranks,
        "step": job.seconds(ranks),
        "images_per_second": arguments.images * ranks / job.seconds(ranks),
        "efficiency": job.efficiency(1, ranks),
        "efficiency_without_own": without.efficiency(1, ranks),
        "mtbf": failures.mtbf,
        "interval": interval,
        "young": failures.young(),
        "goodput": failures.goodput(interval),
    }


def main() -> None:
    workers: dict[str, Callable[[list[str]], int]] = {"pretrain": pretrain, "link": link}
    if len(sys.argv) > 1 and sys.argv[1] in workers:  # one of the processes that this benchmark starts
        raise SystemExit(workers[sys.argv[1]](sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/scaling"))
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2, 4], help="measured here; none: only simulate"
    )
    parser.add_argument("--steps", type=int, default=20, help="of each measured run")
    parser.add_argument("--experiment", default="dira_moco", help="simulated on GPUs")
    parser.add_argument(
        "--keys", nargs="*", default=[], help="of plan: plan.between=180 plan.tflops=120 model.encoder=…"
    )
    parser.add_argument("--images", type=int, default=64, help="of a GPU (the paper's)")
    parser.add_argument("--save", type=float, default=2.0, help="seconds that training stands still for a checkpoint")
    parser.add_argument("--restart", type=float, default=300.0, help="seconds from a failure to the next step")
    parser.add_argument("--mtbf", type=float, default=50_000.0, help="hours between two failures of one GPU")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    result = study(arguments, console if console.is_terminal else Console(width=110))
    (arguments.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(arguments.out / "scaling.png", result)
    console.print(f"\n{arguments.out}/scaling.json and scaling.png", markup=False, highlight=False)


if __name__ == "__main__":
    main()
