"""The 3D U-Net of Models Genesis and TransVW against its definition in plain torch, written from the papers."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.volumes import chosen, network, parameters
from torch import Tensor, nn

from dira_scale.errors import UserError

SIZE = (8, 16, 24)
PLAIN_NORMS = {
    "batch": nn.BatchNorm3d,
    "instance": lambda channels: nn.InstanceNorm3d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(8, channels),
}


class Plain(nn.Module):
    """Layers in the order of the state dict: four levels down, three up, a head."""

    def __init__(self, base: int, norm: str, up: str, channels: int, classes: int) -> None:
        super().__init__()
        self.up = up
        sides = [channels, 2 * base, 4 * base, 8 * base, 16 * base]
        self.down = nn.ModuleList(self._two(i, o // 2, o, norm) for i, o in pairwise(sides))
        ups: list[nn.Module] = []
        for coarse, skip in ((sides[4], sides[3]), (sides[3], sides[2]), (sides[2], sides[1])):
            ups += [nn.ConvTranspose3d(coarse, coarse, 2, 2)] if up == "transposed" else [nn.Identity()]
            ups.append(self._two(coarse + skip, skip, skip, norm))
        self.ups = nn.ModuleList(ups)
        self.last = nn.Conv3d(sides[1], classes, 1)

    @staticmethod
    def _two(first: int, second: int, third: int, norm: str) -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs, outputs in ((first, second), (second, third)):
            layers += [nn.Conv3d(inputs, outputs, 3, padding=1), PLAIN_NORMS[norm](outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, layers in enumerate(self.down):
            x = layers(F.max_pool3d(x, 2) if level else x)
            skips.append(x)
        for i, skip in enumerate(reversed(skips[:-1])):
            x = self.ups[2 * i](x) if self.up == "transposed" else F.interpolate(x, scale_factor=2.0)
            x = self.ups[2 * i + 1](torch.cat([x, skip], 1))
        result: Tensor = self.last(x)
        return result


@pytest.mark.parametrize(("up", "count"), [("transposed", 19_073_665), ("nearest", 16_320_257)])
def test_both_published_layouts_have_their_numbers_of_parameters(up: str, count: int) -> None:
    with torch.device("meta"):
        published = network("unet3d", (64, 64, 32), up=up)
    assert parameters(published) == count
    assert parameters(published.encoder) == 7_027_776
    assert published.encoder.channels == [1, 64, 128, 256, 512]
    pyramid = published.encoder(torch.empty(2, 1, 32, 64, 64, device="meta"))
    assert [tuple(level.shape[2:]) for level in pyramid] == [(32, 64, 64)] * 2 + [(16, 32, 32), (8, 16, 16), (4, 8, 8)]


@pytest.mark.parametrize("up", ["transposed", "nearest"])
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_its_definition_does(norm: str, up: str, training: bool) -> None:
    ours = network("unet3d", SIZE, classes=3, channels=2, width=0.25, norm=norm, up=up).train(training)
    plain = Plain(8, norm, up, channels=2, classes=3).train(training)
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    volumes = torch.rand(2, 2, *SIZE)
    torch.testing.assert_close(ours(volumes), plain(volumes))


@pytest.mark.parametrize(
    ("keys", "size", "message"),
    [
        ({}, (20, 32, 32), "data.size=[20, 32, 32]: unet3d halves each side down to 1/8: give multiples of 8, such as "
         "data.size=[16, 32, 32] or [24, 32, 32]"),
        ({"norm": "instance"}, (8, 8, 8), "data.size=[8, 8, 8]: the coarsest map of unet3d is one voxel, and "
         "model.norm=instance makes it 0 whatever the volume; use data.size=[16, 8, 8] or larger"),
        ({}, 64, "data.size=64: unet3d takes volumes: give three, as data.size=[64, 64, 64]"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_suit_are_named(keys: dict[str, Any], size: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        chosen("unet3d", **keys).build_encoder(size)
    assert str(error.value) == message


def test_a_width_gives_whole_channels() -> None:
    with pytest.raises(UserError, match=r"^model.width=0.3: 32 channels times that must be a multiple of 1;"):
        chosen("unet3d", width=0.3)
    with pytest.raises(UserError, match=r"^model.width=0.125: 32 .* multiple of 8, the groups of norm=group;"):
        chosen("unet3d", width=0.125, norm="group")
