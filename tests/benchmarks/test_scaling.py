"""The scaling benchmark: what it prints is of its own figures."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.scaling import efficiency, gpus, messages, percent
from dira_scale.bench import main
from dira_scale.fleet.forecast.ledger import CollectiveMessage

pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # these tests import it too
TINY = ["--experiment", "small", "--images", "8", "--keys", "data.size=32", "model.encoder=test_resnet"]
# Without a host, which would hide all messages of so small a network.
TINY += ["model.decoder_channels=[32,16,16,8,8]", "method.base.queue=1024", "plan.dispatch=0"]


def study(out: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict, str]:  # type: ignore[type-arg]
    assert main(["scaling", "--out", str(out), *TINY, *arguments]) == 0
    return json.loads((out / "scaling.json").read_text()), capsys.readouterr().out


@pytest.mark.system
def test_simulated_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, printed = study(tmp_path, capsys)
    simulated = result["simulated_gpus"]
    assert [row["gpus"] for row in simulated] == [8, 16, 32, 64, 128, 256, 512, 1024]
    for name in ("efficiency", "efficiency_without_own"):
        values = [row[name] for row in simulated]
        assert values == sorted(values, reverse=True), name
    assert all(0 < row["efficiency"] <= row["efficiency_without_own"] + 1e-12 <= 1 for row in simulated)
    for row in simulated:
        assert sum(row["parts"].values()) == pytest.approx(row["step"])
    assert sum(line.startswith(" simulated") for line in printed.splitlines()) == len(simulated)


def test_messages_grow_with_the_job_or_stay_with_their_group() -> None:
    """Jobs of 64, 128 ranks: keys of all, statistics of all, images in blocks of 8, statistics of a group of 16."""

    def job(ranks: int) -> list[CollectiveMessage]:
        keys = CollectiveMessage("gather", 100 * ranks, ranks, asynchronous=True)
        everywhere = CollectiveMessage("all_reduce", 5000, ranks)
        return [
            keys,
            everywhere,
            CollectiveMessage("all_to_all", 700, min(8, ranks)),
            CollectiveMessage("gather", 30, min(16, ranks)),
        ]

    for ranks in (8, 32, 256, 1024):
        assert messages(job(64), job(128), ranks) == job(ranks)
    assert messages(job(64), job(128), 1) == []


COLUMNS = ["machine=a100"], ["machine=a100", "plan.links=8"], ["machine=h200"]
MARKS = pytest.mark.torture, pytest.mark.torture, pytest.mark.system


@pytest.mark.parametrize("column", [pytest.param(n, marks=mark) for n, mark in enumerate(MARKS)])
def test_the_prediction_in_the_documentation_is_what_is_simulated(column: int) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evidence" / "scale.md").read_text()
    text = page.partition("<!-- prediction -->")[2]
    found = re.findall(r"^\| ([\d,]+) \|(.*)\|$", text.partition("\n\n")[0], re.MULTILINE)
    job = gpus("dira_moco", COLUMNS[column], 64)[0]
    assert [int(ranks.replace(",", "")) for ranks, _ in found] == [8, 128, 512, 1024]
    for ranks, cells in found:
        assert cells.split("|")[column].strip() == percent(efficiency(job, 1, int(ranks.replace(",", ""))))
