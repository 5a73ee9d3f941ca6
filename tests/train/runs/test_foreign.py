"""A run of a stranger: what is wrong with its files ends in one line, and no address that it names is asked."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from localize.made_up import tuned
from made_up_run import finished_run
from recorded import record
from shard_server import serve
from toy_run import write

from dira_scale import export, report
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.predict.make import make as predict
from dira_scale.report import health, page, plots
from dira_scale.report.content import read_run
from dira_scale.train.runs import files
from dira_scale.train.runs.checkpoint.reading import sealed
from dira_scale.train.runs.exit_codes import BAD_INPUT
from dira_scale.train.runs.files import read_yaml
from dira_scale.train.runs.reader import RunReader


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a page's time, and asks no file."""
    monkeypatch.setattr(plots, "svg", lambda *_: "<svg></svg>")


LINKED = ["config.yaml", "description.json", "status.json", "environment.json", "metrics.jsonl", "results.json"]


@pytest.mark.parametrize("name", [*LINKED, "pictures", "pictures/restoration.json"])
def test_a_file_that_is_a_link_out_of_the_run_is_not_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """It may be one of your own, whose content the page would show to others."""
    (run / "results.json").write_text("{}")
    kept = (run / name).rename(tmp_path / "kept")
    (run / name).symlink_to(kept)
    read = "pictures/restoration.json" if name == "pictures" else name
    assert report.main([f"run={run}", f"out={tmp_path / 'page.html'}"]) == 2
    assert f"{read} is a link that leaves" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_no_text_of_a_run_is_opened_otherwise(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "results.json").write_text("{}")
    looked, opened = set[Path](), set[Path]()
    inside, path_open = files.inside, Path.open

    def looking(path: Path, folder: Path | None = None) -> Path:
        looked.add(path)
        return inside(path, folder)

    def opening(path: Path, *arguments: Any, **named: Any) -> Any:
        opened.add(path)
        return path_open(path, *arguments, **named)

    monkeypatch.setattr(files, "inside", looking)
    monkeypatch.setattr(Path, "open", opening)
    page.render(read_run(run), {})
    texts = {path for path in opened if path.suffix in (".json", ".jsonl", ".yaml") and path.is_relative_to(run)}
    assert {path.name for path in texts} >= {*LINKED} and texts <= looked


