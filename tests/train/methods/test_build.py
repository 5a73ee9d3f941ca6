"""From the shipped configuration to a method, and every mistake on the way named by its key."""

import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from dira_scale.base.errors import UserError
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods import build
from dira_scale.train.methods.dira import DiRA
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.models import norm

CONFIGS = Path(__file__).parents[3] / "configs"
DOCUMENTATION = Path(__file__).parents[3] / "docs" / "explanation" / "methods.md"
SPEC = ViewSpec(size=64)


@cache
def composed(*overrides):
    with initialize_config_dir(version_base=None, config_dir=str(CONFIGS)):
        return compose(overrides=list(overrides))


def config(*overrides, method="dira_moco"):
    """A copy, as a test may change it."""
    return deepcopy(composed(f"+method={method}", "+model=unet", *overrides))


SMALL = ("model.encoder=test_resnet", "model.decoder_channels=[16,16,8,8,8]", "method.base.queue=64")


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_defaults_are_the_papers():
    cfg = config()
    with torch.device("meta"):
        method = build(cfg.method, cfg.model, SPEC, batch=256)
    assert isinstance(method, DiRA) and isinstance(method.base, MoCo)
    assert (count(method.encoder), count(method.decoder), count(method.head)) == (23_508_032, 9_012_928, 145)
    assert count(method.base.projector) == 4_458_624
    assert count(method) == 2 * (23_508_032 + 4_458_624) + 9_012_928 + 145
    assert method.base.queue.shape == (65536, 128)
    assert (method.base.temperature, method.base.momentum) == (0.2, 0.999)
    assert method.weights == {"di": 1, "re": 10, "ad": 0.001}
    assert norm.groups(method) == 4 and method.views == SPEC


@pytest.mark.parametrize(("base", "copy"), [("dira_moco", "key_encoder"), ("dira_byol", "target_encoder")])
def test_momentum_networks_start_from_the_weights_that_were_loaded(base, copy, tmp_path):
    peer = timm.create_model("test_resnet", num_classes=3)
    save_file(peer.state_dict(), tmp_path / "peer.safetensors")
    cfg = config(*SMALL[: 3 if base == "dira_moco" else 2], f"model.weights={tmp_path}/peer.safetensors", method=base)
    method = build(cfg.method, cfg.model, SPEC, batch=16)
    for encoder in (method.encoder, getattr(method.base, copy)):
        assert torch.equal(encoder.state_dict()["model.conv1.0.weight"], peer.state_dict()["conv1.0.weight"])
        assert torch.equal(encoder.state_dict()["model.layer4.0.conv1.weight"], peer.layer4[0].conv1.weight)


@pytest.fixture
def autoencoder(tmp_path, monkeypatch):
    """The node of the documentation's own method, importable."""
    code = re.search(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.S)
    (tmp_path / "own_methods.py").write_text(code[1] + "\n\ndef function(views): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    return {"_target_": "own_methods.Autoencoder", "power": 1.0}


def test_an_own_method_plugs_in_by_its_target(autoencoder):
    model = config(*SMALL).model
    method = build(autoencoder, model, ViewSpec(count=1, size=64), batch=8)
    assert method.power == 1.0 and norm.groups(method) == 4
    clean, distorted = (torch.rand(8, 1, 64, 64),), (torch.rand(8, 1, 64, 64),)
    terms = method(clean, distorted, None)
    terms.losses["re"].backward()
    assert terms.losses["re"].item() == pytest.approx((terms.restored - clean[0]).abs().mean().item())
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"_target_": "own_methods.Autoencodr"}, "method._target_: own_methods.Autoencodr cannot be imported"),
        ({"_target_": "own_methods.function", "power": None}, "is not a dira_scale.train.methods.Method"),
        ({"powr": 3}, "method.powr: Autoencoder has no such setting, only power; did you mean 'power'?"),
        ({"queue": 3}, "only power; ~method.queue takes it out"),
    ],
)
def test_mistakes_in_an_own_method_name_their_key(autoencoder, change, expected):
    node = {key: value for key, value in (autoencoder | change).items() if value is not None}
    if node["_target_"] == "own_methods.function":
        node = {"_target_": node["_target_"]}
    with pytest.raises(UserError) as raised:
        build(node, config(*SMALL).model, SPEC, batch=8)
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+method.base.temprature=1"], "method.base.temprature: MoCo has no such setting, only dim, queue, "),
        (["~method.base"], "method.base is missing: DiRA needs it"),
        (["~method.base._target_"], "method.base._target_ is missing"),
        (["method.base.queue=100"], "method.base.queue=100: expected a multiple of the batch of 16, such as 96"),
        (["model.bn_groups=3", "method.base.queue=64"], "model.bn_groups=3: expected one of 1, 2, 4, 8"),
        (["model.bn_groups=0"], "model.bn_groups=0: expected "),
        (["model.encoder=resnet19"], "model.encoder=resnet19: expected a backbone of timm"),
    ],
)
def test_mistakes_name_their_key(overrides, expected):
    cfg = config(*SMALL, *overrides)
    with pytest.raises(UserError) as raised:
        build(cfg.method, cfg.model, SPEC, batch=16)
    assert expected in str(raised.value)
