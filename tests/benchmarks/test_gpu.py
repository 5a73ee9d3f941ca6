"""What a machine with a GPU is asked: rehearsed on the CPU, its arithmetic by hand, its ends in time."""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from harness import SECONDS
from packaging.utils import canonicalize_name

from benchmarks.gpu import bounded, checks, conv3d, figures, ladder, launches, loaders, nvjpeg, page, parts, table
from benchmarks.gpu.machine import CARRIED, PRESENT, REQUIRED, pretended
from benchmarks.gpu.parts import SHARES, main
from benchmarks.gpu.peaks import peak
from benchmarks.gpu.report import Report
from benchmarks.gpu.split import PARTS, Split
from dira_scale.bench import main as bench

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("device", "figures"),
    [
        ("NVIDIA H200", (67.0, 494.5, 989.0)),
        ("NVIDIA H100 80GB HBM3", (67.0, 494.5, 989.0)),
        ("NVIDIA H100 PCIe", (51.0, 378.0, 756.0)),
        ("NVIDIA A100-SXM4-80GB", (19.5, 156.0, 312.0)),
        ("NVIDIA A10G", (31.5, 35.0, 70.0)),
        ("NVIDIA A10", (31.2, 62.5, 125.0)),
        ("Tesla V100-SXM2-16GB", (15.7, None, None)),
        ("CPU", (None, None, None)),
    ],
)
def test_the_peak_is_that_of_the_very_device(device: str, figures: tuple[float | None, ...]) -> None:
    assert tuple(peak(device, kind) for kind in ("fp32", "tf32", "bf16")) == figures


def row(rung: str, kind: str, seconds: float, losses: list[float], **rest: Any) -> dict[str, Any]:
    steps = [{"loss": loss, "loss/di": 0.001} for loss in losses]
    actual = {"network": "N", "rung": rung, "kind": kind, "authors": False, "alike": True, "seconds_per_step": seconds}
    return actual | {"images_per_second": 10 / seconds, "losses": steps, "batch": 256} | rest


def test_tflops_share_and_speed_up_by_hand() -> None:
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
    assert rows[0]["share_of_peak"] == pytest.approx(50 / 67)
    assert rows[1]["share_of_peak"] == pytest.approx(100 / 494.5)
    assert rows[2]["share_of_peak"] == pytest.approx(400 / 989)
    assert [r.get("times_authors") for r in rows] == [0.5, 1.0, 4.0, 4.0, 4.0, None, None]
    assert rows[2]["deviation"] == pytest.approx(0.02 / 4) and rows[2]["deviation_later"] == pytest.approx(0.2 / 4)
    assert [r.get("agrees") for r in rows] == [True, True, True, False, False, None, None]


def test_a_rung_is_divided_by_the_authors_loop_at_its_own_batch() -> None:
    """And without IEEE fp32, from which the rest follows; a batch that the authors' loop did not take has no ratio."""
    rows = [
        row("bf16", "bf16", 0.25, [4.0] * 3),
        row("authors' loop", "tf32", 1.0, [4.0] * 3, authors=True),
        row("bf16, 64", "bf16", 0.2, [4.0] * 3, batch=64),
        row("authors' loop, 64", "tf32", 0.5, [4.0] * 3, authors=True, batch=64),
        row("512", "bf16", 0.1, [4.0] * 3, batch=512),
        {"network": "N", "rung": "IEEE fp32", "kind": "fp32", "authors": False, "failed": "out of memory"},
    ]
    table.finish(rows, "NVIDIA H200")
    assert [r.get("times_authors") for r in rows] == [4.0, 1.0, 2.5, 1.0, None, None]
    assert not any({"tflops", "share_of_peak", "deviation", "agrees"} & set(r) for r in rows)


def test_every_rung_of_the_first_network_but_512_has_an_authors_loop_of_its_batch() -> None:
    first = [rung for rung in ladder.rungs() if rung.network == ladder.rungs()[0].network]
    theirs = {rung.batch for rung in first if rung.authors}
    assert [rung.name for rung in first if rung.batch not in theirs] == ["batch 512"]


