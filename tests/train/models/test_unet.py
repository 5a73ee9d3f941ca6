"""The U-Net, against segmentation_models_pytorch's own, and the discriminator's shape."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.discriminator import Discriminator
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.norm_act import InstanceNormAct
from dira_scale.train.models.unet import UNet


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_papers_network_is_the_authors():
    """Shapes and names; the latter but for what model.weights translates (tests/train/models/test_layouts.py)."""
    with torch.device("meta"):
        ours, theirs = UNet(build_encoder("resnet50")), smp.Unet("resnet50", encoder_weights=None)
    renamed = {"encoder.model.": "encoder.", "head.": "segmentation_head.0."}
    shapes = {}
    for name, value in ours.state_dict().items():
        old = next((old for old in renamed if name.startswith(old)), "")
        shapes[renamed.get(old, "") + name.removeprefix(old)] = value.shape
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_it_computes_what_smps_does_in_smaller_numbers(where):
    """In float64 on a CPU; under autocast on a GPU, where smp's decoder concatenates maps in fp32."""
    torch.manual_seed(0)
    theirs = smp.Unet("tu-test_resnet.r160_in1k", encoder_weights=None).to(where)
    ours, x = UNet(build_encoder("test_resnet")).to(where), torch.rand(2, 3, 64, 96, device=where)
    seen = []
    ours.decoder.blocks[0].conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    ours.decoder.load_state_dict(theirs.decoder.state_dict())
    if where == "cpu":
        ours, theirs, x = ours.double(), theirs.double(), x.double()
    with torch.autocast(where, torch.bfloat16, enabled=where == "cuda"), torch.no_grad():
        pyramid = theirs.encoder(x)
        torch.testing.assert_close(ours.decoder(pyramid), theirs.decoder(pyramid), rtol=0, atol=0)
    assert seen == [torch.float64 if where == "cpu" else torch.bfloat16]


def test_decoder_initialisation():
    """He-uniform convolutions, bounds sqrt(6 / fan_in); Xavier-uniform head with bias 0."""
    torch.manual_seed(0)
    unet = UNet(build_encoder("resnet18"))
    for module in unet.decoder.modules():
        if isinstance(module, nn.Conv2d):
            bound = (6 / module.weight[0].numel()) ** 0.5
            assert module.bias is None and 0.98 * bound < module.weight.abs().max() <= bound
    assert (unet.head.bias == 0).all()
    assert unet.head.weight.abs().max() <= (6 / (9 * 16 + 9)) ** 0.5


def test_wrong_number_of_decoder_channels_is_refused():
    with pytest.raises(ArgumentError, match="decoder_channels: expected 5 counts"):
        UNet(build_encoder("test_resnet"), decoder_channels=(64, 32))


def test_discriminator_map_and_receptive_field():
    discriminator = Discriminator()
    assert sum(p.numel() for p in discriminator.parameters()) == 1_554_433
    assert discriminator(torch.rand(2, 1, 224, 224)).shape == (2, 1, 28, 28)
    stack = nn.Sequential(*(layer for layer in discriminator if not isinstance(layer, InstanceNormAct)))
    image = torch.rand(1, 1, 224, 224, requires_grad=True)
    stack(image)[0, 0, 14, 14].backward()
    rows = image.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 47


def test_discriminator_initialisation():
    torch.manual_seed(0)
    for layer in Discriminator():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert layer.weight.mean().item() == pytest.approx(0, abs=1e-3)
