"""The run folder: who may write, what makes a run another run."""

import errno
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import finish
from omegaconf import OmegaConf
from recorded import derived

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import write_json
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.runs import folder, lease
from dira_scale.train.runs.folder import RunFolder
from dira_scale.train.runs.identity import differences, execution, identity, run_name
from dira_scale.train.runs.lease import Lease, LeaseLostError

EXECUTION = execution("pretrain")
CONFIG = {
    "run": "a",
    "seed": 0,
    "steps": 5,
    "data": {"shards": "x", "batch": 8, "workers": 1},
    "parallel": {"strategy": "ddp", "threads": "auto"},
    "datasets": ["abc"],
}


def changed(key: str, value: object) -> dict:
    config = json.loads(json.dumps(CONFIG))
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node[part]
    node[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 9),
        ("run", "b"),
        ("data.workers", 7),
        ("data.loader", "cpu"),
        ("parallel.threads", 3),
        ("data.shards", "moved"),
    ],
)
def test_where_and_how_it_is_computed_may_change(tmp_path: Path, key: str, value: object) -> None:
    RunFolder(tmp_path, CONFIG).release()
    RunFolder(tmp_path, changed(key, value)).release()
    assert run_name(changed(key, value), EXECUTION) == run_name(CONFIG, EXECUTION)


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 1), ("data.batch", 16), ("datasets", ["other"]), ("views_version", 2)]
)
def test_what_is_computed_may_not(tmp_path: Path, key: str, value: object) -> None:
    RunFolder(tmp_path, CONFIG).release()
    RunFolder(tmp_path, changed(key, value)).release()  # while nothing is trained, a mistake may be mended
    RunFolder(tmp_path, CONFIG).release()
    (tmp_path / "checkpoints" / "000000001").mkdir()
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=key):
        RunFolder(tmp_path, changed(key, value))
    assert (tmp_path / "config.yaml").read_bytes() == before
    assert run_name(changed(key, value), EXECUTION) != run_name(CONFIG, EXECUTION)


def test_a_run_of_another_command_is_called_so(tmp_path: Path) -> None:
    """Not by the dozens of settings that one command has and the other has not."""
    runs = {}
    for command, words in (("finetune", ["task=labels", "init=random"]), ("pretrain", [])):
        content: Any = OmegaConf.to_container(compose(command, [*words, "data.shards=any"]))
        runs[command] = content, derived(command, content)
    RunFolder(tmp_path, *runs["finetune"]).release()
    (tmp_path / "checkpoints" / "000000001").mkdir()
    with pytest.raises(UserError, match="holds a run of finetune: choose a new run=…"):
        RunFolder(tmp_path, *runs["pretrain"])


def test_other_data_is_named_without_hashes_and_a_choice_of_rows_by_its_keys() -> None:
    before, now = {"seed": 0, "datasets": [{"hash": "ab"}]}, {"seed": 1, "datasets": [{"hash": "cd"}]}
    named = ["datasets: other images, labels or weights in data.shards", "seed: 0 -> 1"]
    assert differences(before, now, EXECUTION) == named
    (named,) = differences({"selection": "ab"}, {"selection": "cd"}, EXECUTION)
    assert named.startswith("selection: data.fraction, data.exclude and data.negatives choose other rows")
    everything = CONFIG | {"data": CONFIG["data"] | {"fraction": 1.0, "negatives": None}}
    some = CONFIG | {"data": CONFIG["data"] | {"fraction": 0.5, "negatives": 2}, "selection": "ab"}
    assert differences(everything, some, EXECUTION) == ["data.fraction: 1.0 -> 0.5", "data.negatives: null -> 2"]


def test_identity_leaves_out_execution_only() -> None:
    assert identity(CONFIG, EXECUTION) == {"seed": 0, "data.batch": 8, "datasets": ["abc"]}


def test_a_run_of_before_a_key_was_added_keeps_its_name_and_goes_on_as_it_worked_then() -> None:
    now = CONFIG | {"views": {"pair": "image", "channel_dropout": 0}, "trained": None, "lora": {"rank": 8}}
    assert run_name(now, EXECUTION) == run_name(CONFIG, EXECUTION)
    assert differences(CONFIG, now, EXECUTION) == []
    assert differences(CONFIG, now | {"views": {"pair": "patient"}}, EXECUTION) == ["views.pair: image -> patient"]
    lora = now | {"trained": "lora"}
    assert differences(CONFIG, lora, EXECUTION) == ["lora.rank: null -> 8", "trained: null -> lora"]


def test_rows_past_the_checkpoint_and_torn_rows_are_forgotten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, CONFIG)
    for step in (1, 2, 3):
        run.metrics({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    run.drop_rows_after(2)
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "lease": 1}, {"step": 2, "lease": 1}]
    run.release()


def test_the_last_row_is_written_when_the_disk_has_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path, CONFIG)
    with monkeypatch.context() as full:

        def append(path: Path, text: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(folder, "append", append)
        run.metrics({"step": 5})
    run.status("done")
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 5, "lease": 1}\n'
    run.release()


