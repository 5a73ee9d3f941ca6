"""Encoders: timm's own features, its names, local weights, and what is refused."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from dira_scale.errors import UserError
from dira_scale.models.encoder import build_encoder, timm_names


def test_resnet50_has_the_papers_parameters_and_pyramid():
    encoder = build_encoder("resnet50").eval()
    assert sum(p.numel() for p in encoder.parameters()) == 23_508_032
    assert encoder.channels == [3, 64, 256, 512, 1024, 2048]
    with torch.no_grad():
        features = encoder(torch.rand(1, 1, 224, 224))
    assert [f.shape[-1] for f in features] == [224, 112, 56, 28, 14, 7]
    assert [f.shape[1] for f in features] == encoder.channels


def test_random_initialisation_is_torchvisions():
    """Convolutions N(0, 2 / fan_out), BatchNorm 1 and 0, residual branches open."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet18")
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_one_channel_equals_three_equal_ones():
    encoder = build_encoder("resnet18").eval()
    grey = torch.rand(2, 1, 64, 64)
    for one, three in zip(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)), strict=True):
        torch.testing.assert_close(one, three)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnetx_002"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_give_timms_features(name, suffix, tmp_path):
    torch.manual_seed(1)
    whole = timm.create_model(name, num_classes=5).eval()
    path = tmp_path / f"weights{suffix}"
    save_file(whole.state_dict(), path) if suffix == ".safetensors" else torch.save(whole.state_dict(), path)
    encoder = build_encoder(name, weights=str(path)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(images)[-1], whole.forward_intermediates(images, intermediates_only=True)[-1]
        )


def test_names_are_a_bijection_onto_timms():
    names = timm_names(build_encoder("resnet18"))
    assert sorted(names.values()) == sorted(timm.create_model("resnet18", num_classes=0).state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet81", "did you mean 'resnet"), ("vit_tiny_patch16_224", "no feature pyramid")],
)
def test_unusable_backbones_are_refused(name, expected):
    with pytest.raises(UserError, match=r"model\.encoder") as raised:
        build_encoder(name)
    assert expected in str(raised.value)


class _Code:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_unfit_weights_are_refused(tmp_path, capfd):
    good = timm.create_model("resnet18", num_classes=0).state_dict()
    path = tmp_path / "w.safetensors"

    def refused(expected):
        with pytest.raises(UserError) as raised:
            build_encoder("resnet18", weights=str(path))
        assert str(path) in str(raised.value) and expected in str(raised.value)

    refused("no such file")
    path.write_bytes(b"not tensors")
    refused("cannot be read")
    save_file({k: v for k, v in good.items() if k != "layer4.1.bn2.weight"}, path)
    refused("'layer4.1.bn2.weight' is missing")
    save_file(good | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    refused("shape")
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(_Code(), protocol=2))
    refused("cannot be read")
    assert "must not run" not in capfd.readouterr().out
