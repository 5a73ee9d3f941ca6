"""What a task says of its run: written, read back, derived for runs from before, refused where it is damaged."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from engine.regression import Regression, train
from made_up_run import finished_run
from omegaconf import OmegaConf
from unpacked import unpack

from dira_scale.cluster.results import training
from dira_scale.config.compose import compose
from dira_scale.errors import UserError
from dira_scale.export import main as export
from dira_scale.models.encoder import build_encoder
from dira_scale.models.weights import trained_encoder
from dira_scale.places.store import locate
from dira_scale.report import main as report
from dira_scale.reporting import plots
from dira_scale.runs import checkpoint
from dira_scale.runs.description import FILE, Dataset, Description, derived, read_description
from dira_scale.runs.reader import RunReader

FIXTURES = Path(__file__).parents[1] / "fixtures"


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


def test_a_description_of_the_first_format_is_read_and_as_strictly(tmp_path: Path) -> None:
    described = derived("pretrain", composed("model.weights=start.pth"))
    run = written(described, tmp_path / "run")
    content = json.loads((run / FILE).read_text()) | {"format": 1}
    for part, keys in {"network": ("licence", "head"), "output": ("names",)}.items():
        content[part] = {key: value for key, value in content[part].items() if key not in keys}
    (run / FILE).write_text(json.dumps(content))
    assert read_description(run) == described
    del content["network"]["start"]
    (run / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"network\.start is missing; restore"):
        read_description(run)
    (run / FILE).write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(UserError, match=r"network\.head is missing; restore"):
        read_description(run)


def test_pretraining_says_what_its_readers_ask() -> None:
    described = derived("pretrain", composed("experiment=small", "epoch_factor=0.5", "stages.dira.epochs=0"))
    config = composed("experiment=small")
    assert [stage.name for stage in described.stages] == ["di", "dir"]
    assert [stage.epochs for stage in described.stages] == [config["stages"][s]["epochs"] / 2 for s in ("di", "dir")]
    assert [described.trains_decoder(stage) for stage in ("di", "dir")] == [False, True]
    assert described.terms["di"].title == "Discrimination (MoCo)" and described.terms["re"].title == "Restoration (MSE)"
    assert described.metrics["loss"].direction == "min" and described.metrics["top1"].direction == "max"
    assert described.best in described.metrics and described.rate == "images_per_second"
    assert (described.network.name, described.network.dimensions, described.network.channels) == (
        config["model"]["encoder"], 2, 3,
    )  # fmt: skip
    assert described.input.size == (config["data"]["size"],) * 2
    assert described.output.activation == "sigmoid"
    assert derived("pretrain", composed("experiment=pcrl3d")).output.activation == "sigmoid"
    assert derived("pretrain", composed("experiment=pcrl", "preset=released")).output.scale == pytest.approx(4.43, 0.01)
    words = derived("pretrain", composed("experiment=dira_transvw"))
    assert words.metrics["accuracy"].title == "Accuracy of words (chance 1/44)" and "accuracy" not in described.metrics
    assert words.terms["di"].title == "Discrimination (TransVW)" and "visual word" in words.terms["di"].meaning
    assert words.trained == "pretrained on the dataset's label `word`"
    volumes = {"_target_": "models.stub3d.Tiny3D", "width": 4, "weights": None, "bn_groups": 1}
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
        (["method=simsiam", "stages.dir.epochs=0", "stages.dira.epochs=0"], ["method.encoder"]),
    ],
)
def test_the_named_tensors_are_those_of_the_built_method(words: list[str], parts: list[str]) -> None:
    from dira_scale import methods

    words = [*words, "model.encoder=test_resnet", "data.size=32", "model.decoder_channels=[8,8,8,8,8]"]
    config = compose("pretrain", ["data.shards=any", *words])
    tensors = derived("pretrain", composed(*words)).tensors
    said = [tensors.encoder, tensors.decoder, tensors.head, tensors.momentum]
    assert [prefix for prefix in said if prefix] == parts
    with torch.device("meta"):
        method = methods.construct(config.method, config.model, methods.views_of(config))
    names = [f"{tensors.module}.{name}" for name in method.state_dict()]
    assert all(any(name.startswith(f"{prefix}.") for name in names) for prefix in parts)


@pytest.mark.parametrize("name", ["interrupted", "sharded", "views1"])
def test_a_run_from_before_has_one_too(tmp_path: Path, name: str) -> None:
    unpack(FIXTURES / f"{name}.tar.xz", tmp_path)
    run = tmp_path / ("interrupted" if name == "views1" else name)
    assert not (run / FILE).exists()
    described, config = read_description(run), yaml.safe_load((run / "config.yaml").read_text())
    tensors = checkpoint.load(checkpoint.latest(run))[0]
    parts = described.tensors
    for prefix in (
        parts.module,
        parts.optimizer,
        parts.encoder,
        parts.decoder,
        parts.head,
        parts.momentum,
        *parts.side,
    ):
        assert any(tensor.startswith(f"{prefix}.") for tensor in tensors), prefix
    assert described.data.datasets == (Dataset("radiographs", config["datasets"][0]["hash"]),)
    assert not (run / FILE).exists()  # reading writes nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99; this version reads 1 to 2: update dira_scale"),
        ({"unit": 3}, "unit is 3, not str; restore the file, or move it away"),
        ({"surprise": 1}, "surprise is unknown; restore"),
        ({"network": {"name": "x"}}, "network.architecture is missing; restore"),
        ({"metrics": {"loss": {"title": "L", "direction": "up", "term": None}}}, 'metrics.loss.direction is "up", not'),
        ({"stages": [{"name": "di", "terms": [], "epochs": "2", "decoder": False}]}, 'stages.0.epochs is "2", not fl'),
    ],
)  # fmt: skip
def test_a_damaged_description_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run = written(derived("pretrain", composed()), tmp_path / "run")
    content = json.loads((run / FILE).read_text()) | change
    (run / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_description(run)
    assert str(error.value).startswith(f"{run / FILE}: {message}") and "\n" not in str(error.value)


def test_a_description_that_is_cut_is_named(tmp_path: Path) -> None:
    run = written(derived("pretrain", composed()), tmp_path / "run")
    (run / FILE).write_text((run / FILE).read_text()[:100])
    with pytest.raises(UserError, match=r"description\.json: "):
        RunReader(run)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("seed: 0\n", "KeyError('data');"),
        (yaml.dump(composed("experiment=small") | {"stages": ["di"]}), "AttributeError("),
    ],
)
def test_a_configuration_that_describes_no_run_is_one_line(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        read_description(tmp_path)
    start = f"{tmp_path}/config.yaml is not of a run of pretrain: {reason}"
    message = str(error.value)
    assert message.startswith(start) and message.endswith("; restore the file") and "\n" not in message


def test_what_cannot_be_built_here_is_described_by_its_name() -> None:
    config = composed("experiment=small")
    network = derived("pretrain", config | {"model": config["model"] | {"_target_": "nowhere.Net"}}).network
    assert (network.name, network.dimensions, network.channels) == ("nowhere.Net", 2, 1)


def test_a_path_that_is_named_twice_is_one_dataset() -> None:
    config = composed("experiment=small")
    config |= {"data": config["data"] | {"shards": ["a", "a", "b"]}, "datasets": [{"hash": "1"}, {"hash": "2"}]}
    assert [(each.path, each.hash) for each in derived("pretrain", config).data.datasets] == [("a", "1"), ("b", "2")]


def test_a_network_within_the_method_is_looked_for_in_a_run_from_before() -> None:
    described = derived("pretrain", composed("experiment=small", "model.encoder=test_resnet", "data.size=64"))
    described = replace(described, tensors=replace(described.tensors, encoder="method.encoder"))
    weights = build_encoder("test_resnet", size=64).state_dict()
    tensors = {f"method.base.encoder.{name}": tensor for name, tensor in weights.items()}
    loaded = trained_encoder(described, tensors).state_dict()
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_made_up_runs_report_is_the_same_with_and_without_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "svg", lambda label, _: f"<svg>{label}</svg>")
    run = finished_run(tmp_path)
    assert report([f"run={run}"]) == 0
    before = (run / "report.html").read_text()
    (run / FILE).write_text(read_description(run).to_json())
    assert report([f"run={run}"]) == 0
    assert (run / "report.html").read_text() == before


def test_another_tasks_run_is_reported_and_its_results_are_read(
    regression: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_description(regression) == Regression.describe(Regression.__new__(Regression), {})
    assert report([f"run={regression}"]) == 0
    page = (regression / "report.html").read_text()
    for text in ("A line, fitted (<code>regression.py</code>)", "points/s", "the slopes", "Mean squared error"):
        assert text in page
    figures, _ = training(regression)
    assert {"weights/train/points_per_second", "all/val/loss"} <= {name for name, _ in figures}
    assert export([f"run={regression}"]) == 2
    assert "has no encoder" in capsys.readouterr().err


def test_where_data_is_does_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Dataset("shards/mine", "h").at(Path("shards/mine")).path == str(tmp_path / "shards" / "mine")
    assert Dataset("s3://b/mine", "h").at(locate("s3://b/mine", "data.shards")).path == "s3://b/mine"
