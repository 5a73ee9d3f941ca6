"""Networks as a configuration names them, in two dimensions and, with a stub of the tests, in three."""

import re
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from train.models.stub3d import TARGET
from train.models.volumes import chosen

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.train import methods
from dira_scale.train.data.views import Blur, Cutout, InverseCutout, Shuffle, ViewSpec
from dira_scale.train.models.architecture import TimmUNet, architecture
from dira_scale.train.models.network import check_torch, moved

SIZE, COUNT = 16, 4
NONE = {"blur": Blur(p=0), "cutout": Cutout(p=0), "inverse_cutout": InverseCutout(p=0), "shuffle": Shuffle(p=0)}
VIEWS = ViewSpec(size=(SIZE, SIZE, SIZE), **NONE)  # type: ignore[arg-type]
STUB = {"_target_": TARGET, "width": 8, "weights": None, "bn_groups": 2}


def test_views_and_network_have_the_same_dimensions() -> None:
    cfg = compose("pretrain", ["data.shards=any"])
    with pytest.raises(
        UserError, match=r"^data.size=16: expected three sides, .* \[16, 16, 16\]: Tiny3D takes volumes$"
    ):
        methods.build(cfg.method, STUB, ViewSpec(size=SIZE), batch=COUNT)
    with pytest.raises(UserError, match=r"^data.size=\[16, 16, 16\]: expected one side, such as 16: resnet50 takes im"):
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
        (
            [f"model._target_={TARGET}", "+model.width=0", *REMOVED],
            "model.width=0: expected a whole number of at least 1",
        ),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            compose("pretrain", [*words, *given])


REMOVED = ["~model.encoder", "~model.decoder_channels", "~model.zero_init_residual"]


@pytest.mark.parametrize(
    ("name", "keys", "size", "message"),
    [
        ("unet3d", {}, (20, 32, 32), "size: expected multiples of 8, such as [16, 32, 32] or [24, 32, 32]: unet3d "
         "halves each side down to 1/8"),
        ("unet3d", {"norm": "instance"}, (8, 8, 8), "size: expected [8, 16, 16] or larger: the coarsest map of unet3d "
         "is one voxel, which InstanceNorm cannot normalise"),
        ("unet3d", {}, 224, "size: expected three numbers, such as [64, 64, 64]: unet3d takes volumes"),
        ("unet3d", {"width": 0.3}, (8, 8, 8), "model.width=0.3: expected a share of 32 channels that is a whole"),
        ("unet3d", {"width": 0.125, "norm": "group"}, (8, 8, 8),
         "model.width=0.125: expected a share of 32 channels that is a multiple of the 8 groups of its norm"),
        ("resenc_l", {}, (32, 32, 32), "size: expected [32, 64, 64] or larger: the coarsest map of resenc is one"),
        ("resenc_l", {"blocks": "[1,1]"}, (64, 64, 64), "model.blocks=[1, 1]: expected a number for each of the 6"),
        ("swinunetr", {}, (16, 32, 32), "size: expected multiples of 32, such as [32, 64, 64]: swinunetr halves each "),
        ("swinunetr", {}, (32, 32, 32), "size: expected [32, 64, 64] or larger: the coarsest map of swinunetr is one "),
        ("vit3d", {}, (20, 32, 32), "size: expected multiples of 8, such as [16, 32, 32] or [24, 32, 32]: vit3d cuts "),
        ("vit3d", {"embed_dim": 192, "num_heads": 3}, (32, 32, 32), "model.embed_dim=192: expected 180 or 198: rotary"),
        ("vit3d", {"decoder_channels": "[16]"}, (32, 32, 32), "model.decoder_channels=[16]: expected two numbers, of "),
        ("inflated_vit", {}, (20, 32, 32), "size: expected multiples of 8, such as [16, 32, 32] or [24, 32, 32]: "
         "vit_base_patch14_reg4_dinov2 cuts each side into patches of 8"),
        ("inflated_vit", {"patch_size": 14}, (28, 28, 28), "model.patch_size=14: expected 4, 8, 16 or 32, as the"),
        ("inflated_vit", {"patch_size": 16, "decoder_channels": "[8,8]"}, (32, 32, 32), "model.decoder_channels=[8, 8]:"
         " expected 3 numbers, of the maps at 1/8 and 1/4 and 1/2 of a volume's sides"),
        ("inflated_vit", {"arguments": "{patch_size: 8}"}, (32, 32, 32), "model.arguments.patch_size: expected to be "),
        ("inflated_vit", {"encoder": "resnet18"}, (32, 32, 32), "encoder: expected a plain vision transformer, such"),
        ("swinunetr", {"feature_size": 20}, (32, 32, 64), "model.feature_size=20: expected a multiple of 12"),
    ],
)  # fmt: skip
def test_what_does_not_suit_a_network_of_volumes_is_named(
    name: str, keys: dict[str, Any], size: Any, message: str
) -> None:
    kind = UserError if message.startswith("model.") else ArgumentError  # of the node, or of the built architecture
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        chosen(name, **keys).build_encoder(size)
