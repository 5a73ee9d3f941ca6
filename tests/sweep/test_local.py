"""Sweeps on this machine, with commands that only look like ours (stand_ins/)."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import job

from dira_scale.base.machine.hardware import Gpu, Hardware
from dira_scale.sweep import local, main, watch
from dira_scale.sweep.local import Room
from dira_scale.sweep.records import SweepFolder

SECONDS = 60  # bound on every wait
SWEEP = """
name: tiny
phases:
  shards: {command: shard, set: {recipe: phantom_cxr}}
  train: {command: pretrain, for_each: shards, set: {data.shards: "{shards}", model.encoder: test_resnet},
    grid: {data.batch: [8, 16]}}
  probe: {command: probe, for_each: [train, shards], set: {data.shards: "{shards}"}}
"""
GPU = Gpu("H200", 141.0, "570", 9.0)
QUICK = "import dira_scale.sweep.local as l, dira_scale.sweep.watch as w; l.LOOK = w.LOOK = 0.02"


def machine(gpus: int, cores: int, memory: float = 64.0) -> Hardware:
    return Hardware((GPU,) * gpus, "a", cores, cores, (), memory, memory, 9.0)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folder of a sweep of five runs in ``tmp_path/out/sweep``."""
    (tmp_path / "own" / "sweep").mkdir(parents=True)
    (tmp_path / "own" / "sweep" / "tiny.yaml").write_text(SWEEP)
    (tmp_path / "out" / "orders").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent / 'stand_ins'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(local, "LOOK", 0.02)
    monkeypatch.setattr(watch, "LOOK", 0.02)
    return [f"folder={tmp_path}/out/sweep", "--config-dir", f"{tmp_path}/own", "sweep=tiny", "cluster.parallel=4"]


def starts(tmp_path: Path) -> dict[str, int]:
    """Count how often each run was started."""
    files = (tmp_path / "out" / "sweep").glob("*/*/output/starts")
    return {f"{f.parts[-4]}/{f.parts[-3]}": len(f.read_text().splitlines()) for f in files}


def exit_codes(tmp_path: Path) -> dict[str, list[int | None]]:
    folder = SweepFolder(tmp_path / "out" / "sweep")
    return {run_id: [item.exit_code for item in folder.tries(run_id)] for run_id in folder.runs}


def trained(tmp_path: Path) -> list[list[int | None]]:
    return [codes for run, codes in exit_codes(tmp_path).items() if run.startswith("train/")]


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_phases_run_in_order_and_once(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    assert not (tmp_path / "out" / "sweep").exists() and printed.count("python -m dira_scale.probe --config-dir") == 2
    assert main([*words, "sweep.phases.train.grid={data.batch: [16]}", "cluster.cpus_per_task=1"]) == 0
    assert len(starts(tmp_path)) == 3 and set(starts(tmp_path).values()) == {1}
    for file in tmp_path.glob("out/sweep/*/*/output/starts"):
        assert file.read_text().split()[1:] == ["1", "1"]  # threads, as many as cores were asked for
    assert main(words) == 0  # a larger grid: the new ones only
    assert len(starts(tmp_path)) == 5 and set(starts(tmp_path).values()) == {1}
    folder = SweepFolder(tmp_path / "out" / "sweep")
    for run in folder.runs.values():  # the stand-ins would end with 2 if what they read was not there
        (item,) = folder.tries(run.id)
        assert item.exit_code == 0 and all(folder.tries(need)[0].ended <= item.began for need in run.needs)  # type: ignore[operator]
        assert json.loads((folder.path / run.id / "run.json").read_text())["varied"] == run.varied
    assert main(words) == 0 and len(starts(tmp_path)) == 5 and set(starts(tmp_path).values()) == {1}


def test_a_sweep_file_has_its_own_name_and_a_folder_that_can_be_written(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words[1:], "folder=/proc/sweep"]) == 2
    assert "/proc/sweep cannot be written (No such file or directory)" in capsys.readouterr().err
    (tmp_path / "own" / "sweep" / "copied.yaml").write_text(SWEEP)
    copied = [*(word for word in words if word != "sweep=tiny"), "sweep=copied", "dry_run=true"]
    assert main(copied) == 2
    assert "sweep=copied: its name is tiny; write name: copied in copied.yaml" in capsys.readouterr().err
    assert main([*copied, "sweep.name=third"]) == 0