def moved(run: Path, shards: str, folder: str | None = None) -> None:
    """The run says that its data was at ``shards``, and its checkpoints in ``folder``."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["shards"], config["checkpoint"]["folder"] = shards, folder
    record(run, config)


@pytest.mark.parametrize("reach", [[], ["reach={url}/other"], ["reach={url}/dat"]])
def test_a_report_asks_no_address_that_only_the_run_names(run: Path, tmp_path: Path, reach: list[str]) -> None:
    with serve(tmp_path) as server:
        moved(run, f"{server.url}/data", f"{server.url}/checkpoints")
        words = [word.format(url=server.url) for word in reach]
        assert report.main([f"run={run}", f"out={tmp_path / 'page.html'}", *words]) == 0
        assert not server.requested
    assert "not looked up" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("reach", ["reach={url}", "reach=[{url}/data/,s3://b]"])
def test_it_asks_what_the_user_names(run: Path, tmp_path: Path, reach: str) -> None:
    with serve(tmp_path) as server:
        moved(run, f"{server.url}/data")
        assert report.main([f"run={run}", f"out={tmp_path / 'page.html'}", reach.format(url=server.url)]) == 0
        assert server.requested["dataset.json"]


def test_weights_are_not_loaded_from_an_address_that_only_the_run_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(tmp_path) as server:
        moved(run, "data", f"{server.url}/checkpoints")
        assert export.main([f"run={run}"]) == 2
        assert not server.requested
    assert f"reach={server.url}/checkpoints asks there" in capsys.readouterr().err


TAG = "!!python/object/apply:os.system ['touch HARM']\n"
ALIASES = "a: &a [0, 0]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
DAMAGES = {
    "config.yaml": [TAG, f"data: {TAG}", "- a\n- list\n", "a: [1\n", "[" * 3000, "a: \udcff", ""],
    "status.json": ["{", "[]", "7", '{"step": 1e400}', '{"reason": 7}', "[" * 100_000],
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
    assert "title: expected text without control characters" in error and "\x1b" not in error


ROWS = ["{", "7", "[]", "{}", '{"step": "1"}', '{"step": 1, "epoch": 1, "lease": 1, "stage": 3, "split": "val"}']
ROWS += ['{"step": 1, "epoch": 1, "lease": 1, "stage": "di", "split": "val", "loss": "<b>"}']
ROWS += ['{"step": 1, "epoch": null, "lease": 1, "stage": "di", "split": "val"}']
ROWS += ['{"step": 1, "epoch": 1, "lease": 1, "stage": "di", "split": "train"}', "\udcff", "[" * 100_000]
WHOLE = '{"step": 1, "epoch": 1, "lease": 1, "stage": "di", "split": "val", "warnings": []}'
ROWS += [WHOLE.replace('"step": 1', f'"step": {wrong}') for wrong in ("1e400", "1" + 400 * "0", "1.5", "true", "NaN")]
ROWS += [WHOLE.replace("[]", wrong) for wrong in ("7", "[7]")]


def test_damaged_rows_are_left_out_and_counted(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = RunReader(run).rows()
    with (run / "metrics.jsonl").open("ab") as file:
        file.write("\n".join([*ROWS, '{"step": 9']).encode(errors="surrogateescape"))  # the last one is being written
    with caplog.at_level(logging.WARNING):
        assert RunReader(run).rows() == whole
    assert f"{len(ROWS)} rows left out, which are damaged" in caplog.text
    assert report.main([f"run={run}"]) == 0


# In the place of any value, as JSON; the two numbers are read as infinity and as one of 400 digits.
WRONG = ["null", "[]", "{}", '"x"', "-1", "1e400", "1" + 400 * "0", "true"]
FIGURE = {"metric": "AUROC", "name": "mean", "value": 0.75, "n": 3, "left_out": 0, "patients": 3, "positives": None,
          "convention": "", "both_empty": None}  # fmt: skip
RESULTS = {
    "step": 3, "splits": {"test": "test"}, "thresholds": {"bright": 0.5, "dark": 0.5},
    "never_answered": {"test": ["dark"]}, "interval": {"level": 0.95, "over": "patients", "resamples": 1000},
    "temperatures": {"bright": 1.0, "dark": 2.0},
    "figures": {"test": [FIGURE | {"interval": [0.5, 1.0]}, FIGURE | {"name": "bright", "positives": 1}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def tuned_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned run, ``data`` and an ``export`` beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    run = tuned(folder / "run", f"data.shards={write(folder / 'data')}", "task=labels")
    (run / "results.json").write_text(json.dumps(RESULTS))
    (run / "status.json").write_text(json.dumps({"state": "failed", "step": 3, "reason": "no", "exit_code": 1}))
    row = {"step": 3, "epoch": 1.0, "stage": "finetune", "split": "train", "lease": 1, "images_per_second": 9.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert export.main([f"run={run}", "formats=[timm,plain]", f"out={folder / 'export'}"]) == 0
    return run


def damaged(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the place, and the text with each value replaced in turn by a wrong one, where there are few by two."""
    paths = list(locations(content))
    for number, path in enumerate(paths):
        *parents, last = path
        inside = content
        for part in parents:
            inside = inside[part]
        kept = inside[last]
        for step in (0, 3) if len(paths) < len(WRONG) else (0,):
            wrong, inside[last] = WRONG[(number + step) % len(WRONG)], "WRONG"
            yield f"{path}: {wrong[:9]}", json.dumps(content).replace('"WRONG"', wrong)
        inside[last] = kept