def test_launches_are_counted_once_for_the_same_step_and_what_cannot_be_is_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a trace's events, those that launch; the first rung's 2,250 also stand beside it at other batches."""
    names = ["cudaLaunchKernel", "cudaMemcpyAsync", "aten::add", "cuLaunchKernelEx", "cudaLaunchKernelExC_v11060"]
    names += ["__cudaLaunchKernel", "cudaGraphLaunch", "cudaLaunchCooperativeKernel", "cudaLaunchHostFunc"]
    assert launches.launches(names) == 6
    report = climb(monkeypatch, tmp_path, 1e6, [1.0] * 30)
    assert "launches are not counted: there is no GPU to launch on\n" in table.text(report)
    assert not any("launches" in row for row in report["rungs"])
    counted: list[str] = []

    def launched(rung: ladder.Rung, keys: list[str]) -> int:
        counted.append(rung.name)
        if rung.name == "any cuDNN algorithm":
            raise launches.NotCountedError("forbidden\nhere")
        return 2250

    monkeypatch.setattr(ladder, "launched", launched)
    asked = argparse.Namespace(name="ladder", batch=8, size=32, rehearse=True)
    ladder.tally(report, asked, 1e9, Report(tmp_path))
    assert counted == ["bf16, NHWC, fused", "authors' loop", "IEEE fp32", "4 BatchNorm groups", "any cuDNN algorithm"]
    assert [row.get("launches") for row in report["rungs"][:9]] == [2250] * 8 + [None]
    assert json.loads((tmp_path / "gpu.json").read_text())["ladder"] == report
    said = table.text(report)
    assert "launches are not counted: forbidden here\n" in said and said.count(" 2,250 ") == 8


def test_where_torch_has_no_gpu_the_profiler_is_not_asked() -> None:
    with pytest.raises(launches.NotCountedError, match="no GPU"):
        launches.count(lambda: pytest.fail("it ran"), torch.device("cpu"))


def test_the_bf16_probe_of_3d_convolutions_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = conv3d.probe(torch.device("cpu"), small=True)
    assert [row["layout"] for row in rows] == ["NCDHW", "NDHWC"] and all(row["fine"] for row in rows)
    assert rows[0]["tflops"] == pytest.approx(3 * 2 * 27 * 32 * 64 * 2 * 16 * 16 * 8 / (rows[0]["ms"] / 1e3) / 1e12)
    right = conv3d.passes

    def wrong(x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
        y, *gradients = right(x, weight, gradient)
        return [y * (1 if x.dtype == torch.float32 else 1.05), *gradients]

    monkeypatch.setattr(conv3d, "passes", wrong)
    monkeypatch.setattr(conv3d, "seconds", lambda *_, **__: 1.0)
    rows = conv3d.probe(torch.device("cpu"), small=True)
    assert not any(row["fine"] for row in rows) and conv3d.text(rows).count("WRONG") == 2
    monkeypatch.setattr(conv3d, "passes", lambda *_: [][0])
    assert "IndexError" in conv3d.text(conv3d.probe(torch.device("cpu"), small=True))


def test_decoding_is_measured_or_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvjpeg, "decode", lambda files, side, device: None)
    assert all("images/s (batches of 4, " in said for said in nvjpeg.rates(torch.device("cpu"), True).values())

    def broken(*_: object) -> None:
        raise RuntimeError("torchvision was built\nwithout nvJPEG")

    monkeypatch.setattr(nvjpeg, "decode", broken)
    found = nvjpeg.rates(torch.device("cpu"), True)
    assert all(said.startswith("not known, RuntimeError: torchvision was built without") for said in found.values())


def test_a_term_near_nothing_is_measured_by_the_whole_loss() -> None:
    reference = {"loss": 2.0, "loss/di": 0.001, "loss/ad": 8.0}
    assert table.deviation(reference, reference) == 0
    assert table.deviation(reference | {"loss/di": 0.021}, reference) == pytest.approx(0.01)
    assert table.deviation(reference | {"loss/ad": 8.4}, reference) == pytest.approx(0.05)


def test_operations_are_counted_forward_and_backward_and_in_attention() -> None:
    """2·m·n·k a product; its backward pass has two of them. Attention: two products of t·t·d for each of b heads."""
    weight, images = torch.randn(3, 5, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    q = torch.randn(2, 1, 4, 8)

    def step(number: int) -> None:
        (images @ weight).sum().backward()
        F.scaled_dot_product_attention(q, q, q)

    counted = figures.count(SimpleNamespace(step=step), 0)  # type: ignore[arg-type]
    assert counted == 3 * (2 * 7 * 3 * 5) + 2 * (2 * 2 * 4 * 4 * 8)


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
        figures |= {"peak_memory": None, "flops_per_image": 1, "parts_ms": dict.fromkeys(PARTS, 1.0)}
        return figures | {"losses": [{"loss": result}] * ladder.CHECKED}

    monkeypatch.setattr(ladder, "measure", measure)
    monkeypatch.setattr(ladder, "gc", SimpleNamespace(collect=lambda: None))  # of all that pytest has loaded
    monkeypatch.setattr(ladder, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    asked = argparse.Namespace(out=out, name="ladder", seconds=seconds, batch=8, size=32, turns=0, rehearse=True)
    return ladder.climb(argparse.Namespace(**vars(asked), rungs=None))


def titles(report: dict[str, Any]) -> list[str]:
    return [f"{row['network']}: {row['rung']}" for row in report["rungs"]]


def test_what_no_longer_fits_is_named_and_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = climb(monkeypatch, tmp_path, 250, [1.0] * 3)
    known = [rung.title for rung in ladder.rungs()]
    assert titles(report) == known[:2]  # after 200 s there are 50 left
    assert not parts._lost(Report(tmp_path), "ladder")  # another process would have no more time
    assert report["not_run"] == known[2:]
    assert json.loads((tmp_path / "gpu.json").read_text()) == {"ladder": report}
    said = table.text(report)
    assert all(f"not run, the time was up: {title}\n" in said for title in known[2:])


def test_a_rung_that_breaks_costs_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = [1.0, torch.cuda.OutOfMemoryError("too much"), ValueError("no\nkernel"), *[1.0] * 30]
    report = climb(monkeypatch, tmp_path, 1e6, broken)
    assert len(report["rungs"]) == len(ladder.rungs()) and report["not_run"] == []
    assert report["rungs"][1]["failed"].startswith("out of memory")
    assert report["rungs"][2]["failed"] == "ValueError: no kernel"
    assert not table.sound(report)
    del report["rungs"][2]
    assert table.sound(report)  # a small GPU is no fault
    report["rungs"][-1]["agrees"] = False
    assert not table.sound(report)


def test_the_ladder_goes_on_in_another_process_after_the_rung_that_ended_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        climb(monkeypatch, tmp_path, 1e6, [1.0, SystemExit()])
    assert parts._lost(Report(tmp_path), "ladder")
    report = climb(monkeypatch, tmp_path, 1e6, [1.0] * 30)
    assert titles(report) == [rung.title for rung in ladder.rungs()] and report["not_run"] == []
    assert [row.get("failed") for row in report["rungs"]].count(ladder.BROKEN) == 1
    assert report["rungs"][1]["failed"] == ladder.BROKEN


def test_a_device_that_answers_no_more_ends_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ladder, "lost", lambda: True)
    assert titles(climb(monkeypatch, tmp_path, 1e6, [1.0] * 30)) == [ladder.rungs()[0].title]
    assert parts._lost(Report(tmp_path), "ladder")


class Part(torch.nn.Module):
    """Takes its time, forward and backward."""

    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seconds = forward, backward

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        y: torch.Tensor = Slow.apply(x * self.weight, *self.seconds)
        return [y]


class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, forward: float, backward: float) -> torch.Tensor:
        time.sleep(forward)
        ctx.seconds = backward
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        time.sleep(ctx.seconds)
        return gradient.clone(), None, None


def test_each_part_of_a_step_gets_its_own_time_forward_and_backward() -> None:
    """Modules and an optimizer that sleep for times of which no two sums are equal; the fork is a U-Net's: the decoder
    and a loss of its own both draw on the encoder. All that is beside the sleeps makes a part longer, never shorter."""
    modules = {"query": Part(0.005, 0.01), "key": Part(0.02, 0), "decoder": Part(0.04, 0.08)}
    modules["discriminator"] = Part(0.16, 0.32)

    class Optimizer(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            time.sleep(0.64)

    optimizer = Optimizer(modules["query"].parameters(), lr=0.1)
    with Split({name: [module] for name, module in modules.items()}, torch.device("cpu")) as split:
        (features,) = modules["query"](torch.ones(1))
        with torch.no_grad():
            modules["key"](torch.ones(1))
        (restored,) = modules["decoder"](features)
        (score,) = modules["discriminator"](restored)
        (score + features).sum().backward()
        time.sleep(0.005)
        optimizer.step()
    actual = split.milliseconds()
    expected = {"query": 15, "key": 20, "decoder": 120, "discriminator": 480, "optimizer": 640, "rest": 5}
    assert list(actual) == list(expected) == list(PARTS)
    short = {name: (actual[name], least) for name, least in expected.items() if actual[name] < least}
    assert short == {}  # of time in the wrong part, another part would lack as much
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules.values())


def rehearse(out: Path, *rungs: str) -> dict[str, dict[str, Any]]:
    """These rungs, or all, for real, tiny, on the CPU; rows by title."""
    assert ladder.main([str(out), "--rehearse", *(["--rungs", *rungs] if rungs else [])]) == 0
    report = json.loads((out / "gpu.json").read_text())["ladder"]
    assert report["rehearsal"] and report["not_run"] == []
    return dict(zip(titles(report), report["rungs"], strict=True))


def test_the_authors_loop_and_ours_are_one_computation(tmp_path: Path) -> None:
    """And FSDP2's on one process, whose group is gone when the next rung begins."""
    rows = rehearse(tmp_path, "MoCo ResNet-50: IEEE", "authors", "FSDP2", "tf32, NCHW")
    authors, sharded = rows["MoCo ResNet-50: authors' loop"], rows["MoCo ResNet-50: FSDP2 on one GPU"]
    assert sharded["agrees"] and rows["MoCo ResNet-50: tf32, NCHW"]["deviation"] < 1e-5
    assert all(sharded["parts_ms"][part] > 0 for part in PARTS) and not torch.distributed.is_initialized()
    assert "WORLD_SIZE" not in os.environ
    assert set(authors["losses"][0]) == {"loss", "loss/di", "loss/re", "loss/ad", "loss/discriminator"}
    assert authors["deviation"] < 1e-5 and authors["deviation_later"] < 1e-3
    assert rows["MoCo ResNet-50: IEEE fp32"]["losses"] != [authors["losses"][0]] * 3  # it learns


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_every_rung_can_be_climbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch.compile in earnest too: it needs a C++ compiler, as the tests' machine has one."""
    monkeypatch.setattr(ladder, "traced_only", nullcontext)
    rows = rehearse(tmp_path)
    assert list(rows) == [rung.title for rung in ladder.rungs()]
    assert [title for title, row in rows.items() if not row.get("agrees", not row["alike"])] == []