@pytest.mark.system
def test_what_failed_is_started_again_with_what_needs_it(words: list[str], tmp_path: Path) -> None:
    order = tmp_path / "out" / "orders" / "fail train-batch16"
    order.touch()
    words = [*words, "cluster.tries=2"]
    assert main(words) == 1
    codes = exit_codes(tmp_path)
    assert {code for run, of in codes.items() for code in of if "batch16" not in run} == {0}
    (failed,) = (run for run in codes if run.startswith("train/batch16"))
    assert codes[failed] == [1, 1]  # the job itself tries as often as the profile says
    assert [of for run, of in codes.items() if run.startswith("probe/batch16")] == [[]]
    order.unlink()
    assert main(words) == 0
    assert {run: n for run, n in starts(tmp_path).items() if n > 1} == {failed: 3}


def test_all_runs_end_with_a_process_that_is_killed_or_interrupted_and_are_cancelled_from_elsewhere(
    words: list[str], tmp_path: Path
) -> None:
    order = tmp_path / "out" / "orders" / "wait train-batch"
    order.touch()
    command = [sys.executable, "-m", "dira_scale.sweep", *words]
    with job(command, before=QUICK) as process:
        wait_until(lambda: sum(starts(tmp_path).values()) == 3)
        assert main(words) == 2  # one at a time
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
    wait_until(lambda: trained(tmp_path) == [[75], [75]])  # the runs hear of it
    with job(command, before=QUICK) as process:
        wait_until(lambda: sum(starts(tmp_path).values()) == 5)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 75, process.printed()
        assert "run the same command again to continue" in process.printed()
    assert trained(tmp_path) == [[75, 75]] * 2
    with job(command, before=QUICK) as process:
        wait_until(lambda: sum(starts(tmp_path).values()) == 7)
        assert main(["cancel", words[0], "runs=train/batch16*"]) == 0
        wait_until(lambda: [75] * 3 in trained(tmp_path))
        order.unlink()
        assert process.wait(SECONDS) == 1
    assert sorted(trained(tmp_path)) == [[75, 75, 0], [75, 75, 75]]
    assert main(["retry", words[0], "runs=train/batch16*"]) == 0
    assert main(words) == 0
    assert {run.partition("/")[0]: n for run, n in starts(tmp_path).items()}["probe"] == 1


def taken(room: Room, run: str, gpus: int, cores: int, memory: float = 0.0) -> bool:
    return room.take(run, gpus, cores, memory) is not None


def test_as_many_runs_as_fit() -> None:
    room = Room(machine(gpus=0, cores=4, memory=8.0), None, None)
    assert taken(room, "a", 1, 2, 3.0) and taken(room, "b", 1, 2, 3.0) and not taken(room, "c", 1, 1, 1.0)
    del room.taken["a"]
    assert not taken(room, "d", 0, 1, 7.0) and taken(room, "c", 0, 2, 5.0)
    alone = Room(machine(gpus=0, cores=2), None, None)
    assert taken(alone, "larger than the machine", 0, 64, 1e6) and not taken(alone, "a", 0, 1)
    bound = Room(machine(gpus=0, cores=1), None, 2)
    assert taken(bound, "a", 0, 9) and taken(bound, "b", 0, 9) and not taken(bound, "c", 0, 0)


def test_a_gpu_is_one_runs() -> None:
    room = Room(machine(gpus=4, cores=64), "4,5,7", None)  # three of them are visible
    assert [room.take("a", 2, 2, 0.0), room.take("b", 1, 2, 0.0)] == [["4", "5"], ["7"]]
    assert room.take("c", 1, 1, 0.0) is None and room.take("d", 0, 1, 0.0) == []
    assert Room(machine(gpus=1, cores=64), None, 2).take("e", 8, 1, 0.0) == ["0"]
