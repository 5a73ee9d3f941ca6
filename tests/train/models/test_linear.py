"""A linear classifier of pixels, against the definition: each level interpolated by torch, then a matrix product."""

import pytest
import torch
import torch.nn.functional as F
from train.engine.test_determinism import REFUSED, Operations
from train.models.test_classifier import model
from train.models.volumes import chosen

from dira_scale.train.models.architecture import Architecture, architecture
from dira_scale.train.models.linear import resized
from dira_scale.train.models.network import Encoder

MODES = {2: "bilinear", 3: "trilinear"}


@pytest.mark.parametrize(
    ("built", "size", "levels"),
    [
        (architecture(model("test_resnet")), 64, 5),
        (architecture(model("test_vit")), 64, 4),  # its second level has no channels
        (chosen("unet3d", width=0.125), (16, 16, 24), 4),
        (chosen("resenc_l", features="[4,8,8,8]", blocks="[1,1,1,1]"), (8, 8, 16), 4),
    ],
)
def test_logits_are_a_matrix_product_with_every_level_at_the_images_size(
    built: Architecture, size: int | tuple[int, ...], levels: int
) -> None:
    torch.manual_seed(0)
    encoder: Encoder = built.build_encoder(size)
    network = built.build("linear", encoder, 3).double().eval()
    sides = (size, size) if isinstance(size, int) else size
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter)
    image = torch.rand(2, 1, *sides, dtype=torch.float64)
    logits, pyramid = network(image), [level.detach().requires_grad_() for level in encoder(image)]
    with Operations() as operations:
        network.head(pyramid).square().sum().backward()
    assert operations.seen & REFUSED == set()  # a GPU adds in one order

    maps = [level for level in pyramid[1:] if level.shape[1]]
    features = torch.cat([F.interpolate(level, size=sides, mode=MODES[len(sides)]) for level in maps], 1)
    head = dict(network.head.named_parameters())
    (bias,) = (value for name, value in head.items() if name.endswith("bias"))
    weight = torch.cat([value.flatten(1) for name, value in head.items() if name.endswith("weight")], 1)
    expected = (features.movedim(1, -1) @ weight.T + bias).movedim(-1, 1)
    assert len(maps) == levels and weight.shape == (3, features.shape[1])
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_maps_are_resized_as_torch_does_from_any_size_to_any_and_in_fp32() -> None:
    maps = torch.rand(2, 3, 5, 1, 8, dtype=torch.float64)
    expected = F.interpolate(maps, size=(12, 4, 8), mode="trilinear", align_corners=False)
    torch.testing.assert_close(resized(maps, (12, 4, 8)), expected, rtol=1e-12, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        low = resized(maps.bfloat16(), (12, 4, 8))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), resized(maps.bfloat16().double(), (12, 4, 8)), rtol=1e-6, atol=1e-6)
