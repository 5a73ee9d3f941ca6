"""Runs that are killed, stopped, starved of space and robbed of their checkpoints: real processes, real faults."""

import hashlib
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest
import torch
from forked import Forked
from harness import (
    EACH,
    assert_equal_runs,
    assert_moved_alike,
    error_lines,
    finish,
    job,
    losses,
    pretrain,
    rows,
    status,
    weights,
)
from system.faults import SECONDS, Job, cut, flip, killed_at, small_disk

from dira_scale.train.runs import checkpoint

# What the writing of a checkpoint does, in this order: a kill comes before the COUNTth of each.
WRITING = [
    "os.mkdir:.tmp", "os.rename:.safetensors", "os.rename:/index.json", "os.rename:/00000000{step}",
    "os.rename:/LATEST", "os.rename:/BEST-di",
]  # fmt: skip


def test_a_run_killed_three_times_while_saving_goes_on_to_the_same_weights(
    unbroken: Path, shards: Path, tmp_path: Path
) -> None:
    """With a part written under no name yet; with all parts and the index; with a checkpoint that LATEST lacks."""
    run, reached = tmp_path / "run", []
    for moment in ("os.rename:.safetensors:2", "os.rename:/000000003:1", "os.rename:/LATEST:2"):
        command, environment = killed_at(pretrain(run, shards, *EACH), moment)
        with Job(command, run, **environment) as job:
            assert job.end() == -signal.SIGKILL, job.printed
        assert status(run)["state"] == "running"
        reached.append(len(checkpoint.complete(run / "checkpoints")))
    assert reached == [1, 2, 4]
    finish(pretrain(run, shards, *EACH))
    assert not list((run / "checkpoints").glob("*.tmp"))
    assert_equal_runs(run, unbroken)


@pytest.mark.torture
@pytest.mark.timeout(3 * 3600)
def test_fifty_kills_at_random_moments(unbroken: Path, shards: Path, tmp_path: Path) -> None:
    generator, run, kills = random.Random(0), tmp_path / "run", 0
    command = pretrain(run, shards, *EACH)
    while kills < 50:
        if generator.random() < 0.5:
            moment = generator.choice(WRITING).format(step=generator.randint(1, 6)) + f":{generator.randint(1, 3)}"
            inside, environment = killed_at(command, moment)
            with Job(inside, run, **environment) as job:
                killed = job.end() == -signal.SIGKILL
        else:
            with Job(command, run) as job:
                killed = not job.ends_within(generator.uniform(3, 25))
                job.kill()
        kills += killed
        if not killed:  # it got to the end: that is to be right, and then from the start again
            assert_equal_runs(run, unbroken)
            shutil.rmtree(run)
    finish(command)
    assert_equal_runs(run, unbroken)


def test_when_one_process_is_killed_the_others_end_and_say_so_once(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Job(pretrain(run, shards, *EACH, "epoch_factor=50", ranks=2), run) as job:
        job.wait_until((run / "checkpoints" / "LATEST").exists)
        job.rank(1).kill()
        assert job.end() != 0
        reported = error_lines(job.printed)
        assert len(reported) == 1 and "lost the other processes" in reported[0], job.printed
        assert job.processes() == []
    assert status(run)["state"] == "failed" and "lost the other processes" in status(run)["reason"]
    dict(checkpoint.load(checkpoint.latest(run))[0])


@pytest.mark.system
def test_under_elastic_launch_training_goes_on_by_itself(unbroken_pair: Path, shards: Path, tmp_path: Path) -> None:
    """The main process dies while it writes its part of a checkpoint; of another one: test_nodes.py."""
    run = tmp_path / "run"
    moment = "os.rename:000000005.1.tmp/part-1-00000-of-00002.safetensors:1"
    command, environment = killed_at(pretrain(run, shards, *EACH, ranks=2), moment)
    command.insert(command.index("--standalone"), "--max-restarts=1")
    with Job(command, run, **environment) as job:
        assert job.end() == 0, job.printed
        assert "from step 4 of 6" in job.printed
    assert status(run)["lease"] == 2
    assert_equal_runs(run, unbroken_pair)


@pytest.mark.parametrize(
    "name",
    ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.system), pytest.param("SIGUSR2", marks=pytest.mark.torture)],
)
def test_a_signal_writes_a_checkpoint_says_so_and_ends_with_75(
    unbroken: Path, shards: Path, tmp_path: Path, name: str
) -> None:
    run, command = tmp_path / "run", pretrain(tmp_path / "run", shards, *EACH, "checkpoint.every=1000")
    # At the end of the second step: after the start, where it begins, and three rows, of which its own is the last.
    # Noticed in the third step, in the midst of a stage.
    signalled, environment = killed_at(command, "os.rename:/status.json:5", by=signal.Signals[name])
    with Job(signalled, run, **environment) as job:
        assert job.end() == 75, job.printed
    ended = status(run)
    assert (ended["state"], ended["exit_code"], ended["step"]) == ("interrupted", 75, 3)
    assert f"{name}: checkpoint written at step 3" in job.printed
    assert checkpoint.latest(run).name == "000000003"
    finish(command)
    assert_equal_runs(run, unbroken)


