"""A run of a stranger: what is wrong with its files ends in one line, and no address that it names is asked."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import yaml
from made_up_run import finished_run
from shard_server import serve

from dira_scale import report
from dira_scale.runs.reader import RunReader


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def moved(run: Path, shards: str, folder: str | None = None) -> None:
    """The run says that its data was at ``shards``, and its checkpoints in ``folder``."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["shards"], config["checkpoint"]["folder"] = shards, folder
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("reach", [[], ["reach={url}/other"], ["reach={url}/dat"]])
def test_a_report_asks_no_address_that_only_the_run_names(run: Path, tmp_path: Path, reach: list[str]) -> None:
    with serve(tmp_path) as server:
        moved(run, f"{server.url}/data", f"{server.url}/checkpoints")
        words = [word.format(url=server.url) for word in reach]
        assert report.main([f"run={run}", f"out={tmp_path / 'page.html'}", *words]) == 0
        assert not server.asked
    assert "not looked up" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("reach", ["reach={url}", "reach=[{url}/data/,s3://b]"])
def test_it_asks_what_the_user_names(run: Path, tmp_path: Path, reach: str) -> None:
    with serve(tmp_path) as server:
        moved(run, f"{server.url}/data")
        assert report.main([f"run={run}", f"out={tmp_path / 'page.html'}", reach.format(url=server.url)]) == 0
        assert server.asked["dataset.json"]


def test_weights_are_not_loaded_from_an_address_that_only_the_run_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dira_scale import export

    with serve(tmp_path) as server:
        moved(run, "data", f"{server.url}/checkpoints")
        assert export.main([f"run={run}"]) == 2
        assert not server.asked
    assert f"reach={server.url}/checkpoints asks there" in capsys.readouterr().err


TAG = "!!python/object/apply:os.system ['touch HARM']\n"
DAMAGES = {
    "config.yaml": [TAG, f"data: {TAG}", "- a\n- list\n", "a: [1\n", "[" * 3000, "a: \udcff", ""],
    "status.json": ["{", "[]", "7", "[" * 100_000],
    "environment.json": ["{", '"text"'],
    "pictures/restoration.json": ["{", "{}"],
    "results.json": ["{", "[1]"],
    "description.json": ["{", "[]", "[" * 100_000, '{"format": {}}'],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGES.items() for text in texts])
def test_a_damaged_file_ends_in_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    monkeypatch.chdir(run)
    (run / name).write_bytes(text.encode(errors="surrogateescape"))
    assert report.main([f"run={run}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and name in error and "Traceback" not in error
    assert not (run / "HARM").exists()


def test_texts_that_command_a_terminal_are_no_description(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = json.loads(RunReader(run).description.to_json())
    description["title"] = "a\x1b]0;owned\x07"
    (run / "description.json").write_text(json.dumps(description))
    assert report.main([f"run={run}"]) == 2
    error = capsys.readouterr().err
    assert "title has unprintable characters" in error and "\x1b" not in error


ROWS = ["{", "7", "[]", "{}", '{"step": "1"}', '{"step": 1, "epoch": 1, "lease": 1, "stage": 3, "split": "val"}']
ROWS += ['{"step": 1, "epoch": 1, "lease": 1, "stage": "di", "split": "val", "loss": "<b>"}']
ROWS += ['{"step": 1, "epoch": null, "lease": 1, "stage": "di", "split": "val"}']
ROWS += ['{"step": 1, "epoch": 1, "lease": 1, "stage": "di", "split": "train"}', "\udcff", "[" * 100_000]


def test_damaged_rows_are_left_out_and_counted(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = RunReader(run).rows()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write("\n".join([*ROWS, '{"step": 9']).encode(errors="surrogateescape"))  # the last one is being written
    with caplog.at_level(logging.WARNING):
        assert RunReader(run).rows() == whole
    assert f"{len(ROWS)} rows left out, which are damaged" in caplog.text
    assert report.main([f"run={run}"]) == 0
