"""Published layouts of networks of volumes: files as their authors write them, loaded, and outputs compared."""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from train.models.test_unet3d import Plain
from train.models.volumes import network

from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.network import Network
from dira_scale.train.models.tensor_files import WeightsError
from dira_scale.train.models.translations import other_axes

SIZE = (8, 8, 16)
WIDTH = 0.125  # 4 to 64 channels


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that Models Genesis and TransVW gave the tensors of ``Plain``, whose axes are x, y, z there."""
    renamed = {}
    for name, tensor in state.items():
        part, _, level, rest = name.split(".", 3) if not name.startswith("head") else ("head", "", "0", name[5:])
        finest = {"encoder": 64 << int(level), "decoder": 256 >> int(level), "head": 0}[part]
        rest = rest.replace("convs.", "").replace(".conv.", ".conv1.").replace(".norm.", ".bn1.")
        names = {"encoder": f"down_tr{finest}.ops.{rest}", "head": f"out_tr.final_conv.{rest}"}
        names["decoder"] = f"up_tr{finest}." + (f"up_conv.{rest[3:]}" if rest.startswith("up.") else f"ops.{rest}")
        renamed[names[part]] = tensor
    return renamed


CLASSES = {"clc_out.conv1.weight": torch.zeros(4, 4), "clc_out.fc1.bias": torch.zeros(44)}
PCRL = {"fc1.weight": torch.zeros(4, 4), "aug_fc1.weight": torch.zeros(8, 7)}
FILES: dict[str, Callable[[dict[str, Tensor]], dict[str, object]]] = {
    "Genesis_Chest_CT.pt": lambda state: {"epoch": 99, "state_dict": prefixed("module.", state), "optimizer_state_dict":
                                          {"state": {0: {"momentum_buffer": torch.zeros(4)}}, "param_groups": []}},
    "TransVW_chest_ct.pt": lambda state: {"epoch": 9, "state_dict": prefixed("module.", state | CLASSES)},
    "pcrl_luna_pretask_1.0_240.pt": lambda state: {
        "opt": argparse.Namespace(model="pcrl", d=3), "epoch": 240, "state_dict": state | PCRL, "contrast": {
            "memory": torch.zeros(8, 4)}, "model_ema": prefixed("module.", {k: 0 * v for k, v in state.items()})},
    "without a prefix": lambda state: dict(state),
}  # fmt: skip


def start(path: Path, unet: Network) -> str:
    weights = StartWeights(path, unet.encoder)
    weights.fill(unet)
    return str(weights)


@pytest.mark.parametrize("release", FILES)
def test_the_authors_weights_give_the_authors_restorations(release: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    peer = Plain(4, "batch", "transposed", channels=1, classes=1)
    ours = network("unet3d", SIZE, width=WIDTH).eval()
    peer(torch.rand(4, 1, *SIZE[::-1]))  # running statistics of its own
    path = tmp_path / "weights.pt"
    torch.save(FILES[release](published(peer.eval().state_dict())), path)
    printed = start(path, ours)
    volumes = torch.rand(2, 1, *SIZE, dtype=torch.float64)
    theirs = peer.double()(volumes.transpose(2, 4)).transpose(2, 4)  # their arrays are [x, y, z]
    torch.testing.assert_close(ours.double()(volumes), theirs, rtol=1e-10, atol=1e-10)
    assert "encoder (Models Genesis' names behind '" in printed and "decoder, head loaded" in printed
    assert ("clc_out.conv1.weight" in printed) == (release == "TransVW_chest_ct.pt")


def test_a_runs_adversary_of_the_same_kind_is_not_its_encoder() -> None:
    """DiRA-TransVW: the discriminator begins with an encoder like the one that is trained."""
    trained, adversary, ours = (network("unet3d", SIZE, width=WIDTH) for _ in range(3))
    for parameter in trained.parameters():
        parameter.data += 1
    tensors = prefixed("discriminator.discriminator.0.", adversary.encoder.state_dict())
    tensors |= prefixed("method.base.encoder.", trained.encoder.state_dict())
    StartWeights(Path("run"), ours.encoder, tensors=tensors)
    for name, tensor in trained.encoder.state_dict().items():
        assert torch.equal(ours.encoder.state_dict()[name], tensor), name


def test_weights_of_another_width_norm_or_decoder_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = published(Plain(4, "batch", "transposed", channels=1, classes=1).state_dict())
    torch.save(prefixed("module.", state), path)
    with pytest.raises(
        WeightsError, match=r"'module.down_tr64.ops.0.conv1.weight' has shape \(4, 1, .*, unet3d needs \(8"
    ):
        start(path, network("unet3d", SIZE, width=0.25))
    with pytest.raises(WeightsError, match=r"has no entry 'module.down_tr64.ops.0.bn1.running_mean' .*; choose the"):
        start(path, network("unet3d", SIZE, width=WIDTH, norm="instance"))
    other = network("unet3d", SIZE, width=WIDTH, norm="instance")  # where it is asked for, as PCRL does
    loaded = StartWeights(path, other.encoder, other_norm=True)
    assert "running_mean" in str(loaded)
    assert torch.equal(other.encoder.levels[0][0].norm.weight, state["down_tr64.ops.0.bn1.weight"])
    assert "decoder" not in start(path, network("unet3d", SIZE, width=WIDTH, up="nearest")).partition(" loaded;")[0]
    narrower = {k: v[:2] if k == "up_tr64.ops.0.conv1.weight" else v for k, v in state.items()}
    torch.save(narrower, path)
    with pytest.raises(
        WeightsError, match=r"'up_tr64.ops.0.conv1.weight' has shape \(2, .*; build encoder and decoder"
    ):
        start(path, network("unet3d", SIZE, width=WIDTH))


@pytest.mark.system
@pytest.mark.parametrize("size", [(64, 64, 64), (32, 64, 96)])
@torch.no_grad()
def test_monais_swin_unetr_gives_its_logits_also_for_other_channels(size: tuple[int, ...], tmp_path: Path) -> None:
    """Also where its maps are smaller than a window: at 64 voxels those at 1/16 have 4 a side."""
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(0)
    peer, path = SwinUNETR(1, 1, feature_size=12), tmp_path / "model.pt"
    for name, parameter in peer.named_parameters():
        if "relative_position" in name:  # begins with zeros
            parameter.data += torch.randn_like(parameter)
    torch.save({"state_dict": prefixed("module.", peer.state_dict())}, path)
    ours, four = (network("swinunetr", size, channels=n, feature_size=12) for n in (1, 4))
    volumes = torch.rand(1, 1, *size, dtype=torch.float64)
    assert start(path, ours).endswith("decoder, head loaded")
    theirs = peer.double()(volumes.transpose(2, 4)).transpose(2, 4)  # [x, y, z]
    torch.testing.assert_close(ours.double()(volumes), theirs, rtol=0, atol=1e-12 * float(theirs.abs().max()))
    older = network("swinunetr", size, feature_size=12, bias_axes="zyx")
    start(path, older)
    assert (older.double()(volumes) - theirs).abs().max() > 1e-3 * theirs.abs().max()
    start(path, four)  # all layers that take the volume are adapted
    stems = [(a, b) for a, b in zip(four.parameters(), ours.float().parameters(), strict=True) if a.shape != b.shape]
    assert len(stems) == 3 and all(torch.allclose(four.sum(1), one.sum(1)) for four, one in stems)


def exchanged(part: nn.Module, name: str) -> nn.Module:
    """A copy of ``part``, an entry ``name`` of a network, for the other axes."""
    other = copy.deepcopy(part)
    other.load_state_dict({key: other_axes(f"{name}.{key}", tensor) for key, tensor in part.state_dict().items()})
    return other


def test_parts_of_swin_unetr_compute_the_same_of_the_other_axes() -> None:
    from monai.networks.nets.swin_unetr import PatchMerging, WindowAttention

    torch.manual_seed(0)
    merging, attention = PatchMerging(4).double(), WindowAttention(8, 2, (3, 3, 3)).double()
    for parameter in (*merging.parameters(), attention.relative_position_bias_table):
        parameter.data = torch.randn_like(parameter)
    x = torch.rand(2, 6, 4, 8, 4, dtype=torch.float64)
    other = exchanged(merging, "layers1.0.downsample")(x.transpose(1, 3)).transpose(1, 3)
    torch.testing.assert_close(other, merging(x))
    tokens = torch.rand(2, 3, 3, 3, 8, dtype=torch.float64)
    theirs = attention(tokens.flatten(1, 3), None).view(tokens.shape)
    other = exchanged(attention, "attn")(tokens.transpose(1, 3).flatten(1, 3), None).view(tokens.shape).transpose(1, 3)
    torch.testing.assert_close(other, theirs)
