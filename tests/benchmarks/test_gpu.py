"""What a machine with a GPU is asked: rehearsed on the CPU, its arithmetic by hand, its ends in time."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from benchmarks.gpu import basics, bounded, checks, ladder, parts, table
from benchmarks.gpu.parts import SHARES, main
from benchmarks.gpu.report import Job, Report
from dira_scale.bench import main as bench


def row(rung: str, kind: str, seconds: float, losses: list[float], **rest: Any) -> dict[str, Any]:
    steps = [{"loss": loss, "loss/di": 0.001} for loss in losses]
    actual = {"network": "N", "rung": rung, "kind": kind, "authors": False, "alike": True, "seconds_per_step": seconds}
    return actual | {"images_per_second": 10 / seconds, "losses": steps, "batch": 256} | rest


def test_tflops_share_and_speed_up_by_hand() -> None:
    """A rung is divided by the authors' loop at its own batch."""
    rows = [
        row("IEEE fp32", "fp32", 2.0, [4.0, 4.0, 4.0], flops_per_image=10**13),
        row("authors' loop", "tf32", 1.0, [4.0, 4.0, 4.0], authors=True),
        row("bf16", "bf16", 0.25, [4.02, 4.0, 4.2]),
        row("wrong", "bf16", 0.25, [4.08, 4.0, 4.0]),
        row("wrong later", "bf16", 0.25, [4.0, 4.0, 4.8]),
        row("another batch", "bf16", 0.125, [9.0, 9.0, 9.0], images_per_second=40.0, alike=False, batch=64),
        {"network": "N", "rung": "broken", "kind": "bf16", "authors": False, "failed": "out of memory"},
    ]
    table.finish(rows, "NVIDIA H200")
    assert [r.get("tflops") for r in rows] == [50.0, 100.0, 400.0, 400.0, 400.0, 400.0, None]  # 1e13 · images/s / 1e12
    assert rows[2]["share_of_peak"] == pytest.approx(400 / 989)
    assert [r.get("times_authors") for r in rows] == [0.5, 1.0, 4.0, 4.0, 4.0, None, None]
    assert rows[2]["deviation"] == pytest.approx(0.02 / 4) and rows[2]["deviation_later"] == pytest.approx(0.2 / 4)
    assert [r.get("agrees") for r in rows] == [True, True, True, False, False, None, None]
    first = [rung for rung in ladder.rungs() if rung.network == ladder.rungs()[0].network]
    theirs = {rung.batch for rung in first if rung.authors}
    assert [rung.name for rung in first if rung.batch not in theirs] == ["batch 512"]


