"""The description of a run by its task: written, read back, refused where it is damaged."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from recorded import derived
from train.engine.regression import Regression, train

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import locate
from dira_scale.export import main as export
from dira_scale.report import main as report
from dira_scale.sweep.results import training
from dira_scale.train.runs.description import FILE, FORMAT, Dataset, Description, read_description


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a task that has nothing of pretraining."""
    run, threads = tmp_path_factory.mktemp("described") / "line", torch.get_num_threads()
    try:
        assert train(str(run), "ddp", 40) == 0
    finally:
        torch.set_num_threads(threads)
    return run


def composed(*words: str) -> dict[str, Any]:
    content = OmegaConf.to_container(compose("pretrain", ["data.shards=any", *words]))
    assert isinstance(content, dict)
    return content


def written(description: Description, folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("{}\n")
    (folder / FILE).write_text(description.to_json())
    return folder


@pytest.mark.parametrize("words", [[], ["experiment=pcrl"], ["method=byol", "epoch_factor=0.5"]])
def test_a_description_is_read_as_it_was_written(tmp_path: Path, words: list[str]) -> None:
    described = derived("pretrain", composed(*words))
    assert asdict(read_description(written(described, tmp_path / "run"))) == asdict(described)


def test_what_an_older_version_did_not_say_has_its_default(tmp_path: Path) -> None:
    described = derived("pretrain", composed())
    run = written(described, tmp_path / "run")
    content = json.loads((run / FILE).read_text())
    del content["output"]["restored"], content["network"]["licence"]
    (run / FILE).write_text(json.dumps(content))
    assert read_description(run) == described


def test_a_run_without_one_is_named(tmp_path: Path) -> None:
    run = written(derived("pretrain", composed()), tmp_path / "run")
    (run / FILE).unlink()
    with pytest.raises(UserError, match=r"run/description\.json is missing: restore it, or call the command again"):
        read_description(run)
    with pytest.raises(UserError, match=r"nowhere is not a run folder"):
        read_description(tmp_path / "nowhere")


def test_pretraining_says_what_its_readers_ask() -> None:
    described = derived("pretrain", composed("experiment=small", "epoch_factor=0.5", "stages.dira.epochs=0"))
    config = composed("experiment=small")
    assert [stage.name for stage in described.stages] == ["di", "dir"]
    assert [stage.epochs for stage in described.stages] == [config["stages"][s]["epochs"] / 2 for s in ("di", "dir")]
    assert [described.trains_decoder(stage) for stage in ("di", "dir")] == [False, True]
    assert described.terms["di"].title == "Discrimination (MoCo)"
    assert described.metrics["loss"].direction == "min" and described.metrics["top1"].direction == "max"
    assert described.best in described.metrics and described.rate == "images_per_second"
    assert (described.network.name, described.network.dimensions, described.network.channels) == (
        config["model"]["encoder"], 2, 3,
    )  # fmt: skip
    assert described.input.size == (config["data"]["size"],) * 2
    assert described.output.activation == "sigmoid"
    assert derived("pretrain", composed("experiment=pcrl3d")).output.activation == "sigmoid"
    assert derived("pretrain", composed("experiment=pcrl", "preset=released")).output.scale == pytest.approx(4.43, 0.01)
    volumes = {"_target_": "train.models.stub3d.Tiny3D", "width": 4, "weights": None, "bn_groups": 1}
    in_depth = derived("pretrain", config | {"model": volumes}).input
    assert in_depth.size == in_depth.sides == (config["data"]["size"],) * 3  # as views of volumes have it
    flat = config | {"model": volumes, "data": config["data"] | {"size": [8, 64, 64]}}
    assert derived("pretrain", flat).input.sides == (8, 64, 64)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["method=dira_moco"], ["method.base.encoder", "method.decoder", "method.head", "method.base.key_encoder"]),
        (["method=byol", "stages.dir.epochs=0", "stages.dira.epochs=0"], ["method.encoder", "method.target_encoder"]),
        (["experiment=pcrl"], ["method.encoder", "method.decoder", "method.head", "method.key_encoder"]),
        (["method=dira_dino"], ["method.base.encoder", "method.decoder", "method.head", "method.base.teacher"]),
        (["method=dino", "stages.dir.epochs=0", "stages.dira.epochs=0"], ["method.teacher"]),
        (["method=simsiam", "stages.dir.epochs=0", "stages.dira.epochs=0"], ["method.encoder"]),
    ],
)
def test_the_named_tensors_are_those_of_the_built_method(words: list[str], parts: list[str]) -> None:
    from dira_scale.train import methods

    words = [*words, "model.encoder=test_resnet", "data.size=32", "model.decoder_channels=[8,8,8,8,8]"]
    config = compose("pretrain", ["data.shards=any", *words])
    tensors = derived("pretrain", composed(*words)).tensors
    printed = [tensors.encoder, tensors.decoder, tensors.head, tensors.momentum]
    assert [prefix for prefix in printed if prefix] == parts
    with torch.device("meta"):
        method = methods.construct(config.method, config.model, methods.views_of(config))
    names = [f"{tensors.module}.{name}" for name in method.state_dict()]
    assert all(any(name.startswith(f"{prefix}.") for name in names) for prefix in parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, f"format 99, this dira_scale reads {FORMAT}: use the one that wrote it"),
        ({"unit": 3}, "unit: expected text, got 3; restore the file, or move it away"),
        ({"surprise": 1}, "surprise: expected only best, "),
        ({"network": {"name": "x"}}, "network.architecture: expected a value; it is missing; restore"),
        ({"metrics": {"loss": {"title": "L", "direction": "up", "term": None}}}, "metrics.loss.direction: expected "),
        ({"stages": [{"name": "di", "terms": [], "epochs": "2", "decoder": False}]}, "stages[0].epochs: expected "),
    ],
)  # fmt: skip
def test_a_damaged_description_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run = written(derived("pretrain", composed()), tmp_path / "run")
    content = json.loads((run / FILE).read_text()) | change
    (run / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_description(run)
    assert str(error.value).startswith(f"{run / FILE}: {message}") and "\n" not in str(error.value)


def test_what_cannot_be_built_here_is_described_by_its_name() -> None:
    config = composed("experiment=small")
    network = derived("pretrain", config | {"model": config["model"] | {"_target_": "nowhere.Net"}}).network
    assert (network.name, network.dimensions, network.channels) == ("nowhere.Net", 2, 1)


def test_a_path_that_is_named_twice_is_one_dataset() -> None:
    config = composed("experiment=small")
    config |= {"data": config["data"] | {"shards": ["a", "a", "b"]}, "datasets": [{"hash": "1"}, {"hash": "2"}]}
    assert [(each.path, each.hash) for each in derived("pretrain", config).data.datasets] == [("a", "1"), ("b", "2")]


def test_another_tasks_run_is_reported_and_its_results_are_read(
    regression: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dira_scale.report.plots.svg", lambda *_: "<svg></svg>")  # most of a page's time
    assert read_description(regression) == Regression.describe(Regression.__new__(Regression), {})
    assert report([f"run={regression}"]) == 0
    page = (regression / "report.html").read_text()
    for text in ("A line, fitted (<code>regression.py</code>)", "points/s", "the slopes", "Mean squared error"):
        assert text in page
    figures, *_ = training(regression)
    assert {"weights/train/points_per_second", "all/val/loss"} <= {name for name, _ in figures}
    assert export([f"run={regression}"]) == 2
    assert "has no encoder" in capsys.readouterr().err


def test_where_data_is_does_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Dataset("shards/mine", "h").at(Path("shards/mine")).path == str(tmp_path / "shards" / "mine")
    assert Dataset("s3://b/mine", "h").at(locate("s3://b/mine", "data.shards")).path == "s3://b/mine"
