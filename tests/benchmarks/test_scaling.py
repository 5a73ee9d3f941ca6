"""The scaling benchmark: what it prints is of its own figures, and each row says whether it is measured."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.scaling.measured import Measured
from benchmarks.scaling.published import PUBLISHED, efficiency
from benchmarks.scaling.simulated import gpus, messages
from benchmarks.scaling.tables import percent, tell_measured
from dira_scale.bench import main
from dira_scale.forecast.ledger import Collective

TINY = ["--experiment", "small", "--images", "8", "--keys", "data.size=32", "model.encoder=test_resnet"]
TINY += ["model.decoder_channels=[32,16,16,8,8]", "method.base.queue=1024"]


def study(out: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict, str]:  # type: ignore[type-arg]
    assert main(["scaling", "--out", str(out), *TINY, *arguments]) == 0
    return json.loads((out / "scaling.json").read_text()), capsys.readouterr().out


def test_simulated_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, printed = study(tmp_path, capsys, "--processes")
    rows = result["simulated_gpus"]
    assert [row["gpus"] for row in rows] == [8, 16, 32, 64, 128, 256, 512, 1024]
    for name in ("efficiency", "efficiency_without_own", "goodput", "interval"):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True), name
    assert all(0 < row["efficiency"] <= row["efficiency_without_own"] <= 1 for row in rows)
    for row in rows:
        assert sum(row["parts"].values()) == pytest.approx(row["step"])
    assert result["measured"] == [] and (tmp_path / "scaling.png").stat().st_size > 10_000
    assert sum(line.startswith("simulated") for line in printed.splitlines()) == len(rows)
    assert not any(line.startswith("measured  ") for line in printed.splitlines())


def test_messages_grow_with_the_job_or_stay_with_their_group() -> None:
    """Of 64 and 128 ranks: keys of all, statistics of all, images in blocks of 8, statistics of a group of 16."""

    def job(ranks: int) -> list[Collective]:
        keys = Collective("gather", 100 * ranks, ranks, asynchronous=True)
        everywhere = Collective("all_reduce", 5000, ranks)
        return [
            keys,
            everywhere,
            Collective("all_to_all", 700, min(8, ranks)),
            Collective("gather", 30, min(16, ranks)),
        ]

    for ranks in (8, 32, 256, 1024):
        assert messages(job(64), job(128), ranks) == job(ranks)
    assert messages(job(64), job(128), 1) == []


@pytest.mark.torture
def test_measured_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, printed = study(tmp_path, capsys, "--processes", "1", "2", "--steps", "6", "--loaders", "cpu", "stream")
    item, two, *others = result["measured"]
    assert [(m["loader"], m["processes"]) for m in (item, two)] == [("cpu", 1), ("cpu", 2)]
    assert [(m["loader"], m["processes"]) for m in others] == [("stream", 1), ("stream", 2)]
    for row in result["measured"]:
        assert row["efficiency"] == pytest.approx(row["apart"] / row["together"]) and row["together"] > 0
    assert set(result["simulated_here"]) == {"2"} and result["simulated_here"]["2"] >= two["apart"]
    assert sum(line.startswith("measured  ") for line in printed.splitlines()) == 4


def test_rows_of_each_loader_and_why_one_has_none() -> None:
    """Two processes take 0.8 s together, 0.6 s apart; one takes 0.5 s: 2 · 0.5 / 0.8 times as fast."""
    measured = [
        Measured(1, "cpu", 0.5, 0.5, 0.0),
        Measured(2, "cpu", 0.8, 0.6, 0.0),
        Measured(2, "helper", 1, 0.5, 0.0),
    ]
    console = Console(width=110, file=StringIO())
    tell_measured(console, measured, {2: 0.75}, 1.0, {"ffcv": "is not installed"})
    rows = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert rows[2:6] == [
        ["measured", "cpu", "1", "500", "500", "1.00", "100.0", "%"],
        ["measured", "cpu", "2", "600", "800", "1.25", "75.0", "%"],
        ["simulated", "2", "750", "(-6", "%)", "80.0", "%"],
        ["measured", "helper", "2", "500", "1000", "–", "50.0", "%"],
    ]
    assert ["without", "ffcv:", "is", "not", "installed"] in rows


@pytest.mark.system
def test_the_prediction_in_the_documentation_is_what_is_simulated() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evidence" / "proof.md").read_text()
    text = page.partition("<!-- prediction -->")[2]
    rows = re.findall(r"^\| ([\d,]+) \|(.*)\|$", text.partition("\n\n")[0], re.MULTILINE)
    jitter = PUBLISHED[0].jitter()
    columns = ["machine=a100"], ["machine=a100", "plan.links=8"], ["machine=h200"]
    jobs = [gpus("dira_moco", keys, 64, jitter)[0] for keys in columns]
    assert [int(ranks.replace(",", "")) for ranks, _ in rows] == [8, 128, 512, 1024]
    for ranks, cells in rows:
        simulated = [efficiency(job, 1, int(ranks.replace(",", ""))) for job in jobs]
        assert [cell.strip() for cell in cells.split("|")] == [percent(share) for share in simulated]
