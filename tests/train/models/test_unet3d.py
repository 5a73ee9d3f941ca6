"""The 3D U-Net of Models Genesis and TransVW against its definition in plain torch, written from the papers."""

from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train.models.volumes import network, parameters

from dira_scale.train.models import norm

SIZE = (8, 16, 24)
PLAIN_NORMS = {
    "batch": nn.BatchNorm3d,
    "instance": lambda channels: nn.InstanceNorm3d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(8, channels),
}


class Plain(nn.Module):
    """With the names that exported files have: what somebody needs who has torch alone."""

    def __init__(self, base: int, norm: str, up: str, channels: int, classes: int) -> None:
        super().__init__()
        widths = [channels, 2 * base, 4 * base, 8 * base, 16 * base]
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.levels = nn.ModuleList(self._two(i, o // 2, o, norm) for i, o in pairwise(widths))
        self.decoder.levels = nn.ModuleList()
        for coarse, skip in pairwise(widths[:0:-1]):
            step = nn.Module()
            step.up = nn.ConvTranspose3d(coarse, coarse, 2, 2) if up == "transposed" else nn.Upsample(scale_factor=2.0)
            step.convs = self._two(coarse + skip, skip, skip, norm)
            self.decoder.levels.append(step)
        self.head = nn.Conv3d(widths[1], classes, 1)

    @staticmethod
    def _two(*widths: int | str) -> nn.Sequential:
        *channels, norm = widths
        return nn.Sequential(
            *(
                nn.Sequential(OrderedDict(conv=nn.Conv3d(i, o, 3, padding=1), norm=PLAIN_NORMS[norm](o), act=nn.ReLU()))
                for i, o in pairwise(channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level in self.encoder.levels:
            x = level(F.max_pool3d(x, 2) if skips else x)
            skips.append(x)
        for step, skip in zip(self.decoder.levels, skips[-2::-1], strict=True):
            x = step.convs(torch.cat([step.up(x), skip], 1))
        result: Tensor = self.head(x)
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


@pytest.mark.parametrize(
    ("kind", "up", "training"),
    [("batch", "transposed", True), ("batch", "nearest", False), ("instance", "nearest", True),
     ("group", "transposed", True)],
)  # fmt: skip
def test_it_computes_what_its_definition_does(kind: str, up: str, training: bool) -> None:
    ours = network("unet3d", SIZE, classes=3, channels=2, width=0.25, norm=kind, up=up).train(training)
    plain = Plain(8, kind, up, channels=2, classes=3).train(training)
    plain.load_state_dict(ours.state_dict())
    volumes = torch.rand(2, 2, *SIZE)
    torch.testing.assert_close(ours(volumes), plain(volumes))


def test_its_batchnorm_is_in_groups_of_the_global_batch() -> None:
    ours, plain = (network("unet3d", SIZE, width=0.125).train() for _ in range(2))
    norm.convert(ours, groups=2)
    volumes = torch.rand(4, 1, *SIZE)
    torch.testing.assert_close(ours(volumes), torch.cat([plain(half) for half in volumes.chunk(2)]))
