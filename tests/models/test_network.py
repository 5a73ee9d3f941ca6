"""Networks as a configuration names them, in two dimensions and, with a stub of the tests, in three."""

import pytest
import torch
from models.stub3d import TARGET
from omegaconf import OmegaConf

from dira_scale import methods
from dira_scale.config.compose import compose
from dira_scale.data.views import Blur, Cutout, InverseCutout, Shuffle, ViewSpec
from dira_scale.errors import UserError
from dira_scale.models.architecture import TimmUNet, architecture
from dira_scale.models.network import check_torch, moved

SIZE, COUNT = 16, 4
NONE = {"blur": Blur(p=0), "cutout": Cutout(p=0), "inverse_cutout": InverseCutout(p=0), "shuffle": Shuffle(p=0)}
VIEWS = ViewSpec(size=(SIZE, SIZE, SIZE), **NONE)  # type: ignore[arg-type]
STUB = {"_target_": TARGET, "width": 8, "weights": None, "bn_groups": 2}


def test_views_and_network_have_the_same_dimensions() -> None:
    cfg = compose("pretrain", ["data.shards=any"])
    with pytest.raises(
        UserError, match=r"^data.size=16: Tiny3D takes volumes: give three, as data.size=\[16, 16, 16\]$"
    ):
        methods.build(cfg.method, STUB, ViewSpec(size=SIZE), batch=COUNT)
    with pytest.raises(
        UserError, match=r"^data.size=\[16, 16, 16\]: resnet50 takes images: give one side, as data.size=16"
    ):
        methods.build(cfg.method, cfg.model, VIEWS, batch=COUNT)


def test_volumes_on_a_gpu_ask_for_a_torch_that_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    planes, volumes, gpu = torch.nn.Conv2d(1, 1, 1), torch.nn.Conv3d(1, 1, 1), torch.device("cuda")
    monkeypatch.setattr("torch.__version__", "2.9.1+cu128")
    check_torch(planes, gpu)
    check_torch(volumes, torch.device("cpu"))
    with pytest.raises(UserError, match=r"^torch 2.9.1\+cu128: .*; install torch 2.10 or newer$"):
        moved(volumes, gpu, channels_last=True)
    monkeypatch.setattr("torch.__version__", "2.10.0")
    check_torch(volumes, gpu)


def test_a_configuration_has_the_keys_of_the_network_that_it_names() -> None:
    words = ["data.shards=any", "stages.di.epochs=1"]
    config = compose("pretrain", words)
    assert isinstance(OmegaConf.to_object(config).model, TimmUNet)  # type: ignore[union-attr]
    stub = compose("pretrain", [*words, f"model._target_={TARGET}", "+model.width=8", *REMOVED])
    assert architecture(stub.model).dimensions == 3 and stub.model.width == 8
    for given, message in (
        ([f"model._target_={TARGET}"], "unknown key model.encoder"),
        (["model.width=8"], "unknown key model.width"),
        (["model._target_=os.path"], "model._target_: os.path"),
        ([f"model._target_={TARGET}", "+model.width=0", *REMOVED], "model.width=0: must be at least 1"),
        ([f"model._target_={TARGET}", "+model.width=wide", *REMOVED], "model.width=wide: expected int, at least 1"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            compose("pretrain", [*words, *given])


REMOVED = ["~model.encoder", "~model.decoder_channels", "~model.zero_init_residual"]
