"""Grad-CAM beside its definition, written plainly with NumPy; of images and volumes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train.models.stub_classifier import Patches

from dira_scale.localize.look import GradCam
from dira_scale.train.models.classifier import CoarsestMap
from dira_scale.train.models.network import Network
from dira_scale.train.runs.description import InputDescription

pytestmark = pytest.mark.usefixtures("libraries")


class Bent(nn.Module):
    """A head whose gradients depend on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(2).mean(2).tanh())


class Tiny(Network):
    def __init__(self, dimensions: int, side: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = Patches(dimensions, side, 3), CoarsestMap(), Bent()


def linear(values: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Along one axis, edge to edge: positions of pixels' centres, the nearest one beyond the outermost centres."""
    old = values.shape[axis]
    at = (np.arange(length) + 0.5) * old / length - 0.5
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(old), line), axis, values)


@pytest.mark.parametrize(("size", "side"), [((12, 20), 4), ((8, 4, 12), 4)], ids=["image", "volume"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_maps_are_those_of_the_definition(size: tuple[int, ...], side: int, activation: str) -> None:
    torch.manual_seed(3)
    network, n = Tiny(len(size), side).eval(), len(size)
    network.encoder.convolution.bias.data.fill_(0.3)  # type: ignore[union-attr, operator]
    input = InputDescription(size, mean=(0.4,), deviation=(0.2,))
    image = torch.rand(1, *size)
    cam = GradCam(network, input, {"sigmoid": torch.sigmoid, "softmax": lambda logits: logits.softmax(1)}[activation])
    for output in (0, 1, 0):
        map, probability = cam.of(image, output)
        state = {name: value.double().numpy() for name, value in network.state_dict().items()}
        grid = [edge // side for edge in size]
        patches = ((image[0].double().numpy() - 0.4) / 0.2).reshape([part for edge in grid for part in (edge, side)])
        patches = np.moveaxis(patches, range(1, 2 * n, 2), range(n, 2 * n)).reshape(*grid, -1)
        weights, bias = state["encoder.convolution.weight"].reshape(3, -1), state["encoder.convolution.bias"]
        features = np.maximum(np.moveaxis(patches @ weights.T + bias, -1, 0), 0)  # [3, *grid]
        pooled = np.tanh(features.reshape(3, -1).mean(1))
        logits = state["head.fc.weight"] @ pooled + state["head.fc.bias"]
        gradients = state["head.fc.weight"][output] * (1 - pooled**2) / np.prod(grid)  # of every position
        expected = np.maximum(np.tensordot(gradients, features, 1), 0)
        assert expected.max() > 0, "the seed gives a map"
        for axis in range(n):
            expected = linear(expected, axis, size[axis])
        expected = 255 * (expected - expected.min()) / np.ptp(expected)
        np.testing.assert_allclose(map, expected, atol=2e-3)
        assert map.min() == 0 and map.max() == 255 and map.shape == size
        odds = np.exp(logits)
        known = odds[output] / odds.sum() if activation == "softmax" else 1 / (1 + np.exp(-logits[output]))
        assert probability == pytest.approx(known, rel=1e-5)


def test_where_nothing_speaks_for_a_label_the_map_is_zero() -> None:
    network = Tiny(2, 4).eval()
    network.head.fc.weight.data.fill_(-1.0)  # type: ignore[union-attr, operator]
    map, _ = GradCam(network, InputDescription((12, 12)), torch.sigmoid).of(torch.rand(1, 12, 12), 0)
    assert not map.any()
