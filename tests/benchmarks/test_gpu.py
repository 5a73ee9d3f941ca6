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

from benchmarks.gpu import basics, bounded, checks, expected, items, parts, steps, table, traces
from benchmarks.gpu.parts import SECONDS, main
from benchmarks.gpu.recipes import RECIPES, words
from benchmarks.gpu.report import Job, Report, figure
from benchmarks.synthetic import blueprint
from dira_scale.bench import main as bench


def row(name: str, kind: str, seconds: float, losses: list[float], **rest: Any) -> dict[str, Any]:
    actual = {"recipe": "R", "kind": kind, "authors": False, "alike": True, "seconds_per_step": seconds, "samples": 256}
    actual |= {"losses": [{"loss": loss, "loss/di": 0.001} for loss in losses], "expects": "R"}
    return {name: actual | {"figures": {"a step": figure(1e3 * seconds, "ms", ("R", "ms"))}} | rest}


def test_speed_up_share_of_peak_and_agreement_by_hand() -> None:
    """A rung is divided by the authors' loop at its own batch; 100 TFLOP are needed, of 989 TFLOP/s."""
    rows = {
        **row("IEEE fp32", "fp32", 2.0, [4.0, 4.0, 4.0]),
        **row("authors' loop", "tf32", 1.0, [4.0, 4.0, 4.0], authors=True),
        **row("bf16", "bf16", 0.25, [4.02, 4.0, 4.2]),
        **row("wrong", "bf16", 0.25, [4.08, 4.0, 4.0]),
        **row("wrong later", "bf16", 0.25, [4.0, 4.0, 4.8]),
        **row("another batch", "bf16", 0.125, [9.0, 9.0, 9.0], alike=False, samples=64),
        "broken": {"failed": "out of memory"},
    }
    content = {"expected": {"R": {"TFLOP": 100.0}}, "device": "NVIDIA H200"}
    actual = steps.finished(rows, content)
    notes = {name: each["figures"]["a step"]["note"] for name, each in actual.items() if "figures" in each}
    assert notes["bf16"] == "1,024.0 samples/s, x authors 4.00, 40 % of peak, losses off by 5e-03 of 1e-02"
    assert notes["another batch"] == "512.0 samples/s, 81 % of peak" and actual["broken"] == rows["broken"]
    wrong = [name for name, each in actual.items() if "figures" in each and not each["figures"]["a step"]["fine"]]
    assert wrong == ["wrong", "wrong later"] and notes["wrong"].endswith("losses off by 2e-02 of 1e-02: DIFFERS")
    del rows["IEEE fp32"]  # the next in exactness is what the others must agree with
    assert "losses off by 5e-03" in steps.finished(rows, content)["bf16"]["figures"]["a step"]["note"]


def test_the_table_has_every_figure_beside_its_expectation_and_marks_what_is_far_off() -> None:
    figures = {
        "a step": figure(100.0, "ms", ("pretrain", "ms")), "memory": figure(12.5, "GiB", 10.0),
        "slow": figure(21.0, "ms", 10.0), "wrong": figure(1.0, "", fine=False, note="why"),
        "fed": figure(100.0, "images/s"), "even": figure(10.0, "ms"),
    }  # fmt: skip
    content: dict[str, Any] = {
        "parts": {"nccl": {"why": "exit code 1: Segmentation fault", "seconds": 3.2}},
        "nccl": {"items": {"one": {"figures": figures}, "two": {"failed": "ValueError: no"}}, "not_run": ["three"]},
        "expected": {"pretrain": {"ms": 250.0}}, "device": "B200",
    }  # fmt: skip
    before = {"a step": 150, "memory": 10.0, "slow": 10.0, "fed": 200.0, "even": 10.2}
    last = {
        "nccl": {"items": {"one": {"figures": {name: {"value": value} for name, value in before.items()}}}},
        "device": "B200", "date": "May", "environment": {"torch": "3.0"},
    }  # fmt: skip
    lines = [" ".join(line.split()) for line in table.text(content, last).splitlines()]
    assert lines[0] == "last: B200, torch 3.0, May" and lines[3:] == [
        "nccl: exit code 1: Segmentation fault, 3 s", "one: a step, ms 100 250 0.4 150 SURPRISE faster, 1.50 x",
        "one: memory, GiB 12.5 10 1.25 10", "one: slow, ms 21 10 2.1 10 SURPRISE slower, 0.48 x",
        "one: wrong, 1 NOT FINE why", "one: fed, images/s 100 200 slower, 0.50 x", "one: even, ms 10 10.2",
        "two: FAILED, ValueError: no", "three: not run, the time was up",
    ]  # fmt: skip
    elsewhere = table.text(content, last | {"device": "A100"})
    assert "0.50 x A100" in elsewhere and "1.50 x A100" in elsewhere and "faster" not in elsewhere
    rehearsed = table.text(content | {"rehearsal": True}, last)
    assert "SURPRISE" not in rehearsed and "NOT FINE" in rehearsed and "faster" not in rehearsed


