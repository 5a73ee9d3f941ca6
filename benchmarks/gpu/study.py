"""A study of the size that minutes of a GPU allow: MoCo-v2 and DiRA on it beside random weights, two seeds each, at 128
pixels on the train parts of three public sets of radiographs.

    python -m benchmarks.gpu.study DATA [FOLDER]       beforehand, on a CPU: 20 MB of shards in FOLDER/shards
    python -m dira_scale.bench gpu --parts study       on the GPU; the same command goes on where it was cut off

FOLDER is $DIRA_SCALE_STUDY, or out/study. As slurm/sweep/dira2d_small.yaml, whose question it asks again, but for size,
batch and epochs: short runs measure how many fit, which FOLDER/runs/choice.json keeps. Everything is an ordinary run
there. study.md, beside gpu.json, has what has ended so far.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu import bounded, items
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.study_commands import SETS, STAGES, Commands, Words, folder, shard
from benchmarks.gpu.study_table import ended, scores, table
from dira_scale.base.storage.atomic import write_atomic, write_json
from dira_scale.train.runs.exit_codes import DONE, INTERRUPTED

SHORT = 6  # epochs of the runs that measure
AFTER, SPARE, STOPPING = 150.0, 0.9, 15.0  # seconds after pretraining; share of those for it that is planned; to stop


def start(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """A command in a process of its own."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", f"dira_scale.{words[0]}", *words[1:]]
        return subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})


def together(commands: Words, job: Job, end: float, each: Callable[[], None]) -> list[str]:
    """Run them, nearly as many at once as there are cores, until ``end``; ``each`` is called whenever one has ended.

    Return the names of those that failed; those that were stopped go on when they are called again.
    """
    waiting, running, failed = list(commands), dict[str, subprocess.Popen[bytes]](), list[str]()
    try:
        while (waiting or running) and time.perf_counter() < end:
            while waiting and len(running) < max(2, (os.cpu_count() or 1) - 2):
                name = waiting.pop(0)
                running[name] = start(commands[name], job.logs / f"{job.part}-{name}.log")
            time.sleep(0.1)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                failed += [name] * (running.pop(name).poll() not in (DONE, INTERRUPTED))
                each()
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)  # training writes a checkpoint
        until = time.perf_counter() + STOPPING
        for process in running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.perf_counter()))
            if process.poll() is None:
                bounded.end(process.pid)
    return failed


def choose(commands: Commands, job: Job, end: float) -> dict[str, float]:
    """How many epochs fit until ``end``, or what another call has chosen.

    Short runs of all at once, of the same shape, tell the seconds of the slowest's epoch, and of all else. Raises
    RuntimeError where they have not ended.
    """
    from dira_scale.dataset.manifest import ShardedDataset  # needs pyarrow

    file, runs = commands.runs / "choice.json", commands.runs / "measured"
    if file.exists():
        return dict(json.loads(file.read_text()))
    shutil.rmtree(runs, ignore_errors=True)  # what was cut off tells no seconds
    images = sum(len(ShardedDataset.open(commands.shards / recipe).rows("train")) for recipe in SETS)
    short = 3 / (images // commands.batch) if job.rehearse else SHORT  # three steps
    measured, began = commands.pretraining(short, runs), time.perf_counter()
    together(measured, job, end, lambda: None)
    if lacking := [name for name in measured if not ended(runs / name)]:
        raise RuntimeError(f"{', '.join(lacking)}: not measured, see the logs")
    epoch = max(images * seconds_an_image(runs / name) for name in measured)
    rest = time.perf_counter() - began - short * epoch
    fit = short if job.rehearse else max(SHORT, int(SPARE * (end - time.perf_counter() - rest) / epoch))
    choice = {
        "epochs": fit,
        "seconds an epoch": epoch,
        "other seconds": rest,
        "images": images,
        "batch": commands.batch,
    }
    write_json(file, choice)
    return choice


def seconds_an_image(run: Path) -> float:
    """Of training, in the mean over its stages by their epochs. The first steps of each are slow: medians."""
    from dira_scale.train.runs.reader import RunReader

    reader, rates = RunReader(run), defaultdict[str, list[float]](list)
    for row in reader.rows():
        if row["split"] == "train":
            rates[row["stage"]].append(row[reader.description.rate])
    return sum(STAGES[run.name.partition("-")[0]][stage] / 24 / median(each) for stage, each in rates.items())


def study(job: Job) -> dict[str, Any]:
    """All of it, as far as there is time."""
    from dira_scale.probe import comparison  # noqa: F401  # needs pyarrow, scikit-learn, OpenCV: none is carried

    end, root = time.perf_counter() + job.seconds - 2 * STOPPING, folder()
    if lacking := [recipe for recipe in SETS if not (root / "shards" / recipe / "manifest.parquet").exists()]:
        command = f"python -m benchmarks.gpu.study DATA {root}"
        return {"left_out": f"no {lacking[0]} in {root / 'shards'}: {command} beforehand, or DIRA_SCALE_STUDY=FOLDER"}
    commands, planned = Commands(root, job.rehearse), end - min(AFTER, 0.4 * job.seconds)
    commands.runs.mkdir(exist_ok=True)
    choice = choose(commands, job, planned)
    about = ", ".join(f"{value:.4g} {name}" for name, value in choice.items())
    print(about, flush=True)

    def left(words: Iterable[str]) -> list[str]:
        return [name for name in words if not ended(commands.runs / name)]

    def write() -> None:
        write_atomic(job.report.file.with_name("study.md"), f"{about}\n\n{table(scores(commands.runs))}")

    def go_on(words: Words, until: float) -> list[str]:
        return together({name: words[name] for name in left(words)}, job, until, write)

    trained = commands.pretraining(choice["epochs"], commands.runs)
    failed = go_on(trained, (planned + end) / 2)  # it may take longer than planned
    judging = commands.judging([name for name in trained if name not in left(trained)])
    failed += go_on(judging, end)
    write()
    print(table(scores(commands.runs)), flush=True)
    for file in (*commands.runs.glob("*/*.json"), *commands.runs.glob("*/metrics.jsonl")):  # more than the table has
        shutil.copy(file, job.logs / f"{job.part}-{file.parent.name}-{file.name}")
    waiting = left([*trained, *judging])
    figures = {name: figure(value, "") for name, value in choice.items()}
    figures["runs for another call"] = figure(len(waiting), "", note=", ".join(waiting))
    return {"figures": figures} | ({"failed": f"{', '.join(failed)}: see the logs"} if failed else {})


def run(job: Job) -> bool:
    """The study; whether nothing in it failed."""
    return items.run(job, {"study": partial(study, job)})


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    sys.exit(shard(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else folder()))
