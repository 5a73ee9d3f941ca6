"""The command bench: what it lists, what it refuses, and that each benchmark is found by its name."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dira_scale.bench import BENCHMARKS, main

ROOT = Path(__file__).parents[2]


def test_without_a_name_it_lists_the_benchmarks(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capfd.readouterr().out
    assert all(f"\n  {name} " in printed for name in BENCHMARKS)
    assert main(["--help"]) == 0 and capfd.readouterr().out == printed


def test_an_unknown_name_is_a_line_with_the_nearest(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stpe"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "no benchmark 'stpe'; did you mean 'step'?" in error
    assert all(name in error for name in BENCHMARKS)


def test_each_name_has_its_file() -> None:
    for name in BENCHMARKS:
        result = ROOT / "benchmarks" / f"{name}.py", ROOT / "benchmarks" / name / "__main__.py"
        assert any(path.is_file() for path in result), name


def test_flags_are_the_benchmarks_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From anywhere, with the flag's own error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [location for location in sys.path if location != str(ROOT)])
    for flags, code in ((["--round", "x"], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(["loader", *flags])
        printed = "".join(capsys.readouterr())
        assert ended.value.code == code and "usage: dira_scale.bench loader" in printed
        assert ("--rounds" if code == 0 else "invalid int value: 'x'") in printed


INTERRUPTED = """
import runpy, sys, time
from dira_scale.bench import main

def runs(*_, **__):
    print("running", flush=True)
    time.sleep(60)

runpy.run_module = runs
raise SystemExit(main(["step"]))
"""


def test_an_interrupted_benchmark_says_so_in_a_line() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "running\n"
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, error) == (75, "\nbench: interrupted; run the same command again\n")