def test_a_wrong_convolution_of_volumes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = basics.passes
    assert not any("WRONG" in printed for printed in basics.convolutions(torch.device("cpu"), small=True).values())

    def wrong(x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
        y, *gradients = right(x, weight, gradient)
        return [y * (1 if x.dtype == torch.float32 else 1.05), *gradients]

    monkeypatch.setattr(basics, "passes", wrong)
    monkeypatch.setattr(basics, "seconds", lambda *_, **__: 1.0)
    assert all(printed.endswith("WRONG") for printed in basics.convolutions(torch.device("cpu"), small=True).values())


def job(out: Path, seconds: float = 1e6) -> Job:
    return Job(Report(out), seconds, True, out)


def climb(monkeypatch: pytest.MonkeyPatch, out: Path, seconds: float, results: list[Any]) -> dict[str, Any]:
    """The ladder by a clock of its own: each rung takes 100 s, and ends in what ``results`` has for it."""
    clock, left = [0.0], list(results)

    def measure(*_: object) -> dict[str, Any]:
        clock[0] += 100
        written = json.loads((out / "gpu.json").read_text())["ladder"]["rungs"][-1]
        assert written["failed"] == ladder.BROKEN  # what a process that is killed now leaves
        if isinstance(result := left.pop(0), BaseException):
            raise result
        figures = {"seconds_per_step": 1.0, "host_seconds_per_step": 1.0, "images_per_second": 1.0, "batch": 8}
        return figures | {"peak_memory": None, "flops_per_image": 1, "losses": [{"loss": result}] * ladder.CHECKED}

    monkeypatch.setattr(ladder, "measure", measure)
    monkeypatch.setattr(ladder, "gc", SimpleNamespace(collect=lambda: None))  # of all that pytest has loaded
    monkeypatch.setattr(ladder, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return ladder.climb(job(out, seconds))


def titles(found: dict[str, Any]) -> list[str]:
    return [f"{row['network']}: {row['rung']}" for row in found["rungs"]]


KNOWN = [rung.title for rung in ladder.rungs()]


def test_a_rung_that_breaks_or_takes_too_long_costs_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = [1.0, torch.cuda.OutOfMemoryError("too much"), ValueError("no\nkernel"), *[1.0] * 30]
    found = climb(monkeypatch, tmp_path, 1e6, broken)
    assert titles(found) == KNOWN and found["not_run"] == []
    assert [found["rungs"][i]["failed"] for i in (1, 2)] == ["out of memory", "ValueError: no kernel"]
    assert not table.sound(found)
    del found["rungs"][2]
    assert table.sound(found)  # a small GPU is no fault
    found["rungs"][-1]["agrees"] = False
    assert not table.sound(found)
    (tmp_path / "gpu.json").unlink()
    found = climb(monkeypatch, tmp_path, 250, [1.0] * 3)  # what no longer fits is named: after 200 s there are 50 left
    assert titles(found) == KNOWN[:2] and found["not_run"] == KNOWN[2:] and not parts._lost(Report(tmp_path))
    assert all(f"not run, the time was up: {title}\n" in table.text(found) for title in KNOWN[2:])


def test_the_ladder_goes_on_in_another_process_after_the_rung_that_ended_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        climb(monkeypatch, tmp_path, 1e6, [1.0, SystemExit()])
    assert parts._lost(Report(tmp_path))
    found = climb(monkeypatch, tmp_path, 1e6, [1.0] * 30)
    assert titles(found) == KNOWN and found["not_run"] == [] and not parts._lost(Report(tmp_path))
    assert [row.get("failed") for row in found["rungs"]] == [None, ladder.BROKEN, *[None] * (len(KNOWN) - 2)]


MOCO = "MoCo ResNet-50"


def rehearse(out: Path, *names: str) -> dict[str, dict[str, Any]]:
    """MoCo's rungs of these names, or all, for real, tiny, on the CPU too; rows by title."""
    mine = [rung for rung in ladder.rungs() if rung.network == MOCO and (not names or rung.name in names)]
    found = ladder.climb(job(out), mine)
    assert table.sound(found) and found["rehearsal"] and found["not_run"] == []
    return dict(zip(titles(found), found["rungs"], strict=True))


@pytest.mark.system
def test_the_authors_loop_and_ours_are_one_computation(tmp_path: Path) -> None:
    """And FSDP2's on one process, whose group is gone when the next rung begins."""
    rows = rehearse(tmp_path, "IEEE fp32", "authors' loop", "FSDP2 on one GPU")
    authors, ours = rows[f"{MOCO}: authors' loop"], rows[f"{MOCO}: IEEE fp32"]
    assert rows[f"{MOCO}: FSDP2 on one GPU"]["agrees"]
    assert not torch.distributed.is_initialized() and "WORLD_SIZE" not in os.environ
    assert set(authors["losses"][0]) == {"loss", "loss/di", "loss/re", "loss/ad", "loss/discriminator"}
    assert authors["deviation"] < 1e-5 and authors["deviation_later"] < 1e-3
    assert ours["losses"] != [authors["losses"][0]] * 3  # it learns


@pytest.mark.gpu
def test_the_rungs_agree_on_a_gpu(tmp_path: Path) -> None:
    rows = rehearse(tmp_path)
    assert rows[f"{MOCO}: IEEE fp32"]["peak_memory"] > 2**20
    assert max(row["memory_before"] for row in rows.values()) < 2**26  # none holds what an earlier one had
    assert all(row.get("agrees", not row["alike"]) for row in rows.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench(["gpu", "--out", str(tmp_path / "out")]) == 2
    out, error = capfd.readouterr()
    assert out == "" and error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert "no CUDA GPU here" in error and "--rehearse" in error


HEAD = """
import pytest, subprocess, sys
pytestmark = pytest.mark.gpu
def runs(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
"""


def test_tests_run_file_by_file_and_what_cannot_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``handled`` has a process that does without the package, and ends of something else."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # most of the time that its processes would take
    for name, text in {
        "fine": "def test_a(): pass\ndef test_b(): pytest.skip('x')\n",
        "lacks": "import no_such\ndef test_a(): pass\n",
        "process_lacks": "def test_a(): runs('import no_such.part')\ndef test_b(): pass\n",
        "both": "def test_a(): runs('import no_such')\ndef test_b(): assert 0\n",
        "handled": "def test_a(): runs('try: import no_such\\nexcept ImportError: 1 / 0')\n",
        "mistaken": "import dira_scale.no_such\ndef test_a(): pass\n",
    }.items():
        (tmp_path / f"test_{name}.py").write_text(HEAD + text)
    (tmp_path / "test_other.py").write_text("def test_a(): assert 0\n")
    assert not checks.run(job(tmp_path), tmp_path)
    rows = {Path(row["file"]).stem[5:]: row for row in json.loads((tmp_path / "gpu.json").read_text())["tests"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "fine": "passed", "lacks": "skipped", "process_lacks": "skipped", "both": "failed", "handled": "failed",
        "mistaken": "failed",
    }  # fmt: skip
    assert (rows["fine"]["tests"], rows["fine"]["skipped"], rows["both"]["broken"]) == (2, 1, 2)
    assert rows["lacks"]["why"] == "no_such is missing (1 of 1 tests)"
    assert rows["process_lacks"]["why"] == "no_such is missing (1 of 2 tests)"


def test_time_that_is_up_ends_a_command_with_all_its_processes(tmp_path: Path) -> None:
    """One of them in a session of its own, as the runs of our tests are."""
    sleep = f"import time; open({str(tmp_path / 'on')!r}, 'w'); time.sleep(601)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}], start_new_session=True)"
    seconds, code = 1.0, None
    while not (tmp_path / "on").exists():  # a busy machine may not have come so far
        seconds, code = 2 * seconds, bounded.run([sys.executable, "-c", child], seconds)
    assert code is None
    end = time.monotonic() + 60
    while any(sleep in (process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert bounded.run([sys.executable, "-c", "raise SystemExit(3)"], 240) == 3


def test_one_bound_holds_for_all_parts_and_what_it_leaves_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a clock of its own: `steady`, `recipes` and `ladder` take all that they may."""
    clock, given = [0.0], {}
    takes = {"basics": 5.0, "loaders": 5.0}

    def run(command: list[str], part: str, job: Job) -> tuple[bool, str]:
        given[part] = job.seconds
        clock[0] += takes.get(part, job.seconds)
        return True, "done"

    monkeypatch.setattr(parts, "run", run)
    monkeypatch.setattr(parts, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setenv("OUT", str(tmp_path / "named"))
    assert main(["--rehearse", "--seconds", "400"]) == 0
    assert given == pytest.approx(
        {"basics": 32, "steady": 80, "recipes": 88, "loaders": 44, "ladder": 144, "tests": 400 - 5 - 80 - 88 - 5 - 144}
    )
    assert {path.name for path in (tmp_path / "named").iterdir()} == {"gpu.json", "gpu.txt", "logs.tar.gz"}
    clock[0], takes["ladder"] = 0.0, 400.0
    assert main(["--rehearse", "--seconds", "400"]) == 1  # nothing is left for the tests
    ended = json.loads((tmp_path / "named" / "gpu.json").read_text())["parts"]
    assert list(ended) == list(SHARES) and ended["tests"]["why"] == "left out, the time was up"