@pytest.mark.system
def test_a_signal_to_a_launcher_stops_both_processes_at_the_same_step(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Job(pretrain(run, shards, *EACH, "epoch_factor=50", ranks=2), run, fresh=True) as job:
        job.rows(2)
        psutil.Process(job.process.pid).terminate()
        job.end()
    assert status(run)["state"] == "interrupted"
    assert checkpoint.latest(run).name == f"{status(run)['step']:09d}"


@pytest.mark.system
def test_of_two_processes_both_take_one_more_step_after_a_signal_to_one_and_resume_to_the_same_weights(
    unbroken_pair: Path, shards: Path, tmp_path: Path
) -> None:
    run, command = tmp_path / "run", pretrain(tmp_path / "run", shards, *EACH, "checkpoint.every=1000", ranks=2)
    # Only the main process writes the status: noticed in the third step of six, see above.
    signalled, environment = killed_at(command, "os.rename:/status.json:5", by=signal.SIGTERM)
    with Job(signalled, run, **environment) as job:
        assert job.end() == 75, job.printed
    assert "SIGTERM: finishing this step and at most one more, then a checkpoint" in job.printed
    assert "SIGTERM: checkpoint written at step 4" in job.printed and status(run)["step"] == 4
    finish(command)
    assert_equal_runs(run, unbroken_pair)


# From the end of the first step on the watchdog waits a fifth as long: before, slow machines take their time to start.
SOON = """
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.engine.step import Step
from dira_scale.train.engine.watchdog import Watchdog

TIMINGS.linger, enter, take, dogs = 5, Watchdog.__enter__, Step.__call__, []

def entered(self):
    dogs.append(self)
    return enter(self)

def taken(self, step, batch):
    if step == 2:
        dogs[0].seconds /= 5
    take(self, step, batch)

Watchdog.__enter__, Step.__call__ = entered, taken
"""
# DiRA whose rank 1 never comes out of its third step, or asks another question there, on which all wait for 5 s.
STUCK = """
import time
from datetime import timedelta
import torch.distributed as dist
from dira_scale.train.distributed.collectives import rank
from dira_scale.train.methods.dira import DiRA

def waiting_for_godot():
    time.sleep(3600)

class Stuck(DiRA):
    def forward(self, clean, distorted, batch):
        if batch.step == 2 and rank() == 1:
            waiting_for_godot()
        return super().forward(clean, distorted, batch)

class Extra(DiRA):
    def forward(self, clean, distorted, batch):
        if batch.step == 2:
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=5), dist.group.WORLD)
            dist.all_reduce(clean[0].new_zeros(99)) if rank() == 1 else dist.barrier()
        return super().forward(clean, distorted, batch)
"""


@pytest.mark.system
def test_when_one_rank_hangs_all_write_their_stacks_and_end(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (tmp_path / "stuck.py").write_text(SOON + STUCK)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = pretrain(run, shards, *EACH, "method._target_=stuck.Stuck", "watchdog=40", ranks=2)
    with Job(command, run, fresh=True, PYTHONPATH=path) as job:  # their launcher ends all with the first
        assert job.end() != 0
    assert job.printed.count("no step for 8 s (watchdog=8)") == 1, job.printed
    stacks = {name: (run / "stacks" / f"rank-{name}.txt").read_text() for name in (0, 1)}
    assert "waiting_for_godot" in stacks[1] and "waiting_for_godot" not in stacks[0]
    assert all("Current thread" in text and text.count("Thread 0x") >= 1 for text in stacks.values())
    log = (run / "log.txt").read_text()
    assert "no step for 8 s" in log
    [line] = [line for line in job.printed.splitlines() if "the processes part" in line]
    assert line in log and line.startswith("pretrain: the processes part in step 3 at collective ")
    assert "of group 0 default_pg: rank 0 called gloo:" in line and "; rank 1 called nothing" in line
    assert "\nstep 3: gloo:" in stacks[0] and stacks[0].endswith("of group 0 default_pg *\n")


@pytest.mark.system
def test_when_gloo_has_waited_too_long_the_first_collective_that_differs_is_named(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (tmp_path / "stuck.py").write_text(STUCK)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = pretrain(run, shards, *EACH, "method._target_=stuck.Extra", ranks=2)
    with Job(command, run, PYTHONPATH=path) as job:
        assert job.end() == 1
    [line] = [line for line in job.printed.splitlines() if "lost the other processes" in line]
    told = "; the processes part in step 3 at collective "
    assert told in line and "rank 0 called gloo:barrier; rank 1 called gloo:all_reduce Float[99])" in line
    assert told in status(run)["reason"]


@pytest.mark.system
def test_when_one_rank_is_stopped_the_others_name_it_and_end(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["epoch_factor=50", "watchdog=40", "data.batch=12", "method.base.queue=60", "model.bn_groups=3"]
    with Job(pretrain(run, shards, *EACH, *settings, ranks=3), run, before=SOON) as job:
        job.rows(3)
        job.rank(1).suspend()
        job.wait_until(lambda: len(job.process.alive()) == 1)
        assert isinstance(job.process, Forked)
        assert job.process.codes() == [1, None, 1]
    [reported] = [line for line in job.printed.splitlines() if "no step for 8 s" in line]
    assert "nothing yet from rank 1" in reported
    assert sorted(path.name for path in (run / "stacks").glob("*.txt")) == ["rank-0.txt", "rank-2.txt"]


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(100))
def test_two_sharded_processes_beside_a_busy_one_never_stand_still(number: int, shards: Path, tmp_path: Path) -> None:
    """If they do, the watchdog ends them, and what is printed has the first collective that differs."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "dira_scale.pretrain", "experiment=small_dinov2", "parallel=fsdp2", f"data.shards={shards}"]
    command += [f"run={run}", "steps=60", "data.batch=8", "data.workers=1", "parallel.threads=1", "watchdog=240"]
    with job([sys.executable, "-c", "while True: pass"]):
        finish(command, seconds=3000)
    assert status(run)["step"] == 60


def test_damaged_checkpoints_are_passed_over_on_the_way_to_the_same_weights(
    unbroken: Path, shards: Path, tmp_path: Path
) -> None:
    """The newest is cut short, a bit of the one before is another, so is one in the index of the third."""
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    parts = {step: run / "checkpoints" / f"{step:09d}" for step in range(1, 7)}
    cut(next(parts[6].glob("*.safetensors")))
    part = next(parts[5].glob("*.safetensors"))
    flip(part, part.stat().st_size // 2)
    index = parts[4] / "index.json"
    flip(index, index.read_bytes().index(b'"stage_start": ') + len('"stage_start": '))
    finish(pretrain(run, shards, *EACH))
    log = (run / "log.txt").read_text()
    for step, file in ((6, ".safetensors: cut short"), (5, ".safetensors: cut short or changed"), (4, "index.json")):
        assert f"refused {step:09d}: {parts[step]}" in log and file in log
    assert {path.name for path in (run / "checkpoints").glob("*.damaged")} == {f"{s:09d}.damaged" for s in (4, 5, 6)}
    assert_equal_runs(run, unbroken)


def test_a_full_disk_ends_no_run(unbroken: Path, shards: Path, tmp_path: Path) -> None:
    """All of the run folder lies on it. Checkpoints are missed with a warning, rows and status come later."""
    with small_disk(tmp_path / "disk", 512) as disk:
        run = disk.folder / "run"
        with Job(pretrain(run, shards, *EACH, "log_every=1"), run) as job:
            job.rows(1)
            job.wait_until(lambda: (run / "checkpoints" / "LATEST").exists())
            job.process.send_signal(signal.SIGSTOP)  # the rest of the run is not over before the disk is full
            disk.fill(job)
            job.process.send_signal(signal.SIGCONT)
            job.wait_until(lambda: "could not be written" in job.printed)
            last_good = checkpoint.latest(run)
            dict(checkpoint.load(last_good)[0])
            job.process.send_signal(signal.SIGSTOP)
            disk.free(job)
            job.process.send_signal(signal.SIGCONT)
            assert job.end() == 0, job.printed
        warned = "could not be written ([Errno"
        assert any(warned in text for row in rows(run) for text in row.get("warnings", []))
        assert warned in (run / "log.txt").read_text() and warned in job.printed
        assert status(run)["state"] == "done" and [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]
        assert not list((run / "checkpoints").glob("*.tmp")) and not list(run.glob(".*.tmp"))
        assert_equal_runs(run, unbroken)


@pytest.mark.system
def test_a_disk_that_stays_full_ends_the_run_with_what_it_lacks(unbroken: Path, shards: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 512) as disk:
        run = disk.folder / "run"
        with Job(pretrain(run, shards, *EACH), run) as job:
            job.rows(1)
            job.wait_until(lambda: (run / "checkpoints" / "LATEST").exists())
            job.process.send_signal(signal.SIGSTOP)  # the rest of the run is not over before the disk is full
            disk.fill(job)
            job.process.send_signal(signal.SIGCONT)
            for _ in range(SECONDS):
                disk.fill(job)  # again: what was written half is removed, which makes room
                if job.ends_within(1):
                    break
            assert job.end() == 1, job.printed
            reported = error_lines(job.printed)
            assert len(reported) == 1, job.printed
            assert "of step 6 could not be written" in reported[0] and "Free some space" in reported[0]
            disk.free(job)
        finish(pretrain(run, shards, *EACH))
        assert_equal_runs(run, unbroken)


# A process that stops itself when the second stage begins: then it is not about to write, its checkpoint is complete.
STOPS = """
import os, signal
from dira_scale.train.engine.step import Step
take = Step.__call__
def stops(self, step, batch):
    if step == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    take(self, step, batch)
Step.__call__ = stops
"""


@pytest.mark.system
def test_a_ghost_writes_nothing(unbroken: Path, shards: Path, tmp_path: Path) -> None:
    """Stopped for so long that another takes the run over and finishes it, then it continues."""
    run = tmp_path / "run"
    soon = "from dira_scale.train.distributed.timings import TIMINGS; TIMINGS.beat, TIMINGS.dead_after = 0.2, 4"
    with Job(pretrain(run, shards, *EACH), run, before=soon + STOPS) as ghost:
        ghost.wait_until(lambda: any(process.status() == psutil.STATUS_STOPPED for process in ghost.processes()))
        finish(pretrain(run, shards, *EACH), before=soon)  # waits until the beat has stood still
        before = contents(run)
        ghost.process.send_signal(signal.SIGCONT)
        assert ghost.end() == 1
    assert "was taken over by another process (lease 2); this one (lease 1) stops" in ghost.printed
    assert contents(run) == before
    assert_equal_runs(run, unbroken)


def contents(run: Path) -> dict[str, str]:
    """Every file by its hash, but the ghost's own: its lease, its curves, what it has not renamed yet."""
    left_out = {run / "leases" / "000001.json", min((run / "tensorboard").iterdir(), key=lambda p: p.name)}
    files = (path for path in run.rglob("*") if path.is_file() and path not in left_out and path.suffix != ".tmp")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# DiRA that notes which images each rank had at each step.
NOTING = """
import os
from dira_scale.train.distributed.collectives import rank
from dira_scale.train.methods.dira import DiRA

class Noting(DiRA):
    def forward(self, clean, distorted, batch):
        if self.training:
            with open(os.environ["SEEN"], "a") as seen:
                for image in batch.index.tolist():
                    seen.write(f"{batch.step} {image}{os.linesep}")
        return super().forward(clean, distorted, batch)
"""


@pytest.mark.torture
def test_a_run_that_goes_on_with_4_2_3_and_1_processes_sees_the_same_and_learns_the_same(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At rates at which rounding does not grow; Batch normalization over all images, for over pairs, the most that 4, 2
    and 3 divide, it grows tenfold a step."""
    (tmp_path / "noting.py").write_text(NOTING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    settings = [
        "model.encoder=test_resnet", "method._target_=noting.Noting", "data.batch=24", "method.base.queue=72",
        "method.base.temperature=0.5", "method.base.momentum=0.9", "model.bn_groups=1", "parallel.channels_last=false",
        "data.remainder=wrap", "validate.batch=6", "optim.optimizer.lr=1e-4", "+optim.optimizer.eps=1e-3",
        "optim.discriminator.lr=2e-5", "+optim.discriminator.eps=1e-3", "checkpoint.every=1", "checkpoint.keep=9",
        "stages.di.epochs=1", "stages.dir.epochs=1", "stages.dira.epochs=1",
    ]  # fmt: skip
    seen = {}
    changing = [(4, 2), (2, 3), (3, 5), (1, 6)]  # processes, and the step to which they train
    for name, lives in (("one", [(1, 6)]), ("many", changing)):
        monkeypatch.setenv("SEEN", str(tmp_path / f"seen-{name}"))
        for ranks, steps in lives:
            finish(pretrain(tmp_path / name, shards, *settings, f"steps={steps}", ranks=ranks))
            assert status(tmp_path / name)["step"] == steps
        seen[name] = sorted((tmp_path / f"seen-{name}").read_text().split("\n"))
    assert seen["one"] == seen["many"] and len(seen["one"]) == 6 * 24 + 1
    for ours, theirs in zip(losses(tmp_path / "many"), losses(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)  # measured: 2e-6, in the last step
    assert_moved_alike(tmp_path / "many", tmp_path / "one", share=0.02, still=1e-7)  # measured: 0.8 %
    single, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert torch.equal(single["method.base.queue_pointer"], many["method.base.queue_pointer"])
