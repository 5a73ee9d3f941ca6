"""Weights of a stranger take no more memory than their file, nor does a network that a file beside them describes."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from localize.made_up import tuned
from torch import nn
from train.models.stub3d import TARGET

from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.memory_limit import BESIDE, as_large_as
from dira_scale.train.models.tensor_files import WeightsError, read_tensors
from dira_scale.train.models.weights import trained_encoder, trained_network
from dira_scale.train.runs.reader import RunReader

UNET = "TimmUNet"


def test_a_compressed_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as stored, zipfile.ZipFile(tmp_path / "b.pth", "w", 8) as small:
        for member in stored.infolist():
            small.writestr(member.filename, stored.read(member))
    assert (tmp_path / "b.pth").stat().st_size < 2**14
    assert read_tensors(tmp_path / "a.pth")["a"].shape == (2**20,)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(WeightsError, match=r"b.pth: cannot be read .* \(a compressed zip"):
        read_tensors(tmp_path / "b.pth")


def test_a_file_stands_for_no_more_than_it_holds(tmp_path: Path) -> None:
    """One number as a tensor of any size; one mapping with a name for each of a million paths."""
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "a.pth")
    nested: Any = {"a": torch.zeros(1)}
    for _ in range(40):
        nested = {"b": nested, "c": nested}
    torch.save(nested, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(WeightsError, match=r"[ab].pth: cannot be read as plain tensors"):
            read_tensors(tmp_path / name)


def test_a_network_larger_than_its_weights_is_refused_before_it_takes_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with as_large_as([torch.zeros(BESIDE)], "a.json"):
        nn.Linear(2**12, 2**12)
    with pytest.raises(UserError, match=r"a.json describes a larger network"), as_large_as([], "a.json"):
        nn.Linear(2**30, 2**30)
    # Many small layers reach it sooner.
    monkeypatch.setattr("dira_scale.train.models.memory_limit.BESIDE", BESIDE // 64)
    with pytest.raises(UserError, match=r"a.json describes a larger network"), as_large_as([], "a.json"):
        nn.ModuleList(nn.Linear(1, 1) for _ in range(10**9))


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [("vit_tiny_patch16_224", {"depth": 10**6}, 224), ("vit_tiny_patch16_224", {"depth": 10**10}, 224),
     ("maxvit_tiny_tf_224", {}, 8192)],
)  # fmt: skip
def test_a_network_that_takes_many_steps_is_refused_after_as_many_as_its_weights_need(
    name: str, arguments: dict[str, int], size: int
) -> None:
    """A depth that is read as a million numbers, and tables that are filled in a loop: both without much memory."""
    steps = [torch.empty(2**15) for _ in range(176)]
    with pytest.raises(UserError, match=r"a.json describes a larger network"), as_large_as(steps, "a.json"):
        build_encoder(name, size=size, arguments=arguments)


@pytest.mark.parametrize("name", ["resnet50", "vit_tiny_patch16_224", "maxvit_tiny_tf_224"])
def test_a_network_of_its_own_weights_is_built(name: str) -> None:
    weights = build_encoder(name, size=224).state_dict().values()
    with as_large_as(weights, "a.json"):
        build_encoder(name, size=224)


HUGE: list[tuple[str, Any]] = [("channels", 60_000), ("decoder_channels", [10**6] * 5), ("outputs", ["x"] * 10**5)]


@pytest.mark.parametrize(("key", "value"), [*HUGE, ("size", [32, 10**9])])
def test_so_is_that_of_a_description_and_of_an_export(tmp_path: Path, key: str, value: Any) -> None:
    from dira_scale import export

    run = tuned(tmp_path / "run", "task=labels")
    assert export.main([f"run={run}", "formats=plain", f"out={tmp_path / 'out'}"]) == 0
    about, described = (
        json.loads(path.read_text()) for path in (run.parent / "out/predict.json", run / "description.json")
    )
    if key == "decoder_channels":
        about["model"][key] = described["network"]["architecture"][key] = value
        about["task"] = {"_target_": "MaskTask", "loss": ["dice"],
                         "classes": {"a": 1}, "decoder": "random"}  # fmt: skip
        described["network"]["head"], described["output"]["names"] = "dense", []
    else:
        (about["facts"] if key == "outputs" else about)[key] = value
        part = {"channels": "network", "size": "input", "outputs": "output"}[key]
        described[part]["names" if key == "outputs" else key] = value
    (run.parent / "out/predict.json").write_text(json.dumps(about))
    (run / "description.json").write_text(json.dumps(described))
    message = "describes a larger network|describes no network with these weights|a whole number from 1 to 65536"
    with pytest.raises(UserError, match=message):
        TrainedRun.of(run.parent / "out")
    with pytest.raises(UserError, match=message):
        reader = RunReader(run)
        tensors = reader.load(None)[0]
        trained_network(reader.description, trained_encoder(reader.description, tensors), tensors)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": UNET, "encoder": 7}, "^model.encoder=7: expected text"),
        ({"_target_": UNET, "decoder_channels": ["a"]}, r"^model.decoder_channels\[0\]=a: expected a whole number"),
        ({"_target_": []}, "model._target_"),
        ({"_target_": TARGET, "width": True}, "^model.width=true: expected a whole number"),
    ],
)
def test_a_setting_of_another_type_is_named(node: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        architecture(node)
