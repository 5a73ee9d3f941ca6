"""Exported networks of volumes in plain torch, MONAI and nnU-Net, by the very code of the card."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from recorded import derived
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from train.models.test_unet3d import Plain
from train.models.test_vit3d import published
from train.models.volumes import chosen

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.export.card import Card
from dira_scale.export.formats import FORMATS, check, default_formats
from dira_scale.export.network import Exported, TrainedNetwork
from dira_scale.export.volume_formats import PRIMUS
from dira_scale.judge.evaluation.encoders import stored_encoder
from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.start import start_weights

SIZES = {"unet3d": (8, 8, 16), "resenc_l": (8, 8, 16), "swinunetr": (32, 32, 64), "vit3d": (16, 24, 32),
         "inflated_vit": (16, 24, 32)}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "unet3d": {"width": 0.125}, "resenc_l": {"features": "[4,8,8]", "blocks": "[1,2,1]"},
    "swinunetr": {"feature_size": 12},
    "vit3d": {"embed_dim": 24, "depth": 2, "num_heads": 2, "decoder_channels": "[8,8]"},
    "inflated_vit": {"encoder": "test_vit", "decoder_channels": "[8,8]"},
}  # fmt: skip


def trained(model: str, decoder: bool = True, size: tuple[int, ...] | None = None, **keys: Any) -> TrainedNetwork:
    """As pretraining leaves it, of random weights; of the small network unless ``keys`` say otherwise."""
    size, keys = size or SIZES[model], keys or SMALL[model]
    words = [f"model={model}", f"data.size={[*size]}", *(f"model.{key}={value}" for key, value in keys.items())]
    config = OmegaConf.to_container(compose("pretrain", ["data.shards=any", *words]))
    torch.manual_seed(0)
    architecture = chosen(model, **keys)
    encoder = architecture.build_encoder(size)
    network = architecture.build_network(encoder)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return TrainedNetwork(derived("pretrain", config), encoder.eval(), network.eval() if decoder else None)


def followed(
    network: TrainedNetwork, exported: Exported, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the code computes beside the files."""
    monkeypatch.chdir(folder)
    for name, content in exported.files.items():
        (folder / name).write_bytes(content)
    scope: dict[str, Any] = {"torch": torch, "image": torch.rand(2, 1, *network.run.input.size)}
    exec(exported.code, scope)
    return scope