def test_figures_are_kept_with_the_code_that_they_are_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table, "LAST", tmp_path / "last.json")
    table.LAST.write_text('{"nccl": {"items": {}}}')
    item = {"figures": {"a step": figure(123.456, "ms", 9.0)}, "kernels": [[1.0, 0.5, 3, "product", "mm"]] * 40}
    content: dict[str, Any] = {
        "parts": {"profile": {"why": "done", "seconds": 1.0}}, "profile": {"items": {"moco": item}}, "code": "abc",
        "device": "B200", "date": "May", "environment": {"torch": "3.0", "machine": "x"},
    }  # fmt: skip
    table.keep(content)
    last = json.loads(table.LAST.read_text())
    assert last["profile"] == {"code": "abc", "items": {"moco": {"figures": {"a step": {"value": 123.0}}}}}
    assert "nccl" in last and (tmp_path / "kernels.txt").read_text().count("mm") == table.KEPT
    assert "profile: done, 1 s\n" in table.text(content, last)
    assert "profile: done, 1 s; the code has changed since last\n" in table.text(content | {"code": "def"}, last)


KERNELS = {  # as torch and its libraries name them: one of each kind
    "void cudnn::ops::nchwToNhwcKernel<float, float, float, false, true, (cudnnKernelDataType_t)2>(int)": "layout",
    "void cudnn::bn_fw_tr_1C11_kernel_NHWC<float, float, int, 512, true, 1, false>(cudnnTensorStruct)": "norm",
    "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<pytorch_flash::Traits>(p)": "attention",
    "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_cgasize1x1x1": "product",
    "void at::native::multi_tensor_apply_kernel<at::native::FusedSgdMathFunctor<float>>(t)": "optimizer",
    "Memcpy DtoD (Device -> Device)": "pointwise", "_applied": "norm", "void unheard_of<1>(int)": "other",
}  # fmt: skip


def test_kernels_are_told_apart_and_summed() -> None:
    assert {name: traces.kind(name) for name in KERNELS} == KERNELS
    rows = traces.summed([("void at::native::fill<at::native::F<int> >(int, at::T)", 1, 1e3), ("mm", 2, 6e3)] * 2)
    assert rows == [(12.0, 12 / 14, 4, "other", "mm"), (2.0, 2 / 14, 2, "pointwise", "fill<F<int> ")]
    x = torch.rand(300, 300)
    found = traces.summed(traces.kernels(lambda: (x @ x).relu_(), torch.device("cpu")))
    assert {row[4]: row[2] for row in found}["aten::mm"] == 1 and found[0][3:] == ("product", "aten::mm")


@pytest.mark.system
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_one_that_its_command_trains(name: str) -> None:
    """At full size, which a rehearsal never sees: what is refused there would fail on the GPU first."""
    blueprint(*words(name, False)).check(1)


@pytest.mark.system
def test_what_is_expected_of_a_step_is_what_the_planner_says() -> None:
    from dira_scale.fleet.forecast.estimate import planned

    command, *given = words("labels", True)
    row = planned(command, [*given, "machine=h200", "precision=bf16"], {"gpus": 1, "nodes": 1}).row
    actual = expected.of(command, *given, "precision=bf16")
    assert actual["ms"] == pytest.approx(1e3 * row.step) and actual["GiB"] == pytest.approx(row.memory.peak / 2**30)
    assert 0 < actual["forward ms"] < actual["ms"] and actual["host ms"] <= actual["ms"] + 1e-9
    fp32 = expected.of(command, *given, "plan.bandwidth=null")["forward ms"]
    bf16 = expected.of(command, *given, "precision=bf16", "plan.bandwidth=null")["forward ms"]
    assert fp32 == pytest.approx(bf16 * 330 / (0.6 * 67), rel=0.03)  # a share of IEEE's peak; some of bf16's are tf32


