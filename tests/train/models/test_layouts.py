"""Published layouts of weights: made from plain peers, loaded, and compared output for output."""

import argparse
import shlex
import sys
from functools import cache

import narrow_resnet
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import tiny_swin
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import swin_transformer, vision_transformer
from torch import nn

from dira_scale.train.models.encoder import build_encoder, timm_names
from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.tensor_files import WeightsError
from dira_scale.train.models.unet import UNet

CHANNELS = (32, 16, 16, 8, 8)
TINY = narrow_resnet.NAME


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def trained(module: nn.Module) -> nn.Module:
    """As training would leave it: no parameter, no running statistic at its initial value."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn_like(tensor)
                tensor.mul_(1 + 0.1 * noise).add_(0.02 * noise.abs() if "var" in name else 0.02 * noise)
    return module.eval()


def features(peer: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The last map of a torchvision ResNet."""
    for name, layer in peer.named_children():
        if name in ("avgpool", "fc"):
            break
        images = layer(images)
    return images


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def without_fc(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def children(peer: nn.Module) -> dict[str, torch.Tensor]:
    return nn.Sequential(*list(peer.children())[:-1]).state_dict()


HEAD = {"fc.0.weight": torch.zeros(4, 4), "fc.2.bias": torch.zeros(4)}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(4)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}
# What each release holds, of a torchvision ResNet.
RESNET_FILES = {
    "torchvision": lambda peer: peer.state_dict(),
    "moco": lambda peer: {
        "epoch": 200, "arch": "resnet50", "optimizer": OPTIMIZER,
        "state_dict": prefixed("module.encoder_q.", without_fc(peer.state_dict()) | HEAD)
        | prefixed("module.encoder_k.", {k: torch.zeros_like(v) for k, v in peer.state_dict().items()})
        | {"module.queue": torch.zeros(4, 8)},
    },
    "barlow twins, checkpoint": lambda peer: {
        "epoch": 3, "model": prefixed("module.backbone.", without_fc(peer.state_dict()))
        | {"module.projector.0.weight": torch.zeros(4, 4)}, "optimizer": OPTIMIZER,
    },
    "supervised chest radiographs": lambda peer: {
        "state_dict": prefixed("module.", peer.state_dict()), "args": argparse.Namespace(lr=0.1, arch="resnet18"),
    },
    "children of the network": lambda peer: prefixed("backbone.", children(peer)),
    "without counts of batches": lambda peer: {
        name: tensor for name, tensor in peer.state_dict().items() if not name.endswith("num_batches_tracked")
    },
}  # fmt: skip


@pytest.mark.parametrize("release", RESNET_FILES)
def test_a_resnet_of_every_release_gives_its_features(release, tmp_path):
    peer = trained(narrow_resnet.Peer())
    path = tmp_path / "weights.pth.tar"
    torch.save(RESNET_FILES[release](peer), path)
    encoder = build_encoder(TINY).eval()
    StartWeights(path, encoder)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[-1], features(peer, images), rtol=1e-6, atol=1e-6)


UNET_FILES = {
    "smp": lambda unet: unet.state_dict(),
    "dira": lambda unet: {
        "epoch": 399, "state_dict": prefixed("module.encoder_q.backbone.", unet.state_dict())
        | prefixed("module.encoder_q.", HEAD)
        | prefixed("module.encoder_k.backbone.", {k: torch.zeros_like(v) for k, v in unet.state_dict().items()})
        | {"module.queue_ptr": torch.zeros(1, dtype=torch.long)}, "optimizer": OPTIMIZER,
    },
    "dira, U-Net alone": lambda unet: {"state_dict": prefixed("backbone.", unet.state_dict())},
}  # fmt: skip


def filled(path):
    """A U-Net with the weights of a file, its encoder, and what says so."""
    encoder = build_encoder(TINY)
    unet, start = UNet(encoder, CHANNELS).eval(), StartWeights(path, encoder)
    start.fill(unet)
    return encoder, unet, start


@pytest.mark.parametrize(("release", "kind"), [*((release, "") for release in UNET_FILES), ("smp", "tu-")])
def test_a_unet_of_every_release_gives_its_logits(release, kind, tmp_path):
    """Over smp's own ResNet, as the authors', and over timm's."""
    peer = trained(smp.Unet(f"{kind}{TINY}", encoder_weights=None, decoder_channels=CHANNELS))
    path = tmp_path / "checkpoint.pth"
    torch.save(UNET_FILES[release](peer), path)
    _, unet, start = filled(path)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(unet(images), peer(images), rtol=1e-6, atol=1e-6)
    printed = str(start)
    assert "decoder, head loaded" in printed and str(path) in printed
    if release == "dira":
        assert "behind 'state_dict.module.encoder_q.backbone.encoder." in printed and "fc.0.weight" in printed


