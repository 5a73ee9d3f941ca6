"""nnU-Net's residual encoder U-Net against its definition in plain torch; Swin UNETR against MONAI's own."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train.models.volumes import network, parameters

SMALL = {"features": "[4,8,8]", "blocks": "[1,2,1]"}


class Plain:
    """From a state with nnU-Net's names: which convolutions follow which is read off the names and the widths."""

    def __init__(self, state: Mapping[str, Tensor], blocks: list[int]) -> None:
        self.state, self.blocks = state, blocks

    def __call__(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self._layer("encoder.stem.convs.0", x))
        maps = []
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = self._block(f"encoder.stages.{stage}.blocks.{block}", x, 2 if stage and not block else 1)
            maps.append(x)
        for stage, skip in enumerate(reversed(maps[:-1])):
            up = f"decoder.transpconvs.{stage}"
            x = F.conv_transpose3d(x, self.state[f"{up}.weight"], self.state[f"{up}.bias"], stride=2)
            x = F.leaky_relu(self._layer(f"decoder.stages.{stage}.convs.0", torch.cat([x, skip], 1)))
        return F.conv3d(x, self.state["head.weight"], self.state["head.bias"])

    def _block(self, name: str, x: Tensor, stride: int) -> Tensor:
        y = F.leaky_relu(self._layer(f"{name}.conv1", x, stride))
        y = self._layer(f"{name}.conv2", y)
        shortcut = F.avg_pool3d(x, stride) if stride > 1 else x
        projection = f"{name}.skip.{int(stride > 1)}"
        if f"{projection}.conv.weight" in self.state:
            shortcut = self._layer(projection, shortcut)
        return F.leaky_relu(y + shortcut)

    def _layer(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.conv.weight"]
        x = F.conv3d(x, weight, self.state.get(f"{name}.conv.bias"), stride, padding=weight.shape[-1] // 2)
        return F.instance_norm(x, weight=self.state[f"{name}.norm.weight"], bias=self.state[f"{name}.norm.bias"])


def test_it_computes_what_its_definition_does() -> None:
    ours = network("resenc_l", (8, 16, 24), classes=3, channels=2, **SMALL)
    assert not any(block.conv2.norm.weight.any() for stage in ours.encoder.stages for block in stage.blocks)
    for parameter in ours.parameters():
        torch.nn.init.uniform_(parameter, -0.3, 0.3)
    volumes = torch.rand(2, 2, 8, 16, 24)
    torch.testing.assert_close(ours(volumes), Plain(ours.state_dict(), [1, 2, 1])(volumes))


def test_resenc_l_has_nnunets_numbers_names_and_shapes() -> None:
    with torch.device("meta"):
        full = network("resenc_l", (64, 64, 64))
    state = full.state_dict()
    assert parameters(full) == 102_348_193  # nnU-Net's has four more layers for deep supervision: 772 parameters
    assert len(state) == 254 + 2
    assert full.encoder.channels == [1, 32, 64, 128, 256, 320, 320]
    for name, shape in {
        "encoder.stem.convs.0.conv.weight": (32, 1, 3, 3, 3),
        "encoder.stages.0.blocks.0.conv1.conv.bias": (32,),
        "encoder.stages.1.blocks.0.skip.1.conv.weight": (64, 32, 1, 1, 1),
        "encoder.stages.1.blocks.0.skip.1.norm.bias": (64,),
        "encoder.stages.3.blocks.5.conv2.norm.weight": (256,),
        "encoder.stages.5.blocks.0.conv1.conv.weight": (320, 320, 3, 3, 3),
        "decoder.transpconvs.0.weight": (320, 320, 2, 2, 2),
        "decoder.stages.4.convs.0.conv.weight": (32, 64, 3, 3, 3),
    }.items():
        assert tuple(state[name].shape) == shape, name
    pyramid = full.encoder(torch.empty(1, 1, 64, 32, 96, device="meta"))
    assert [tuple(level.shape[2:]) for level in pyramid[-2:]] == [(4, 2, 6), (2, 1, 3)]


SIZE = (32, 32, 64)


def monai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the parts that ours has them in."""
    return {name.replace("head.", "out.", 1) if name.startswith("head.") else name.partition(".")[2]: tensor
            for name, tensor in state.items()}  # fmt: skip


@pytest.mark.system
def test_it_is_monais_network_by_names_and_result() -> None:
    from monai.networks.nets import SwinUNETR

    ours = network("swinunetr", SIZE, classes=3, channels=2, feature_size=12, bias_axes="zyx")  # MONAI's own order
    theirs = SwinUNETR(2, 3, feature_size=12)
    theirs.load_state_dict(monai_names(ours.state_dict()))
    volumes = torch.rand(1, 2, *SIZE)
    result = ours(volumes)
    assert torch.equal(result, theirs(volumes)) and torch.equal(result, ours(volumes))  # nothing is drawn
    pyramid = ours.encoder(volumes)
    assert [level.shape[1] for level in pyramid] == ours.encoder.channels == [2, 12, 12, 24, 48, 96, 192]
    assert [level.shape[2] for level in pyramid] == [32, 32, 16, 8, 4, 2, 1]
    assert not any(layer.p for layer in ours.modules() if isinstance(layer, nn.Dropout))


@pytest.mark.system
def test_the_published_width_can_be_planned_without_memory() -> None:
    with torch.device("meta"):
        assert parameters(network("swinunetr", (96, 96, 96))) == 62_186_659