def locations(content: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All keys, and the first entry of each list."""
    inner = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for key, value in inner:
        yield (*prefix, key)
        yield from locations(value, (*prefix, key))


@pytest.mark.parametrize(
    ("folder", "file"),
    [("run", "results.json"), ("run", "status.json"), ("run", "description.json"), ("export", "predict.json")],
)
def test_no_value_of_a_file_ends_in_a_traceback(
    tuned_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    folder: str,
    file: str,
) -> None:
    """It is refused in one line, or read."""
    for module, name in ((plots, "curves"), (health, "monitor_plots")):  # slow, of rows alone
        monkeypatch.setattr(module, name, lambda *_: [])
    copy = Path(shutil.copytree(tuned_run.parent / folder, tmp_path / "copy"))
    words = [f"run={copy}", f"data.shards={tuned_run.parent / 'data'}", f"out={tmp_path / 'out'}", "workers=1"]
    requested = compose("predict", words)
    exported = compose("export", [f"run={copy}", "formats=plain", f"out={tmp_path / 'out'}"])
    refused = []
    for where, text in damaged(json.loads((copy / file).read_text())):
        (copy / file).write_text(text)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        try:
            if folder == "export":
                if predict(requested) == BAD_INPUT:
                    refused.append(where)
                    assert "\n" not in caplog.messages[-1], where
            elif file == "description.json":
                export.COMMAND.carry_out(exported)
            if folder == "run":
                page.render(read_run(copy), {})
        except UserError as error:
            refused.append(where)
            assert "\n" not in str(error), where
        except Exception as error:
            raise AssertionError(where) from error
    assert len(refused) >= 5


def test_no_value_of_a_configuration_ends_in_a_traceback(tuned_run: Path, tmp_path: Path) -> None:
    """Each of the first keys, as text."""
    copy = Path(shutil.copytree(tuned_run, tmp_path / "copy"))
    config, refused = yaml.safe_load((copy / "config.yaml").read_text()), []
    for key in config:
        (copy / "config.yaml").write_text(yaml.safe_dump(config | {key: "x"}))
        try:
            TrainedRun.of(copy)
        except UserError:
            refused.append(key)
    assert {"data", "task", "evaluate"} <= {*refused}


def indexed(checkpoint: Path, **part: Any) -> None:
    """The checkpoint's index says this of its first part, under a seal that fits."""
    index = json.loads((checkpoint / "index.json").read_text())
    index["parts"][0] |= part
    (checkpoint / "index.json").write_text(sealed({key: value for key, value in index.items() if key != "xxh3"}))


@pytest.mark.parametrize("wrong", ["outside", "device", "size", "sizes", "pointer", "pointers", "index"])
def test_a_checkpoint_is_of_files_in_its_folder_of_the_size_that_it_says(
    tuned_run: Path, tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without an end, such as /dev/zero, is not read at all."""
    copy = Path(shutil.copytree(tuned_run, tmp_path / "copy"))
    (best,) = (copy / "checkpoints").glob("0*")
    (part,) = best.glob("*.safetensors")
    message = "not a regular file"
    if wrong == "outside":
        shutil.copy(part, copy / "other")
        indexed(best, file="../../other")
        message = "which is no file in its folder"
    elif wrong == "device":
        part.unlink()
        part.symlink_to("/dev/zero")
    elif wrong == "size":
        indexed(best, size=part.stat().st_size - 1)
        message = "cut short or changed since it was written \\("
        monkeypatch.setattr(Path, "read_bytes", lambda path: path.read_text().encode())  # of the index alone
    elif wrong == "sizes":
        indexed(best, size="all")
        message = r"parts\[0\].size: expected a whole number of at least 0, got 'all'"
    elif wrong == "index":
        (best / "index.json").unlink()
        (best / "index.json").symlink_to("/dev/zero")
    else:
        pointer = copy / "checkpoints" / "BEST-finetune"
        pointer.unlink()
        if wrong == "pointer":
            pointer.write_text("../../elsewhere")
        else:
            pointer.symlink_to("/dev/zero")
        message = "names no checkpoint"
    with pytest.raises(UserError, match=message):
        RunReader(copy).load("finetune")


@pytest.mark.parametrize(
    ("text", "message"),
    [(ALIASES, "aliases are not read"), ("a: .inf", "infinite"), ("a: 2020-01-01", "of type date"),
     (f"a: 0x1{400 * '0'}", "64 bits"), (f"a: {'b' * 2**22}", "more than 4,194,304 bytes")],
)  # fmt: skip
def test_yaml_is_read_as_plain_values_of_its_own_size(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "a.yaml")