def test_pcrls_release_gives_its_encoder_and_decoder(tmp_path):
    """Encoder and decoder under names of their own, without a head; command line, memory and momentum copy beside."""
    peer = trained(smp.Unet(TINY, encoder_weights=None, classes=3, decoder_channels=CHANNELS))
    copy = prefixed("module.model.", {name: torch.zeros_like(x) for name, x in peer.state_dict().items()})
    path = tmp_path / "pcrl_chest_pretask_1.0_240.pt"
    torch.save(
        {
            "opt": argparse.Namespace(model="pcrl", d=2, lr=1e-3, moco_t=0.2, weight=None),
            "state_dict": peer.encoder.state_dict(),
            "decoder_state_dict": peer.decoder.state_dict(),
            "contrast": {"params": torch.tensor([-1]), "memory": torch.zeros(8, 4)},
            "optimizer": OPTIMIZER,
            "epoch": 240,
            "model_ema": copy | {"module.fc1.weight": torch.zeros(4, 64), "module.aug_fc1.weight": torch.zeros(8, 6)},
        },
        path,
    )
    encoder, unet, start = filled(path)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = encoder(images), peer.encoder(images)
        torch.testing.assert_close(ours[-1], theirs[-1], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(unet.decoder(ours), peer.decoder(theirs), rtol=1e-6, atol=1e-6)
    assert "encoder (timm or torchvision names behind 'state_dict.'), decoder loaded;" in str(start)


@pytest.mark.parametrize("name", [tiny_swin.NAME, "test_vit", "test_vit2"])
def test_timms_weights_give_timms_features(name, tmp_path):
    encoder = build_encoder(name, size=64).eval()
    whole = trained(timm.create_model(name, num_classes=5, **encoder.arguments))
    path = tmp_path / "weights.safetensors"
    save_file(whole.state_dict(), path)
    StartWeights(path, encoder)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
        if "vit" in name:  # a ViT's last map is behind its final norm, and at 1/32 instead of 1/16
            norm = whole.norm if name == "test_vit" else whole.fc_norm
            expected = nn.functional.avg_pool2d(norm(expected.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 2)
        torch.testing.assert_close(encoder(images)[-1], expected)


def convnext():
    sizes = zip((40, 80, 160, 320), (80, 160, 320, None), (2, 2, 6, 2), strict=True)
    peer = torchvision.models.ConvNeXt([torchvision.models.convnext.CNBlockConfig(*size) for size in sizes])
    return peer, peer.features


def swin():
    peer = torchvision.models.SwinTransformer([4, 4], 16, [1, 2, 1, 1], [1, 2, 2, 4], [7, 7])
    return peer, lambda images: peer.features(images).permute(0, 3, 1, 2)


def vit():
    peer = torchvision.models.VisionTransformer(96, 16, num_layers=6, num_heads=2, hidden_dim=64, mlp_dim=192)

    def last(images):
        tokens = peer._process_input(images)
        tokens = peer.encoder(torch.cat([peer.class_token.expand(len(images), -1, -1), tokens], dim=1))[:, 1:]
        return nn.functional.avg_pool2d(tokens.transpose(1, 2).reshape(len(images), -1, 6, 6), 2)

    return peer, last


@pytest.mark.parametrize(
    ("name", "make", "size"), [("convnext_atto", convnext, 96), (tiny_swin.NAME, swin, 224), ("test_vit", vit, 96)]
)
def test_torchvisions_other_families_give_their_features(name, make, size, tmp_path):
    """Swin where windows tile its maps: elsewhere timm shrinks a window that torchvision pads."""
    peer, last = make()
    trained(peer)
    path = tmp_path / "weights.pth"
    torch.save(peer.state_dict(), path)
    encoder = build_encoder(name, size=size).eval()
    start = StartWeights(path, encoder)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[-1], last(images), rtol=1e-5, atol=1e-5)
    assert "torchvision" in str(start) and "not used: " in str(start)


@pytest.mark.parametrize("name", ["test_vit", tiny_swin.NAME])
def test_weights_of_another_image_size_are_resampled_as_timm_does(name, tmp_path):
    """Position embeddings of 10 x 10 patches, biases of windows of 7 pixels; into 2 x 2 and windows of 2."""
    state = trained(timm.create_model(name, num_classes=0)).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    encoder = build_encoder(name, size=32)
    StartWeights(path, encoder)
    theirs = timm.create_model(name, num_classes=0, img_size=32)
    module = vision_transformer if name == "test_vit" else swin_transformer
    theirs.load_state_dict(module.checkpoint_filter_fn(state, theirs))
    expected, actual = theirs.state_dict(), encoder.state_dict()
    assert [ours for ours, key in timm_names(encoder).items() if not torch.equal(actual[ours], expected[key])] == []
    assert any(expected[key].shape != state[key].shape for key in expected)


@cache
def network(encoder):
    return UNet(build_encoder(encoder), CHANNELS)


def refused(path, encoder=TINY):
    unet = network(encoder)
    with pytest.raises(WeightsError) as raised:
        StartWeights(path, unet.encoder).fill(unet)
    assert str(raised.value).startswith(f"{path}: ") and len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    state = timm.create_model(TINY, num_classes=0).state_dict()
    path = tmp_path / "w.safetensors"
    assert "no such file" in refused(path)
    path.write_bytes(b"not tensors")
    assert "cannot be read" in refused(path)
    (tmp_path / "w.pth").write_bytes(b"no tensors")
    assert refused(tmp_path / "w.pth").endswith("(not a PyTorch file, or damaged); save a state_dict")
    save_file(prefixed("net.", {k: v for k, v in state.items() if k != "layer4.1.bn2.weight"}), path)
    assert "'net.layer4.1.bn2.weight' is missing; did you mean 'net.layer4" in refused(path)
    save_file(state | {"conv1.weight": torch.zeros(64, 2, 7, 7)}, path)
    assert "'conv1.weight' has shape (64, 2, 7, 7), narrow_resnet needs (64, 3, 7, 7)" in refused(path)
    assert "is missing" in refused(path, encoder="test_vit")
    save_file(prefixed("a.", state) | prefixed("b.", {k: v.clone() for k, v in state.items()}), path)
    assert "at 'a.' and 'b.'; keep one" in refused(path)
    save_file(smp.Unet(TINY, encoder_weights=None, decoder_channels=(32, 16, 16, 8, 4)).state_dict(), path)
    assert "the decoder needs (" in refused(path)


def test_a_file_that_has_more_than_the_encoder_among_its_stages_is_refused(tmp_path):
    """ResNet-34 holds all names and shapes of ResNet-18, a squeeze-and-excitation network those of a plain one."""
    path = tmp_path / "w.safetensors"
    for more in ({"layers": (3, 4, 6, 3)}, {"block_args": {"attn_layer": "se"}}):
        save_file(prefixed("module.", timm.create_model(TINY, num_classes=3, **more).state_dict()), path)
        assert f"is of another network than {TINY}, which has no entry 'module.layer" in refused(path)
    unet = smp.Unet(f"tu-{TINY}", encoder_weights=None, decoder_channels=CHANNELS, layers=(3, 4, 6, 3))
    save_file(unet.state_dict(), path)
    assert "has no entry 'encoder.model.layer1.2." in refused(path)
    save_file(timm.create_model("test_vit", depth=7).state_dict(), path)
    assert "has no entry 'blocks.6." in refused(path, encoder="test_vit")


def test_a_decoder_of_another_kind_is_left_and_two_equal_ones_are_refused(tmp_path):
    peer = smp.Unet(TINY, encoder_weights=None, decoder_channels=CHANNELS, decoder_attention_type="scse")
    path = tmp_path / "w.safetensors"
    save_file(peer.state_dict(), path)
    encoder = build_encoder(TINY)
    start = StartWeights(path, encoder)
    start.fill(UNet(encoder, CHANNELS))
    assert [part.split()[0] for part in start.loaded] == ["encoder"] and "not used: decoder.blocks" in str(start)
    decoder = UNet(encoder, CHANNELS).decoder.state_dict()
    two = prefixed("a.decoder.", decoder) | prefixed("b.decoder.", {k: v.clone() for k, v in decoder.items()})
    save_file(prefixed("encoder.", timm.create_model(TINY, num_classes=0).state_dict()) | two, path)
    assert "holds this decoder at 'a.decoder.' and 'b.decoder.'" in refused(path)


def test_half_precision_is_read_into_float32(tmp_path):
    peer = timm.create_model(TINY, num_classes=0, in_chans=1)
    path = tmp_path / "half.safetensors"
    save_file({name: t.bfloat16() if t.is_floating_point() else t for name, t in peer.state_dict().items()}, path)
    encoder = build_encoder(TINY)
    StartWeights(path, encoder)
    assert all(p.dtype is torch.float32 for p in encoder.parameters())
    torch.testing.assert_close(
        encoder.model.conv1.weight.sum(1, keepdim=True), peer.conv1.weight.bfloat16().float(), rtol=1e-6, atol=1e-7
    )


class _Code:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_nothing_is_unpickled(tmp_path, capfd):
    path = tmp_path / "w.pth.tar"
    state = timm.create_model(TINY, num_classes=0).state_dict()
    torch.save({"state_dict": state, "extra": _Code()}, path)
    printed = refused(path)
    assert "builtins.print" in printed or "print" in printed
    assert "this must not run" not in capfd.readouterr().out
    torch.save({"state_dict": state, "best_acc1": np.float64(0.5)}, path)
    printed = refused(path)
    assert "If you trust the file" in printed and "numpy" in printed


def test_the_commands_that_the_refusal_gives_make_a_file_that_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    peer = trained(narrow_resnet.Peer())
    path = tmp_path / "some $(body's) old.pth.tar"
    torch.save({"state_dict": prefixed("module.", peer.state_dict()), "best_acc1": np.float64(0.5)}, path)
    python, flag, code, *arguments = shlex.split(refused(path).split("extract its tensors: ")[1])
    assert (python, flag, arguments[0]) == ("python", "-c", str(path))
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})
    encoder = build_encoder(TINY).eval()
    StartWeights(tmp_path / arguments[1], encoder)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[-1], features(peer, images), rtol=1e-6, atol=1e-6)
