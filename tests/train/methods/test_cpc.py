"""Contrastive predictive coding: patches and sequences by hand, its loss in float64 beside a plain formula."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from train.data.volumes import spec
from train.methods.masked import UNET, UNET3D, VIT3D, built
from train.methods.test_pretext import drawn, linear, pictures, views
from train.methods.test_puzzles import corners

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.train.data.distort import build
from dira_scale.train.data.distort.corruptions import CropBlocks, Turn
from dira_scale.train.data.geometry.blocks import cut
from dira_scale.train.methods.cpc import sequences
from dira_scale.train.methods.shuffle import permutation

BOX, BLOCKS = (16, 16, 32), (2, 2, 4)
CPC = {"_target_": "CPC", "dim": 5, "context": 4}
PATCHES = {"patches": CropBlocks(BLOCKS, 0.75)}


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_patches_are_mirrored_and_cropped_to_their_middle() -> None:
    of = views(BOX, **PATCHES)
    x, params = pictures(of, 3).float(), drawn(of, 3)
    seen, drew = build(of)(x, params), params.corruptions["patches"]
    for i in range(3):
        for block, box in enumerate(corners(BOX, BLOCKS)):
            source = x[i, 0][box].numpy()
            source = source[..., ::-1] if drew["flip"][i, block] else source
            at = drew["corner"][i, block].tolist()
            assert all(0 <= corner <= 2 for corner in at)  # sides of 8, of which 6 stay
            expected = np.zeros((8, 8, 8), np.float32)
            expected[1:7, 1:7, 1:7] = source[tuple(slice(corner, corner + 6) for corner in at)]
            np.testing.assert_array_equal(seen[i, 0][box].numpy(), expected)
    many = drawn(of, 2000).corruptions["patches"]
    assert abs(float(many["flip"].float().mean()) - 0.5) < 0.01
    assert all(abs(float((many["corner"] == at).float().mean()) - 1 / 3) < 0.01 for at in range(3))


def test_a_pyramid_is_read_and_what_follows_it_predicted() -> None:
    """Cut into 3 x 2 x 4 patches: the middle of the first row, and a corner, whose neighbours are mirrored."""
    before, following = sequences((3, 2, 4))
    assert before.shape == (6, 10) and following.shape == (6, 2)

    def number(z: int, y: int, x: int) -> int:
        return (z * 2 + y) * 4 + x

    middle = [number(z, y, 0) for z in (0, 1, 2) for y in (1, 0, 1)] + [number(1, 0, 1)]
    corner = [number(z, y, 0) for z in (1, 0, 1) for y in (1, 0, 1)] + [number(0, 0, 1)]
    assert before[2].tolist() == middle and before[0].tolist() == corner
    assert following[2].tolist() == [number(1, 0, 2), number(1, 0, 3)]
    assert sequences((2, 2))[0].tolist() == [[0], [2]]


@pytest.mark.parametrize(
    ("network", "size", "blocks"), [(UNET3D, BOX, BLOCKS), (UNET, 128, (2, 4))], ids=["volumes", "images"]
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_cpc_equals_its_formula(network: dict[str, Any], size: Any, blocks: Any, training: bool) -> None:
    """Codes patch by patch, a GRU's equations, predictions, and one negative each, which is never the positive."""
    method: Any = built(CPC, network, views(size, patches=CropBlocks(blocks)), groups=1)
    method.train(training)
    x = pictures(method.views, 4)
    features = method.encoder(cut(x, blocks).flatten(0, 1))[-1].flatten(2).mean(2).detach().numpy()
    codes = linear(method.code.layers[-1], features).reshape(4, -1, 5)
    terms = method((x,), (x,), SimpleNamespace(step=3))

    gru = {name: value.detach().numpy() for name, value in method.reader.named_parameters()}
    before, following = sequences(blocks)
    predicted, true = [], []
    for sample in codes:
        for read, follow in zip(before, following, strict=True):
            h = np.zeros(4)
            for z in sample[read]:
                ours, theirs = gru["weight_ih_l0"] @ z + gru["bias_ih_l0"], gru["weight_hh_l0"] @ h + gru["bias_hh_l0"]
                reset, update = sigmoid(ours[:4] + theirs[:4]), sigmoid(ours[4:8] + theirs[4:8])
                h = (1 - update) * np.tanh(ours[8:] + reset * theirs[8:]) + update * h
            predicted.append(linear(method.predictor.layers[-1], h).reshape(-1, 5))
            true.append(sample[follow])
    n = len(true)
    order = permutation(n, 3, 0)
    other = {int(order[i]): int(order[i - 1]) for i in range(n)} if training else {i: i - len(before) for i in range(n)}
    assert all(a != b for a, b in other.items()) and {each % n for each in other.values()} == {*range(n)}
    losses, right = [], []
    for i in range(n):
        positive = sigmoid(np.mean([(p * z).mean() for p, z in zip(predicted[i], true[i], strict=True)]))
        negative = sigmoid(np.mean([(p * z).mean() for p, z in zip(predicted[i], true[other[i]], strict=True)]))
        losses += [-np.log(positive), -np.log(1 - negative)]
        right += [positive > 0.5, negative <= 0.5]
    assert terms.losses["di"].item() == pytest.approx(np.mean(losses), rel=1e-9)
    assert terms.monitors == {"accuracy": pytest.approx(np.mean(right)), "chance": 0.5}
    if training:
        terms.losses["di"].backward()
        assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize(
    ("network", "of", "output"),
    [(UNET3D, views(BOX, patches=Turn()), "views.corruptions.patches: expected blocks that are patches, for CPC"),
     (UNET3D, spec(*BOX, corruptions=PATCHES), "views.count=2: expected 1: cpc"),
     (UNET3D, views(BOX, patches=CropBlocks((1, 2, 2))),
      "views.corruptions.patches.blocks=[1, 2, 2]: expected 2 or more on each axis"),
     (VIT3D, views((16, 16, 16), patches=CropBlocks(4)), "data.size: expected larger views, or fewer patches, for CPC"),
     (UNET | {"encoder": "vit_tiny_patch16_224"}, views(224, patches=CropBlocks()), "model.encoder: expected a conv")],
)  # fmt: skip
def test_what_cannot_be_predicted_is_refused(network: Any, of: Any, output: str) -> None:
    with pytest.raises(UserError) as raised:
        built(CPC, network, of)
    assert str(raised.value).startswith(output)


@pytest.mark.parametrize(
    ("blocks", "keep", "output"),
    [(3, 1.0, "blocks: expected numbers that divide the sides of a view of 16 x 16 x 32, got 3"),
     (BLOCKS, 0.1, "keep: expected a share that leaves a pixel of blocks of 8 x 8 x 8, got 0.1")],
)  # fmt: skip
def test_patches_that_cannot_be_cut_are_refused(blocks: Any, keep: float, output: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        views(BOX, patches=CropBlocks(blocks, keep))
    assert str(raised.value) == f"corruptions.patches.{output}"
