"""Swin UNETR against MONAI's own."""

import pytest
import torch
from models.volumes import network, parameters
from torch import Tensor, nn

SIZE = (32, 32, 64)


def monai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the parts that ours has them in."""
    return {name.replace("head.", "out.", 1) if name.startswith("head.") else name.partition(".")[2]: tensor
            for name, tensor in state.items()}  # fmt: skip


@pytest.mark.system
def test_it_is_monais_network_by_names_and_result() -> None:
    from monai.networks.nets import SwinUNETR

    ours = network("swinunetr", SIZE, classes=3, channels=2, feature_size=12)
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
