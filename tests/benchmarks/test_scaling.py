"""The scaling benchmark: what it prints is of its own figures, and each row says whether it is measured."""

import json
from pathlib import Path

import pytest

from dira_scale.bench import main

TINY = ["--experiment", "small", "--images", "8", "--keys", "data.size=32", "model.decoder_channels=[32,16,16,8,8]"]


def study(out: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict, str]:  # type: ignore[type-arg]
    assert main(["scaling", "--out", str(out), *TINY, *arguments]) == 0
    return json.loads((out / "scaling.json").read_text()), capsys.readouterr().out


def test_simulated_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, printed = study(tmp_path, capsys, "--processes")
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
def test_measured_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, printed = study(tmp_path, capsys, "--processes", "1", "2", "--steps", "6")
    one, two = found["measured"]
    assert (one["processes"], two["processes"]) == (1, 2)
    for row in (one, two):
        assert row["efficiency"] == pytest.approx(row["apart"] / row["together"]) and row["together"] > 0
    assert set(found["simulated_here"]) == {"2"} and found["simulated_here"]["2"] >= two["apart"]
    assert sum(line.startswith("measured  ") for line in printed.splitlines()) == 2
