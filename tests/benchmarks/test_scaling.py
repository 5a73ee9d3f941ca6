"""The scaling benchmark: what it prints is of its own figures, and each row says whether it is measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import SECONDS

TINY = ["--experiment", "small", "--images", "8", "--keys", "data.size=32", "model.decoder_channels=[32,16,16,8,8]"]


def study(out: Path, *arguments: str) -> tuple[dict, str]:  # type: ignore[type-arg]
    command = [sys.executable, "-m", "dira_scale.bench", "scaling", "--out", str(out), *TINY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "scaling.json").read_text()), done.stdout


def test_simulated_rows(tmp_path: Path) -> None:
    found, printed = study(tmp_path, "--processes")
    rows = found["simulated_gpus"]
    assert [row["gpus"] for row in rows] == [8, 16, 32, 64, 128, 256, 512, 1024]
    for name in ("efficiency", "efficiency_without_own", "goodput", "interval"):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True), name
    assert all(0 < row["efficiency"] <= row["efficiency_without_own"] <= 1 for row in rows)
    assert found["measured"] == [] and (tmp_path / "scaling.png").stat().st_size > 10_000
    assert sum(line.startswith("simulated") for line in printed.splitlines()) == len(rows)
    assert not any(line.startswith("measured  ") for line in printed.splitlines())


@pytest.mark.torture
def test_measured_rows(tmp_path: Path) -> None:
    found, printed = study(tmp_path, "--processes", "1", "2", "--steps", "6")
    one, two = found["measured"]
    assert (one["processes"], two["processes"]) == (1, 2)
    for row in (one, two):
        assert row["efficiency"] == pytest.approx(row["apart"] / row["together"]) and row["together"] > 0
    assert set(found["simulated_here"]) == {"2"} and found["simulated_here"]["2"] >= two["apart"]
    assert sum(line.startswith("measured  ") for line in printed.splitlines()) == 2
