"""What `adversary.precision=auto` stands for, and that a run keeps it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.pretrain import step
from dira_scale.pretrain.config import Pretrain
from dira_scale.train.methods.adversary import adversary_of
from dira_scale.train.runs.identity import differences, execution, run_name


def composed(*words: str) -> Any:
    return compose("pretrain", ["data.shards=none", *words])


@pytest.mark.parametrize(
    ("words", "device", "precision", "expected"),
    [
        ([], "cuda", "bf16", "bf16"),
        ([], "cuda", "fp32", "fp32"),
        ([], "cpu", "bf16", "fp32"),
        (["adversary.precision=bf16"], "cpu", "fp32", "bf16"),
        (["adversary.loss=wgan_gp"], "cuda", "bf16", "fp32"),
        (["preset=released", "precision=bf16"], "cuda", "bf16", "fp32"),
    ],
)
def test_it_is_bf16_on_a_gpu_alone(monkeypatch, words, device, precision, expected):
    for part in ("Objective", "Monitors", "DiscriminatorTraining"):
        monkeypatch.setattr(step, part, lambda *_: None)
    monkeypatch.setattr(step.optim, "build", lambda *_: None)
    config: Any = OmegaConf.to_object(composed(*words, "model.encoder=test_resnet"))
    with torch.device("meta"):
        adversary = adversary_of(config.adversary.loss, 1.0, config.model, 32, config.adversary.precision)
    method: Any = SimpleNamespace(weights={}, views=None, corrupted=(), hides=False)
    world: Any = SimpleNamespace(device=torch.device(device), precision=precision)
    step.Pretraining(config, world, method, adversary)
    assert adversary.precision == expected


@pytest.mark.parametrize(
    ("written", "used", "expected"), [("auto", "bf16", "bf16"), ("auto", "fp32", "fp32"), ("fp32", None, "fp32")]
)
def test_a_run_keeps_what_it_began_with(written, used, expected):
    """Runs of versions whose default was fp32, too."""
    before: Any = OmegaConf.to_container(composed(f"adversary.precision={written}"))
    before |= {} if used is None else {"adversary_precision_used": used}
    cfg = composed()
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Pretrain)
    config.keep(cfg, before)
    assert config.adversary.precision == expected
    now: Any = OmegaConf.to_container(cfg)
    now |= {"adversary_precision_used": expected}
    assert differences(before, now, execution("pretrain")) == []
    assert run_name(before, execution("pretrain")) == run_name(now, execution("pretrain"))


def test_a_folder_with_another_run_says_so():
    """One of `finetune`, and one of a version without the key, are refused by their other settings, as ever."""
    for before in ({"task": {}}, {"adversary": {"loss": "lsgan"}}):
        cfg = composed()
        config: Any = OmegaConf.to_object(cfg)
        config.keep(cfg, before)
        assert differences(before, OmegaConf.to_container(cfg), execution("pretrain"))