def test_a_wrong_layer_of_volumes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right, monitored = basics.passes, [basics.LAYERS[name] for name in ("conv 1 -> 32", "BatchNorm 64")]
    cpu = torch.device("cpu")

    def notes() -> list[str]:
        found = [basics.layer(cpu, make, (2, shape[1], 4, 4, 4))["figures"].values() for make, shape in monitored]
        return [row["note"] for rows in found for row in rows if row["fine"] == ("WRONG" not in row["note"])]

    monkeypatch.setattr(basics, "seconds", lambda *_, **__: 1.0)
    assert len(notes()) == 8 and not any("WRONG" in note for note in notes())

    def wrong(module: torch.nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
        y, *gradients = right(module, x, gradient)
        return [y * (1 if x.dtype == torch.float32 else 1.05), *gradients]

    monkeypatch.setattr(basics, "passes", wrong)
    assert len(notes()) == 8 and all(note.endswith("WRONG") for note in notes())


def job(out: Path, seconds: float = 1e6, part: str = "steady", tests: tuple[Path, ...] = ()) -> Job:
    return Job(Report(out), seconds, True, out, part, tests)


def go_through(monkeypatch: pytest.MonkeyPatch, out: Path, seconds: float, results: list[Any]) -> bool:
    """Items by a clock of its own: each takes 100 s, and ends in what ``results`` has for it."""
    clock, left = [0.0], list(results)

    def measure() -> dict[str, Any]:
        clock[0] += 100
        written = json.loads((out / "gpu.json").read_text())["steady"]["items"]
        assert list(written.values())[-1] == {"failed": items.BROKEN}  # what a process that is killed now leaves
        if isinstance(result := left.pop(0), BaseException):
            raise result
        return {"figures": {"it": figure(result, "ms", fine=result > 0)}}

    monkeypatch.setattr(items, "gc", SimpleNamespace(collect=lambda: None))  # of all that pytest has loaded
    monkeypatch.setattr(items, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return items.run(job(out, seconds), {str(number): measure for number in range(4)})


def state(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = Report(out).read()["steady"]
    return found


def test_an_item_that_breaks_or_takes_too_long_costs_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = [1.0, torch.cuda.OutOfMemoryError("too much"), ValueError("no\nkernel"), 1.0]
    assert not go_through(monkeypatch, tmp_path, 1e6, broken)
    found = state(tmp_path)
    assert list(found["items"]) == [*"0123"] and found["not_run"] == [] and not found["lost"]
    assert found["items"]["1"]["left_out"] == "out of memory"  # a small GPU is no fault
    assert found["items"]["2"]["failed"] == "ValueError: no kernel" and found["items"]["3"]["seconds"] == 100
    del found["items"]["2"]
    assert items.sound(found["items"])
    (tmp_path / "gpu.json").unlink()
    assert go_through(monkeypatch, tmp_path, 250, [1.0] * 2)  # after 200 s there are 50 left
    assert state(tmp_path)["not_run"] == ["2", "3"]
    (tmp_path / "gpu.json").unlink()
    assert not go_through(monkeypatch, tmp_path, 1e6, [1.0, 0.0, 1.0, 1.0])  # a figure is not as it must be


def test_another_process_goes_on_after_the_item_that_ended_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        go_through(monkeypatch, tmp_path, 1e6, [1.0, SystemExit()])
    assert state(tmp_path)["lost"] and state(tmp_path)["not_run"] == [*"23"]
    assert not go_through(monkeypatch, tmp_path, 1e6, [1.0] * 2)
    found = state(tmp_path)
    assert found["not_run"] == [] and not found["lost"]
    assert [each.get("failed") for each in found["items"].values()] == [None, items.BROKEN, None, None]


ENDS = """
import os, sys, time
from pathlib import Path
from benchmarks.gpu import items
from benchmarks.gpu.report import Job, Report, figure
from benchmarks.synthetic import blueprint
out = Path(sys.argv[1])
job = Job(Report(out), 10.0, True, out, "nccl")
def fine(): return {"figures": {"it": figure(1.0, "ms")}}
each = {"first": fine, "hangs": lambda: time.sleep(600), "dies": lambda: os.abort(), "last": fine}
sys.exit(not items.run(job, each))
"""


@pytest.mark.system
def test_a_part_goes_on_after_an_item_that_hangs_and_one_that_kills_its_process(tmp_path: Path) -> None:
    well, why = parts.run([sys.executable, "-c", ENDS, str(tmp_path)], job(tmp_path, 240.0, "nccl"))
    found = Report(tmp_path).read()["nccl"]
    assert not well and why.startswith(f"exit code {items.HUNG}: ") and found["not_run"] == []
    assert [each.get("failed") for each in found["items"].values()] == [None, items.BROKEN, items.BROKEN, None]


def rehearse(*names: str) -> dict[str, Any]:
    """The rungs of these names, or the ladder's, for real, tiny, on the CPU too."""
    every = [rung for part in steps.PARTS.values() for rung in part]
    chosen = [rung for rung in every if rung.name in names] if names else steps.PARTS["ladder"]
    return {rung.name: items.attempt(lambda rung=rung: steps.measure(rung, True)) for rung in chosen}


@pytest.mark.system
def test_the_authors_loop_and_ours_are_one_computation() -> None:
    """And FSDP2's on one process, whose group is gone when the next rung begins."""
    rows = rehearse("IEEE fp32", "authors' loop", "FSDP2")
    assert items.sound(steps.finished(rows, {})) and len(rows) == 3
    assert not torch.distributed.is_initialized() and "WORLD_SIZE" not in os.environ
    authors, ours = rows["authors' loop"]["losses"], rows["IEEE fp32"]["losses"]
    assert set(authors[0]) == {"loss", "loss/di", "loss/re", "loss/ad", "loss/discriminator"}
    off = [steps.deviation(*pair) for pair in zip(authors, ours, strict=True)]
    assert off[0] < 1e-5 and max(off) < 1e-3
    assert ours != [authors[0]] * 3  # it learns


@pytest.mark.gpu
def test_the_rungs_agree_on_a_gpu() -> None:
    rows = rehearse()
    content = {"parts": {"ladder": {"why": "done", "seconds": 0}}, "ladder": {"items": rows}}
    assert items.sound(steps.finished(rows, {})), table.text(content)
    assert max(row["memory_before"] for row in rows.values()) < 2**26  # none holds what an earlier one had


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


@pytest.mark.system
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
    assert not checks.run(job(tmp_path, part="tests", tests=(tmp_path,)))
    rows = {Path(file).stem[5:]: row for file, row in Report(tmp_path).read()["tests"]["items"].items()}
    passed = {name: row["figures"]["passed"] for name, row in rows.items() if "figures" in row}
    assert {name for name, row in passed.items() if row["fine"]} == {"fine"}
    assert passed.keys() == {"fine", "both", "handled", "mistaken"} and passed["fine"]["value"] == 1
    assert passed["fine"]["note"] == "1 skipped, 0 broken" and passed["both"]["note"] == "0 skipped, 2 broken"
    assert rows["lacks"]["left_out"] == "no_such is missing (1 of 1 tests)"
    assert rows["process_lacks"]["left_out"] == "no_such is missing (1 of 2 tests)"


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
    """By a clock of its own. What a part leaves falls to all that are to come, by their shares."""
    foremost = next(iter(SECONDS))
    clock, given, takes = [0.0], dict[str, float](), {foremost: 5.0}

    def run(command: list[str], job: Job) -> tuple[bool, str]:
        given[job.part] = job.seconds
        clock[0] += takes.get(job.part, job.seconds)
        return True, "done"

    beside = SimpleNamespace(wait=lambda *_: 0, poll=lambda: 0, pid=0)
    monkeypatch.setattr(parts, "run", run)
    monkeypatch.setattr(parts, "expecting", lambda *_: beside)
    monkeypatch.setattr(parts, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setenv("OUT", str(tmp_path / "named"))
    total, first = sum(SECONDS.values()), SECONDS[foremost]
    seconds = total - first + 5
    assert main(["--rehearse", "--seconds", str(seconds)]) == 0
    assert total <= 590 and given.pop(foremost) == pytest.approx(seconds * first / total)
    assert given == pytest.approx({part: seconds for part, seconds in SECONDS.items() if part != foremost})
    assert {path.name for path in (tmp_path / "named").iterdir()} == {"gpu.json", "gpu.txt", "logs.tar.gz"}
    clock[0], takes["nccl"] = 0.0, 400.0
    assert main(["--rehearse", "--seconds", "400", "--parts", "tests", "nccl"]) == 1  # nothing is left for the tests
    ended = json.loads((tmp_path / "named" / "gpu.json").read_text())["parts"]
    assert (
        list(ended) == [*SECONDS, "nccl", "tests"] and ended["tests"]["why"] == "left out, the time was up"
    )  # beside the first call's
