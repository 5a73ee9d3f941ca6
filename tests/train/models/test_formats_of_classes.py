"""Exports of fine-tuned networks keep the classes: by the very code of the card, and the names beside it."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from recorded import derived
from safetensors import safe_open
from train.models.stub3d import TARGET
from train.models.test_classifier import STUB, model

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.export.card import Card
from dira_scale.export.formats import FORMATS, check, default_formats
from dira_scale.export.network import TrainedNetwork
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.weights import trained_encoder, trained_network
from dira_scale.train.runs.description import Description, Output, Tensors

NAMES = ("background", "lung", "heart")


@cache
def composed() -> Any:
    return OmegaConf.to_container(compose("pretrain", ["data.shards=any"]))


def described(node: dict[str, Any], head: Any, size: int | list[int] = 64) -> Description:
    """The description of a fine-tuned run, whose task has other names in its checkpoints than pretraining."""
    config = composed()
    run = derived("pretrain", config | {"model": node, "data": config["data"] | {"size": size}})
    return replace(
        run,
        network=replace(run.network, head=head, start="imagenet.pth", licence="CC-BY-NC-4.0"),
        output=Output("softmax", names=NAMES),
        tensors=Tensors("network", "optim", "network.encoder", "network.decoder", "network.head"),
        stages=tuple(replace(stage, decoder=head == "dense") for stage in run.stages),
    )


def trained(node: dict[str, Any], head: str, size: int | list[int] = 64) -> TrainedNetwork:
    """A network of random weights, through the names of a checkpoint."""
    run, built = described(node, head, size), architecture(node)
    torch.manual_seed(0)
    encoder = built.build_encoder(run.input.sides)
    network = built.build(head, encoder, len(NAMES))
    tensors = {
        f"network.{name}": t + 0.05 * torch.rand_like(t) if t.dim() else t for name, t in network.state_dict().items()
    }
    again = trained_encoder(run, tensors)
    return TrainedNetwork(run, again, trained_network(run, again, tensors))


@pytest.mark.parametrize(
    ("node", "head", "format", "file"),
    [
        (model("test_resnet"), "pooled", "timm", "classifier.safetensors"),
        (model("test_resnet"), "dense", "smp", "unet.safetensors"),
        (STUB, "pooled", "plain", "plain_network.safetensors"),
        (STUB, "dense", "plain", "plain_network.safetensors"),
        (STUB, "linear", "plain", "plain_network.safetensors"),
    ],
)  # fmt: skip
def test_the_cards_code_gives_every_class(
    node: dict[str, Any], head: str, format: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size: Any = [8, 8, 8] if node["_target_"] == TARGET else 64
    network = trained(node, head, size)
    exported = FORMATS[format](network)
    monkeypatch.chdir(tmp_path)
    for name, content in exported.files.items():
        Path(name).write_bytes(content)
    image = torch.rand(2, network.run.network.channels, *network.run.input.size)
    scope: dict[str, Any] = {"torch": torch, "image": image}
    exec(exported.code, scope)
    assert network.network is not None
    expected = network.network(image).softmax(1)
    torch.testing.assert_close(scope["output" if format == "plain" else "probabilities"], expected)
    assert expected.shape[1] == len(NAMES) and expected.dim() == (2 if head == "pooled" else image.dim())
    with safe_open(file, "pt") as stored:
        assert json.loads(stored.metadata()["classes"]) == list(NAMES)


def test_the_cards_code_gives_numbers_in_their_own_unit() -> None:
    network = trained(model("test_resnet"), "pooled")
    output = Output(names=("age", "weight"), normalised=((50.0, 10.0), (0.5, 0.25)))
    code = TrainedNetwork(replace(network.run, output=output), network.encoder).last
    found = eval(f"torch.tensor([[0.5, 1.0], [-1.0, 2.0]]){code}", {"torch": torch})
    torch.testing.assert_close(found, torch.tensor([[55, 0.75], [40, 1.0]]))


def test_without_formats_a_classifier_is_what_holds_its_head() -> None:
    assert default_formats(trained(model("test_resnet"), "pooled")) == ["timm"]
    efficientnet = trained(model("test_efficientnet"), "pooled")
    assert default_formats(efficientnet) == ["plain"]
    for refused in (lambda: FORMATS["timm"](efficientnet), lambda: check("timm", efficientnet.encoder, False, True)):
        with pytest.raises(UserError, match=r"^formats: timm has another classification head over test_efficientnet"):
            refused()
    with pytest.raises(UserError, match=r"^formats: smp needs a U-Net"):
        FORMATS["smp"](trained(model("test_resnet"), "pooled"))


def test_the_card_names_the_classes_and_the_licence_of_the_start() -> None:
    run = trained(model("test_resnet"), "pooled")
    exports = {"timm": FORMATS["timm"](run)}
    text = Card("lungs", run.run, [], "train", 3, 0.5, False, exports).text()
    assert "A channel for each class, for the whole image, by a softmax:" in text and "| 1 | lung |" in text
    assert 'license_name: "CC-BY-NC-4.0"' in text and "Its terms (CC-BY-NC-4.0) apply too" in text
    assert "*without* normalisation" in text
    normalised = replace(run.run, input=replace(run.run.input, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.2, 0.1)))
    line = "then normalised by channel: mean (0.5, 0.4, 0.3), deviation (0.2, 0.2, 0.1)."
    assert line in Card("lungs", normalised, [], "train", 3, 0.5, False, exports).text()
    assert "self-supervised" not in text and "pretraining" not in text and "No decoder" not in text