@pytest.mark.gpu
def test_the_rungs_agree_on_a_gpu(tmp_path: Path) -> None:
    rows = rehearse(tmp_path, "MoCo ResNet-50")
    assert rows["MoCo ResNet-50: IEEE fp32"]["peak_memory"] > 2**20
    assert max(row["memory_before"] for row in rows.values()) < 2**26  # none holds what an earlier one had
    assert all(row.get("agrees", not row["alike"]) for row in rows.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench(["gpu", "--out", str(tmp_path / "out")]) == 2
    out, error = capfd.readouterr()
    assert out == "" and error.count("\n") == 1
    assert "no CUDA GPU here" in error and "--rehearse" in error
    assert not (tmp_path / "out").exists()


RUNS = """
import subprocess, sys
def runs(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
"""
# A process that does without the package, and ends of something else.
HANDLES = "def test_a():\n    runs('try: import no_such\\nexcept ImportError: 1 / 0')\n"


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages that the project may use are not there."""
    declared = checks.packages() | {"no-such-package": "no_such", "nor-this-one": "namespace.package"}
    monkeypatch.setattr(checks, "packages", lambda: declared)


@pytest.mark.usefixtures("lacking")
def test_tests_run_file_by_file_and_what_cannot_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # most of the time that its six processes would take
    tests = tmp_path / "tests"
    tests.mkdir()
    head = "import pytest, time\npytestmark = pytest.mark.gpu\n"
    for name, text in {
        "fine": "def test_a(): pass\ndef test_b(): pytest.skip('x')\n",
        "lacks": "import no_such\ndef test_a(): pass\n",
        "process_lacks": RUNS + "def test_a(): runs('import no_such.part')\ndef test_b(): pass\n",
        "both": RUNS + "def test_a(): runs('import no_such')\ndef test_b(): assert 0\n",
        "mistaken": "import no_module_of_ours\ndef test_a(): pass\n",
        "handled": RUNS + HANDLES,
    }.items():
        (tests / f"test_{name}.py").write_text(head + text)
    (tests / "test_other.py").write_text("def test_a(): assert 0\n")
    assert checks.main([str(tmp_path), str(tmp_path / "logs"), "--tests", str(tests)]) == 1
    rows = {row["file"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["tests"]}
    actual = {name.removeprefix("test_").removesuffix(".py"): row["state"] for name, row in rows.items()}
    assert [name for name, state in actual.items() if state == "skipped"] == ["lacks", "process_lacks"]
    assert [name for name, state in actual.items() if state == "failed"] == ["both", "handled", "mistaken"]
    assert len(actual) == 6 and actual["fine"] == "passed"
    assert (rows["test_fine.py"]["tests"], rows["test_fine.py"]["skipped"]) == (2, 1)
    assert rows["test_both.py"]["broken"] == 2
    assert rows["test_lacks.py"]["why"] == "no-such-package is missing (1 of 1 tests)"
    assert rows["test_process_lacks.py"]["why"] == "no-such-package is missing (1 of 2 tests)"


@pytest.mark.usefixtures("lacking")
def test_only_a_package_of_the_project_that_is_not_there_is_missing() -> None:
    """Neither a module that nobody promised, nor one of a package that is there, nor words that are no error."""
    text = "E   ModuleNotFoundError: No module named '{}'\n"
    assert checks.lacks(text.format("no_such.part.of_it")) == {"no-such-package"}
    assert checks.lacks(text.format("namespace.package")) == checks.lacks(text.format("namespace")) == {"nor-this-one"}
    both = checks.lacks(text.format("no_such") + text.format("namespace.package"))
    assert both == {"no-such-package", "nor-this-one"}
    assert checks.lacks(text.format("no_such") + text.format("harness")) == set()
    for other in ("no_such_package", "namespace.other", "dira_scale.no_such_module", "torch.no_such_module"):
        assert checks.lacks(text.format(other)) == set()
    assert checks.lacks(text.format("no_such").removeprefix("E")) == set()
    assert checks.lacks("E   AssertionError") == set()


def test_the_packages_are_those_of_pyproject_by_the_modules_that_they_have() -> None:
    theirs = packages_distributions()
    names = {canonicalize_name(distribution) for module in theirs for distribution in theirs[module]}
    for package, module in checks.packages().items():
        if canonicalize_name(package) in names and not package.startswith("types-"):
            assert checks.installed(module), package
            owners = map(canonicalize_name, theirs[module.split(".")[0]])
            assert canonicalize_name(package) in owners, package
    assert {"torch", "deepspeed", "ffcv", "scikit-learn", "moto"} <= set(checks.packages())


GRANDCHILD = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(601)", {mark!r}]
subprocess.run(sleep, start_new_session=True)
"""


def living(mark: Path) -> list[int]:
    """Processes that have ``mark`` as their last word."""
    actual = psutil.process_iter(["cmdline"])
    return [process.pid for process in actual if (process.info["cmdline"] or [""])[-1] == str(mark)]


def assert_dies(mark: Path) -> None:
    """What is killed is gone a moment later; by itself the grandchild would live for ten minutes."""
    deadline = time.monotonic() + 60
    while living(mark):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Time is up as soon as the grandchild lives."""

    class Process(subprocess.Popen[str]):
        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            while not living(tmp_path):
                assert self.poll() is None
                time.sleep(0.02)
            raise subprocess.TimeoutExpired(self.args, timeout)

    known = SimpleNamespace(Popen=Process, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(bounded, "subprocess", known)


@pytest.mark.usefixtures("hung")
def test_a_file_that_hangs_is_stopped_with_all_its_processes(tmp_path: Path) -> None:
    """One of them in a session of its own, as the runs of our tests are."""
    path = tmp_path / "test_hangs.py"
    path.write_text(GRANDCHILD.format(mark=str(tmp_path)))
    row = checks.check(path, "gpu", tmp_path, seconds=20)
    assert (row["state"], row["why"]) == ("stopped", "not done after 20 s")
    assert_dies(tmp_path)


@pytest.mark.usefixtures("hung")
def test_a_part_ends_in_time_with_all_its_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = GRANDCHILD.format(mark=str(tmp_path))
    monkeypatch.setattr(parts, "commands", lambda *_: [[sys.executable, "-c", child]])
    assert parts.run(Path(sys.executable), "basics", tmp_path, tmp_path, True, 5) == (False, "stopped, its time was up")
    assert_dies(tmp_path)


def test_time_that_is_up_ends_a_command_in_earnest() -> None:
    assert bounded.run([sys.executable, "-c", "import time; time.sleep(601)"], 0.1) is None
    assert bounded.run([sys.executable, "-c", "raise SystemExit(3)"], 240) == 3


def test_one_bound_holds_for_all_parts_and_what_it_leaves_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a clock of its own: `steady` takes all that it may, ladder and loaders 15 s, `compile` all that it may."""
    clock, given = [0.0], {}
    takes = {"basics": 5.0, "ladder": 10.0, "loaders": 5.0}

    def run(python: Path, part: str, out: Path, logs: Path, rehearse: bool, seconds: float) -> tuple[bool, str]:
        given[part] = seconds
        clock[0] += takes.get(part, seconds)
        return True, "done"

    monkeypatch.setattr(parts, "run", run)
    monkeypatch.setattr(parts, "pretended", lambda folder: Path(sys.executable))
    monkeypatch.setattr(parts, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setenv("OUT", str(tmp_path / "named"))
    assert main(["--rehearse", "--seconds", "100"]) == 0
    rest = 100 - 5 - 20 - 10 - 5
    assert given == {"basics": 10, "steady": 20, "ladder": 45, "loaders": 18, "compile": 40, "tests": rest - 40}
    assert {path.name for path in (tmp_path / "named").iterdir()} == {"gpu.json", "gpu.txt", "logs.tar.gz"}
    takes["ladder"], clock[0] = 45.0, 0.0
    assert main(["--rehearse", "--seconds", "100"]) == 1
    ended = json.loads((tmp_path / "named" / "gpu.json").read_text())["parts"]
    assert list(ended) == list(SHARES)
    assert ended["tests"]["why"] == "left out, the time was up" and given["compile"] == 100 - 5 - 20 - 45 - 5


def test_the_page_shows_where_the_host_waited() -> None:
    place = {"message": "called a synchronizing CUDA operation", "times": 3, "stack": ["dira_scale/a.py:7 x.item()"]}
    said = page.text({"rehearsal": True, "steady": {"waits": {"fine": False, "steps": 3, "places": [place]}}})
    assert "a rehearsal" in said and "waits: NOT FINE, steps 3\n" in said
    assert "3 x called a synchronizing CUDA operation\n        dira_scale/a.py:7 x.item()\n" in said


def test_the_page_shows_the_loaders_beside_the_step() -> None:
    row = {
        "loader": 5000.0,
        "both": 1500.0,
        "times_authors": 3.0,
        "share": 0.75,
        "ratio": 0.75,
        "lowest": 0.7,
        "highest": 0.8,
        "wait_ms": 2.0,
    }
    rows = {"cpu": row, "dali": {"left_out": "not installed"}}
    theirs = {"step": 800.0, "loaders": {"authors, PNG of 1024": row | {"both": 500.0, "times_authors": 1.0}}}
    found = {"device": "cuda", "batch": 64, "size": 224, "step": 2000.0, "loaders": rows, "authors": theirs}
    said = page.text({"loaders": found})
    assert "cuda, batch 64 of 224 pixels; images/s of the steps alone: 2,000.0\n" in said
    assert "5,000.0     1,500.0          0.750    0.750 (0.700-0.800)            2.0       3.00\n" in said
    assert (
        "authors, PNG of 1024     5,000.0       500.0 " in said
        and "the authors' steps alone, to which their rows refer: 800.0 images/s\n" in said
    )
    assert f"{'dali':<22}  not installed\n" in said
    assert "loaders failed: KeyError: 'x'\n" in page.text({"loaders": {"failed": "KeyError: 'x'"}})


@pytest.mark.system
def test_loaders_feed_a_tiny_step(tmp_path: Path) -> None:
    assert loaders.main([str(tmp_path), "--rehearse"]) == 0
    actual = json.loads((tmp_path / "gpu.json").read_text())["loaders"]
    assert list(actual["loaders"]) == ["cpu", "helper", "dali"] and actual["step"] > 0
    assert all(actual["loaders"][name]["both"] > 0 for name in ("cpu", "helper"))
    png, jpg = actual["authors"]["loaders"].items()
    assert (png[0], jpg[0]) == ("authors, PNG of 128", "authors, JPG of 64") and actual["authors"]["step"] > 0
    for row in (actual["loaders"]["cpu"], png[1], jpg[1]):
        assert row["times_authors"] == row["both"] / png[1]["both"]


def test_our_loaders_are_divided_by_the_authors_code_as_a_whole() -> None:
    ours = {"cpu": {"both": 900.0}, "helper": {"broken": "x"}, "dali": {"left_out": "y"}}
    theirs = {"png": {"both": 300.0}, "jpg": {"both": 450.0}}
    actual = loaders.relate({"loaders": ours, "authors": {"loaders": theirs}})
    assert [row.get("times_authors") for row in actual["loaders"].values()] == [3.0, None, None]
    assert [row["times_authors"] for row in theirs.values()] == [1.0, 1.5]
    theirs["png"] = {"left_out": "/dev/shm is small"}
    again = loaders.relate({"loaders": {"cpu": {"both": 900.0}}, "authors": {"loaders": theirs}})
    assert "times_authors" not in again["loaders"]["cpu"]


def test_without_torchvision_the_authors_row_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loaders, "find_spec", lambda name: None)
    rows = loaders.authors([], tmp_path, 1, 1, [])["loaders"]
    assert rows == {"authors": {"left_out": "torchvision is missing, which their loader needs"}}


# Sets the flag IFF_UP of a new network's only interface, which process groups need, and goes on as the command given.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.system
@pytest.mark.timeout(900)
def test_gpu_check_needs_no_network_and_no_set_up(tmp_path: Path) -> None:
    """A plain checkout; a Python with a GPU container's packages; the wheels; no way out. All parts are rehearsed."""
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", ROOT, checkout], check=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    bare = pretended(tmp_path / "bare", PRESENT)
    check = [bare, checkout / "setup" / "gpu.py", "check", "--rehearse"]
    offline = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", LOOPBACK_UP]

    lacking = subprocess.run([*offline, *check], capture_output=True, text=True)
    assert lacking.returncode == 2 and lacking.stderr.count("\n") == 1
    assert "hydra-core" in lacking.stderr and "python3 setup/gpu.py wheels" in lacking.stderr

    collected = subprocess.run(
        [sys.executable, checkout / "setup" / "gpu.py", "wheels", version], capture_output=True, text=True
    )
    assert collected.returncode == 0, collected.stderr
    out = tmp_path / "named"
    done = subprocess.run([*offline, *check], capture_output=True, text=True, env=os.environ | {"OUT": str(out)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DeepSpeed: not there; what needs it is left out" in done.stdout
    assert {path.name for path in out.iterdir()} == {"gpu.json", "gpu.txt", "logs.tar.gz"}
    report = json.loads((out / "gpu.json").read_text())
    assert all(part["fine"] for part in report["parts"].values()) and list(report["parts"]) == list(SHARES)
    assert all(check["fine"] for check in report["steady"].values()) and len(report["steady"]) == 4
    assert all(report["loaders"]["loaders"][name]["both"] > 0 for name in ("cpu", "helper"))
    rungs = report["ladder"]["rungs"] + report["compile"]["rungs"]
    assert titles({"rungs": rungs}) == [rung.title for rung in ladder.rungs()]
    assert all(row.get("agrees", not row["alike"]) for row in rungs)
    assert all(sum(row["parts_ms"].values()) > 0 for row in rungs)
    skipped = {Path(row["file"]).name: row["why"] for row in report["tests"] if row["state"] == "skipped"}
    assert list(skipped) == ["test_dali.py"] and "nvidia-dali-cuda130 is missing" in skipped["test_dali.py"]
    assert (out / "gpu.txt").read_text() in done.stdout
    assert subprocess.run(
        ["git", "-C", checkout, "status", "--porcelain"], capture_output=True, text=True
    ).stdout == ""  # fmt: skip


def test_the_wheels_and_the_checkout_may_not_be_too_large(tmp_path: Path) -> None:
    """With a pip that collects nothing; the checkout's files count, those that git ignores do not."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in ("setup/gpu.py", "benchmarks/gpu/machine.py", "constraints.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".gitignore").write_text("/out/\n")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**26)
    (tmp_path / "pip.py").write_text(
        "import pathlib; pathlib.Path('out/gpu-wheels').mkdir(parents=True, exist_ok=True)"
    )
    command = [sys.executable, "setup/gpu.py", "wheels", "3.12"]
    how = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(tmp_path)}, "capture_output": True, "text": True}
    done = subprocess.run(command, **how)
    assert done.returncode == 0 and "the checkout: 0.0 MB" in done.stdout, done.stderr  # nothing is tracked
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    done = subprocess.run(command, **how)
    assert done.returncode == 1 and "64.0 MiB together, expected at most 64" in done.stderr


MEASURED = ("parts", "ladder", "steady", "loops", "loaders")


@pytest.mark.parametrize(
    ("packages", "modules"),
    [
        (REQUIRED, [f"benchmarks.gpu.{name}" for name in MEASURED]),  # the least that a container has
        pytest.param(PRESENT, ["benchmarks.end_to_end", "dira_scale.pretrain"], marks=pytest.mark.system),
    ],
)
def test_what_is_measured_imports_nothing_that_is_neither_there_nor_carried(
    tmp_path: Path, packages: tuple[str, ...], modules: list[str]
) -> None:
    python = pretended(tmp_path / "python", (*packages, *CARRIED))
    lacks = (
        "import importlib.util as u; assert u.find_spec('torch') and not u.find_spec('nibabel'), 'nothing is hidden'"
    )
    code = f"{lacks}; import {', '.join(modules)}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0, done.stderr
