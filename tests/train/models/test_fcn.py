"""The FCN, against torchvision's ResNet with the last stage dilated as MoCo's appendix has it."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.resnet import Bottleneck, ResNet
from train.models.test_classifier import model
from train.models.volumes import chosen

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.encoder import timm_names
from dira_scale.train.models.pyramid import TimmEncoder


def test_logits_are_those_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    built = architecture(model("resnet26"))
    encoder = built.build_encoder(64)
    assert isinstance(encoder, TimmEncoder)
    network = built.build("fcn", encoder, 5).eval()
    peer = ResNet(Bottleneck, [2, 2, 2, 2], replace_stride_with_dilation=[False, False, True]).eval()
    peer.layer4[0].conv2.dilation = peer.layer4[0].conv2.padding = (2, 2)  # which torchvision leaves at 1
    state, names = encoder.state_dict(), timm_names(encoder)
    missing = peer.load_state_dict({theirs: state[ours] for ours, theirs in names.items()}, strict=False)
    assert set(missing.missing_keys) == {"fc.weight", "fc.bias"} and not missing.unexpected_keys
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        x = peer.maxpool(peer.relu(peer.bn1(peer.conv1(image))))
        x = peer.layer4(peer.layer3(peer.layer2(peer.layer1(x))))
        assert x.shape == (2, 2048, 4, 6)  # at 1/16
        _, first, norm, _, second, other, _ = network.decoder
        for convolution, batch_norm in ((first, norm), (second, other)):
            x = F.relu(batch_norm(F.conv2d(x, convolution.weight, padding=6, dilation=6)))
        assert x.shape[1] == 256
        x = F.conv2d(x, network.head.weight, network.head.bias)
        expected = F.interpolate(x, scale_factor=16, mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


def test_a_resnet_with_pooled_shortcuts_is_dilated_too() -> None:
    built = architecture(model("test_resnet"))
    network = built.build("fcn", built.build_encoder(64), 2)
    assert network(torch.rand(2, 1, 64, 96)).shape == (2, 2, 64, 96)


def test_other_encoders_are_refused() -> None:
    for built, size in ((architecture(model("test_vit")), 64), (chosen("unet3d", width=0.125), (16, 16, 16))):
        with pytest.raises(
            ArgumentError, match=r"encoder=\S+: expected a ResNet of timm|encoder: expected a ResNet of"
        ):
            built.build("fcn", built.build_encoder(size), 2)
