"""The folder for Hugging Face: timm's and transformers' own loaders give our features."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from train.models.stub3d import TARGET
from train.models.test_classifier import STUB, model
from train.models.test_formats_of_classes import NAMES, trained

from dira_scale.base.errors import UserError
from dira_scale.export.formats import FORMATS
from dira_scale.export.network import TrainedNetwork
from dira_scale.train.models.encoder import build_encoder


def written(network: TrainedNetwork, folder: Path) -> str:
    """The folder with the format's files; the code of the card."""
    exported = FORMATS["huggingface"](network)
    assert {*exported.files} == {"config.json", "model.safetensors"}
    for name, content in exported.files.items():
        (folder / name).write_bytes(content)
    return exported.code


def with_encoder(name: str, channels: int = 3) -> TrainedNetwork:
    """A network of random weights, with a decoder."""
    network = trained(model("test_resnet"), "dense")
    torch.manual_seed(1)
    encoder = build_encoder(name, channels, size=64).eval()
    for buffer in encoder.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.3 * torch.rand_like(buffer))
    run = replace(network.run, network=replace(network.run.network, channels=channels))
    return replace(network, run=run, encoder=encoder)


@pytest.mark.parametrize(("name", "channels"), [("test_convnext", 3), ("test_resnet", 4)])
def test_timm_loads_the_folder_with_our_features(name: str, channels: int, tmp_path: Path) -> None:
    network = with_encoder(name, channels)
    written(network, tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.rand(2, channels, 64, 64)
    with torch.no_grad():
        ours = network.encoder(image)[-1]
        torch.testing.assert_close(theirs.forward_features(image), ours, rtol=1e-6, atol=1e-6)
    assert [*theirs.pretrained_cfg["input_size"]] == [channels, 64, 64] and theirs.num_classes == 0


def test_a_vits_mean_patch_token_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = with_encoder("test_vit")
    code = written(network, tmp_path)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"torch": torch, "image": torch.rand(2, 3, 64, 64)}
    with torch.no_grad():
        exec(code, scope)
        ours = network.encoder(scope["image"])[-1].mean((2, 3))
    torch.testing.assert_close(scope["features"], ours, rtol=1e-6, atol=1e-6)


def test_a_classifier_keeps_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained(model("test_convnext"), "pooled")
    assert network.network is not None
    code = written(network, tmp_path)
    monkeypatch.chdir(tmp_path)
    image = torch.rand(2, 3, 64, 64)
    scope: dict[str, Any] = {"torch": torch, "image": image}
    with torch.no_grad():
        exec(code, scope)
        expected = network.network(image)
    torch.testing.assert_close(scope["probabilities"], expected.softmax(1), rtol=1e-6, atol=1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["label_names"] == [*NAMES]


@pytest.mark.system
def test_transformers_loads_a_classifier_with_its_classes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers (the extra deepspeed has it)")
    network = trained(model("test_convnext"), "pooled")
    assert network.network is not None
    written(network, tmp_path)
    image = torch.rand(2, 3, 64, 64)
    theirs = transformers.TimmWrapperForImageClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == dict(enumerate(NAMES))
    with torch.no_grad():
        torch.testing.assert_close(theirs(image).logits, network.network(image), rtol=1e-6, atol=1e-6)


def test_images_are_normalised_as_in_training(tmp_path: Path) -> None:
    """timm's own transform of an image of another shape: the square of the run, its mean and deviation."""
    network = with_encoder("test_resnet")
    written(network, tmp_path)
    assert _transformed(tmp_path) == ((3, 64, 64), pytest.approx(1.0))
    normalised = replace(network.run.input, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.2, 0.1))
    written(replace(network, run=replace(network.run, input=normalised)), tmp_path)
    assert _transformed(tmp_path) == ((3, 64, 64), pytest.approx((1 - 0.3) / 0.1))


def _transformed(folder: Path) -> tuple[tuple[int, ...], float]:
    """Shape and largest value of a white image."""
    loaded = timm.create_model(f"local-dir:{folder}")
    tensor = create_transform(**resolve_data_config({}, model=loaded))(Image.new("RGB", (90, 50), "white"))
    return tuple(tensor.shape), float(tensor.max())


def test_what_the_folder_cannot_hold_is_refused() -> None:
    volumes = trained(STUB, "dense", [8, 8, 8])
    assert volumes.run.network.architecture["_target_"] == TARGET
    with pytest.raises(UserError, match=r"^formats: huggingface takes encoders of timm; this run has .*: use plain"):
        FORMATS["huggingface"](volumes)
    with pytest.raises(UserError, match=r"^formats: huggingface has another classification head over test_effic"):
        FORMATS["huggingface"](trained(model("test_efficientnet"), "pooled"))