@pytest.mark.parametrize("up", ["transposed", "nearest"])
def test_plain_torch_rebuilds_the_unet_from_its_safetensors(
    up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained("unet3d", width=0.125, up=up)
    assert default_formats(network) == ["plain"]
    scope = followed(network, FORMATS["plain"](network), tmp_path, monkeypatch)
    plain = Plain(4, "batch", up, channels=1, classes=1).eval()
    plain.load_state_dict(load_file("plain_network.safetensors"))
    torch.testing.assert_close(plain(scope["image"]).sigmoid(), scope["output"])


@pytest.mark.system
def test_monai_itself_loads_its_swin_unetr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained("swinunetr")
    scope = followed(network, FORMATS["monai"](network), tmp_path, monkeypatch)
    assert network.network is not None
    ours = network.network(scope["image"]).sigmoid()
    torch.testing.assert_close(scope["restored_by_monai"], ours, rtol=0, atol=0.01)
    again = trained("swinunetr", feature_size=12)
    started = start_weights(str(tmp_path), again.encoder, again.network)  # of the folder
    assert started is not None and started.loaded[1:] == ("decoder",)
    for name, tensor in network.encoder.state_dict().items():  # exchanged, and exchanged back
        assert torch.equal(again.encoder.state_dict()[name], tensor)


def test_nnunets_checkpoint_has_every_tensor_but_those_of_segmentation_under_all_its_names(tmp_path: Path) -> None:
    network = trained("resenc_l")
    assert network.network is not None
    exported = FORMATS["nnunet"](network)
    assert exported.files == FORMATS["nnunet"](network).files and default_formats(network) == ["plain"]
    checkpoint = torch.load(io.BytesIO(exported.files["checkpoint_final.pth"]), weights_only=True)
    weights, ours = checkpoint["network_weights"], network.network.state_dict()
    once = {name: t for name, t in weights.items() if "all_modules" not in name and not name.startswith("decoder.enc")}
    assert once.keys() == {name for name in ours if not name.startswith("head.")}
    assert all(torch.equal(tensor, ours[name]) for name, tensor in once.items())
    stem = "stem.convs.0"
    for name in (f"{stem}.all_modules.0", "stages.1.blocks.0.skip.1.conv", "stages.1.blocks.1.conv2.all_modules.1"):
        same = f"encoder.{name.replace('all_modules.0', 'conv').replace('all_modules.1', 'norm')}.weight"
        assert torch.equal(weights[f"encoder.{name}.weight"], ours[same])
        assert torch.equal(weights[f"decoder.encoder.{name}.weight"], ours[same])
    again, path = trained("resenc_l"), tmp_path / "checkpoint_final.pth"
    path.write_bytes(exported.files["checkpoint_final.pth"])
    assert again.network is not None
    StartWeights(path, again.encoder).fill(again.network)
    assert all(torch.equal(a, b) for a, b in zip(again.encoder.parameters(), network.encoder.parameters(), strict=True))


# The fields of nnssl's dataclasses (October 2025), all of which its readers take.
PLAN = {"architecture_plans", "pretrain_plan", "pretrain_num_input_channels", "recommended_downstream_patchsize"}
PLAN |= {"key_to_encoder", "key_to_stem", "keys_to_in_proj", "key_to_lpe"}
PRETRAINED = {"dataset_name", "plans_name", "original_median_spacing_after_transp", "image_reader_writer"}
PRETRAINED |= {"transpose_forward", "transpose_backward", "configurations", "experiment_planner_used"}
CONFIGURATION = {"data_identifier", "preprocessor_name", "spacing_style", "normalization_schemes", "use_mask_for_norm"}
CONFIGURATION |= {"resampling_fn_data", "resampling_fn_data_kwargs", "resampling_fn_mask", "resampling_fn_mask_kwargs"}
CONFIGURATION |= {"spacing", "patch_size"}
DYNAMIC = {"n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_blocks_per_stage"}
DYNAMIC |= {"n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs"}
DYNAMIC |= {"nonlin", "nonlin_kwargs"}


def test_nnssls_plan_has_its_keys_and_names_tensors_that_are_there() -> None:
    exported = FORMATS["nnunet"](trained("resenc_l", decoder=False))
    checkpoint = torch.load(io.BytesIO(exported.files["checkpoint_final.pth"]), weights_only=True)
    plan = json.loads(exported.files["adaptation_plan.json"])
    assert plan == checkpoint["nnssl_adaptation_plan"]
    assert plan.keys() == PLAN and plan["pretrain_plan"].keys() == PRETRAINED
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration.keys() == CONFIGURATION and configuration["patch_size"] == [8, 8, 16]
    architecture = plan["architecture_plans"]
    assert architecture["arch_class_name"] == "ResidualEncoderUNet" and architecture["arch_kwargs"].keys() == DYNAMIC
    assert architecture["arch_kwargs"]["features_per_stage"] == [4, 8, 8]
    names = checkpoint["network_weights"].keys()
    assert all(f"{name}.weight" in names for name in plan["keys_to_in_proj"])
    assert {name for name in names if name.startswith("encoder.")} == {
        name for name in names if name.startswith((f"{plan['key_to_encoder']}.", f"{plan['key_to_stem']}."))
    }
    assert not any(name.startswith("decoder.stages") for name in names) and "none was trained" in exported.use


def test_primus_weights_are_nnssls_for_the_sizes_that_it_has_names_for(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained("vit3d")
    with pytest.raises(UserError, match=r"^formats: nnunet takes vit3d in the sizes S, B, M and L .*; use plain$"):
        FORMATS["nnunet"](network)
    monkeypatch.setitem(PRIMUS, (24, 2, 2), "PrimusXS")  # the smallest published one has 24 million parameters
    exported = FORMATS["nnunet"](network)
    checkpoint = torch.load(io.BytesIO(exported.files["checkpoint_final.pth"]), weights_only=True)
    plan, weights = checkpoint["nnssl_adaptation_plan"], checkpoint["network_weights"]
    assert plan.keys() == PLAN and plan["architecture_plans"]["arch_class_name"] == "PrimusXS"
    assert "-tr nnUNet_Primus_S_Trainer -pre" in exported.use and "[16, 24, 32] and heads for 1 output;" in exported.use
    ours = published(network.network)
    assert weights.keys() == ours.keys() | {"mask_token"} and not weights["mask_token"].any()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in ours.items())
    wider = trained("vit3d", **SMALL["vit3d"] | {"decoder_channels": "[16,8]"})
    assert "its own for 1 output has decoder_channels [8, 8]" in FORMATS["nnunet"](wider).use
    alone = FORMATS["nnunet"](trained("vit3d", decoder=False))
    assert "none was trained" in alone.use
    encoder = torch.load(io.BytesIO(alone.files["checkpoint_final.pth"]), weights_only=True)["network_weights"]
    within = tuple(f"{plan[key]}." for key in ("key_to_encoder", "key_to_stem"))
    assert encoder.keys() == {name for name in ours if name.startswith(within)} and plan["key_to_lpe"] in encoder
    assert [f"{name}.weight" in weights for name in plan["keys_to_in_proj"]] == [True]


@pytest.mark.parametrize("model", ["unet3d", "vit3d"])
def test_an_exported_encoder_says_which_volumes_it_takes(model: str, tmp_path: Path) -> None:
    network = trained(model)
    for name, content in FORMATS["plain"](network).files.items():
        (tmp_path / name).write_bytes(content)
    volume, encoder = torch.rand(1, 1, *network.run.input.size), stored_encoder(tmp_path)
    with torch.inference_mode():
        assert not encoder.training and all(map(torch.equal, encoder(volume), network.encoder(volume)))
    path = tmp_path / "plain_encoder.safetensors"
    with safe_open(path, "pt") as stored:
        known = stored.metadata()
    huge = '{"size": [65536, 65536, 65536]}'
    none = '{"size": [0]}'
    for written, printed in (("[", "is damaged"), (none, "size[0]: expected a whole number from "), (huge, "larger")):
        if written == huge and model == "unet3d":  # whose weights do not depend on it
            continue
        save_file(load_file(path), path, known | {"input": written})
        (tmp_path / "plain_network.safetensors").unlink(missing_ok=True)
        with pytest.raises(UserError, match=rf"^{tmp_path}.*{re.escape(printed)}"):
            stored_encoder(tmp_path)


def test_formats_of_volumes_say_for_which_network_they_are() -> None:
    unet, resenc = trained("unet3d"), trained("resenc_l", decoder=False)
    inflated = trained("inflated_vit").encoder
    printed: list[tuple[Callable[[], object], str]] = [
        (lambda: FORMATS["nnunet"](unet), "nnunet takes model=resenc_l or model=vit3d; this run has unet3d: use plain"),
        (lambda: FORMATS["monai"](unet), "monai takes encoders of timm and model=swinunetr; this run has unet3d"),
        (lambda: check("monai", resenc.encoder, False), "monai needs a U-Net, and no stage up to this one trained"),
        (
            lambda: check("timm", inflated, False),
            "timm takes networks of images, and this run's is of volumes: use plain",
        ),
    ]
    for refused, message in printed:
        with pytest.raises(UserError, match=f"^formats: {message}"):
            refused()
    exports = {name: FORMATS[name](trained("resenc_l")) for name in ("plain", "nnunet")}
    card = Card("brains", trained("resenc_l").run, [], "dira", 3, 0.5, True, exports).text()
    masked = derived(
        "pretrain", OmegaConf.to_container(compose("pretrain", ["data.shards=any", "experiment=mae_vit3d"]))
    )
    behind = Card("brains", masked, [], "mae", 3, 0.5, masked.trains_decoder("mae"), exports).text()
    assert "- No decoder: trained behind modules that are not exported." in behind and "hidden blocks" not in behind
    assert "library_name: pytorch" in card and "image = torch.rand(1, 1, 8, 8, 16)" in card
    assert "nnU-Net and nnssl: `checkpoint_final.pth` and `adaptation_plan" in card
    assert "Pickled. `nnUNetv2_train DATASET 3d_fullres FOLD -p PLANS -pretrained_weights checkpoint_final.pth`" in card