def test_a_row_that_does_not_fit_leaves_nothing_of_itself(tmp_path: Path) -> None:
    """In a file of a GB of zeros, which take no space, and which may have five bytes more."""
    file, limits = tmp_path / "metrics.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    file.touch()
    os.truncate(file, 10**9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**9 + 5, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.append(file, "ten bytes\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.stat().st_size == 10**9


def test_the_status_names_the_try_that_a_sweep_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRA_SCALE_TRY", "pretrain/a/003")
    RunFolder(tmp_path, CONFIG).release()
    assert json.loads((tmp_path / "status.json").read_text())["try"] == "pretrain/a/003"


def test_a_dead_process_of_this_host_is_taken_over_at_once(tmp_path: Path) -> None:
    hold = f"from pathlib import Path; from dira_scale.train.runs.lease import Lease; Lease(Path({str(tmp_path)!r}))"
    code = f"import os; {hold}; os._exit(9)"
    finish([sys.executable, "-c", code], code=9)
    start = time.monotonic()
    held = Lease(tmp_path)
    assert held.number == 2 and time.monotonic() - start < TIMINGS.dead_after / 2
    held.release()


def test_a_process_that_is_killed_while_it_takes_a_run_leaves_no_empty_lease(tmp_path: Path) -> None:
    """Nobody would know whose it was: the next process waited a minute for a sign of life."""
    hold = f"from pathlib import Path; from dira_scale.train.runs.lease import Lease; Lease(Path({str(tmp_path)!r}))"
    for call in ("os.fsync", "os.link"):
        code = f"import os; {call} = lambda *_, **__: os._exit(9); {hold}"
        finish([sys.executable, "-c", code], code=9)
        assert not [*(tmp_path / "leases").glob("[0-9]*")]
    held = Lease(tmp_path)
    assert held.number == 1
    held.release()


def test_a_lease_is_taken_without_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    held = Lease(tmp_path)
    assert json.loads(held.path.read_text())["pid"] == os.getpid()
    held.release()


@pytest.mark.parametrize("where", ["run", "run/..", "run/checkpoints/../"])
def test_checkpoints_that_have_the_run_inside_are_refused_before_anything_is_written(
    tmp_path: Path, where: str
) -> None:
    config = CONFIG | {"checkpoint": {"folder": str(tmp_path / where)}}
    with pytest.raises(UserError, match=r"checkpoint.folder=.* is run=.*, or has it inside"):
        RunFolder(tmp_path / "run", config)
    assert not [*tmp_path.iterdir()]


def test_a_namesake_in_another_container_is_not_declared_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same machine, same host name, processes numbered by themselves: its process 2**22 would be nobody here."""
    monkeypatch.setattr(TIMINGS, "beat", 0.1)
    monkeypatch.setattr(TIMINGS, "dead_after", 5.0)
    with monkeypatch.context() as there:
        boot, _ = str(lease.process_namespace()).split()
        there.setattr(lease, "process_namespace", lambda: f"{boot} pid:[4026539999]")
        there.setattr(psutil.Process, "pid", 1 << 22)
        held = Lease(tmp_path)
    with pytest.raises(UserError, match=r"a running process on .* \(process 4194304\)"):
        Lease(tmp_path)
    held.release()


def test_a_living_holder_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TIMINGS, "beat", 0.1)
    monkeypatch.setattr(TIMINGS, "dead_after", 5.0)
    held = Lease(tmp_path)
    with pytest.raises(UserError, match="a running process on"):
        Lease(tmp_path)
    held.release()


def test_a_beat_that_stands_still_is_taken_over_and_the_ghost_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TIMINGS, "beat", 1000.0)  # this holder hangs
    monkeypatch.setattr(TIMINGS, "dead_after", 0.5)
    ghost = Lease(tmp_path)
    heir = Lease(tmp_path)
    assert heir.number == 2
    write_json(ghost.path, ghost._content | {"beat": 7})  # a beat that hung in storage arrives now
    with pytest.raises(LeaseLostError, match="taken over"):
        ghost.check()
    heir.check()
    heir.release()
    ghost._stop.set()


def test_of_many_that_start_at_once_one_gets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TIMINGS, "dead_after", 3.0)
    monkeypatch.setattr(TIMINGS, "beat", 0.1)
    barrier, got, refused = threading.Barrier(8), [], []
    take = Lease._take

    def together(lease: Lease) -> None:  # all have seen that the run is free, and have chosen the same number
        barrier.wait(timeout=30)
        take(lease)

    monkeypatch.setattr(Lease, "_take", together)

    def start() -> None:
        try:
            got.append(Lease(tmp_path))
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(got) == 1 and len(refused) == 7
    got[0].check()
    got[0].release()


def test_a_restarted_slurm_job_takes_over_from_its_first_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TIMINGS, "beat", 1000.0)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    first = Lease(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    second = Lease(tmp_path)
    assert second.number == 2
    second.release()
    first._stop.set()
