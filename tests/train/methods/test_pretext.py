"""Rotation and relative position: losses in float64 beside plain formulas, what is drawn, and what is refused."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train.data.volumes import NONE, spec
from train.methods.masked import UNET, UNET3D, built
from train.methods.tiny import Facts

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.train.data.distort import build
from dira_scale.train.data.distort.corruptions import PatchPair, Turn
from dira_scale.train.data.geometry.orientation import turned
from dira_scale.train.data.views import Jitter, ViewSpec, draw
from dira_scale.train.models.heads import WordHead

COUNT = 6
ROTATION, POSITION = {"_target_": "Rotation"}, {"_target_": "RelativePosition", "hidden": 8}
CUBE, FLAT = (16, 16, 16), (8, 16, 16)
PAIRS = {2: PatchPair(16, 6, 4), 3: PatchPair((8, 8, 8), 2, 2)}  # in views of 64, and of 32 x 32 x 40
SIZES = {2: 64, 3: (32, 32, 40)}
# The ten turns by name: of [depth, height, width], np.rot90's axes and times.
TURNS_3D = [(0, (1, 2)), *((k, plane) for plane in ((1, 2), (0, 2), (0, 1)) for k in (1, 2, 3))]


def views(size: Any, **corruptions: Any) -> ViewSpec:
    return ViewSpec(size=size, count=1, flip=0.0, jitter=Jitter(p=0), corruptions=corruptions, **NONE)


def drawn(of: ViewSpec, count: int = COUNT, seed: int = 3, epoch: int = 1) -> Any:
    index = np.arange(count)
    sides = (np.full(count, side) for side in of.sides)
    return draw(of, seed, epoch, index, np.zeros_like(index), 0, *sides)[1]


def pictures(of: ViewSpec, count: int = COUNT) -> Tensor:
    return torch.rand(count, 1, *of.sides, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def plain_loss(logits: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Cross-entropy and accuracy, sample by sample."""
    losses, hits = [], []
    for row, each in zip(logits, classes, strict=True):
        probability = np.exp(row) / np.exp(row).sum()
        losses.append(-np.log(probability[each]))
        hits.append(row.argmax() == each)
    return float(np.mean(losses)), float(np.mean(hits))


def linear(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize(("network", "size", "turns"), [(UNET, 64, 4), (UNET3D, CUBE, 10)])
def test_rotation_equals_its_formula(network: dict[str, Any], size: Any, turns: int, draws: bool) -> None:
    """All copies, or the drawn one, by np.rot90; one linear layer on the mean over space."""
    method: Any = built(ROTATION, network, views(size, **({"turn": Turn()} if draws else {})), groups=1)
    x, params = pictures(method.views), drawn(method.views)
    seen = build(method.views)(x.float(), params).double() if draws else x
    if draws:
        x = x.float().double()
    terms = method((x,), (seen,), Facts(distortions=[params]))

    each = params.corruptions["turn"]["turn"].numpy()[:, None] if draws else np.tile(np.arange(turns), (COUNT, 1))
    ways = [(k, (0, 1)) for k in range(4)] if turns == 4 else TURNS_3D
    copies = [np.rot90(image[0], *ways[turn]) for image, row in zip(x.numpy(), each, strict=True) for turn in row]
    maps = method.encoder(torch.from_numpy(np.stack(copies))[:, None])[-1].detach().numpy()
    logits = linear(method.classifier.layers[-1], maps.reshape(*maps.shape[:2], -1).mean(2))
    loss, accuracy = plain_loss(logits, each.ravel())
    assert terms.losses["di"].item() == pytest.approx(loss, rel=1e-9)
    assert terms.monitors == {"accuracy": pytest.approx(accuracy), "chance": pytest.approx(1 / turns)}
    assert len(terms.pyramids) == each.shape[1] and len(terms.pyramids[0][-1]) == COUNT
    terms.losses["di"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_the_ten_turns_differ_and_are_uniform() -> None:
    """No turn of an asymmetric cube looks like another; 3,000 draws have each as often."""
    cube = torch.arange(27.0).view(1, 1, 3, 3, 3).expand(10, -1, -1, -1, -1)
    assert len(turned(cube, torch.arange(10)).flatten(1).unique(dim=0)) == 10
    counts = drawn(views(CUBE, turn=Turn()), 3000).corruptions["turn"]["turn"].bincount(minlength=10)
    assert len(counts) == 10 and (counts / 3000 - 0.1).abs().max() < 0.03


def test_the_released_turns_are_the_scripts() -> None:
    """Its ``rotate``, of [depth, height, width] and anticlockwise: no label's view, but the fifth's, is another's."""
    method: Any = built({"_target_": "RotationReleased"}, UNET3D, views(CUBE, turn=Turn("released")), groups=1)
    x, params = pictures(method.views, 40).float(), drawn(method.views, 40)
    seen, labels = build(method.views)(x, params), params.corruptions["turn"]["turn"]
    assert labels.unique().tolist() == [*range(8)]
    for image, view, label in zip(x[:, 0].numpy(), seen[:, 0].numpy(), labels.tolist(), strict=True):
        expected = np.rot90(image, label % 4, (1, 2))
        np.testing.assert_array_equal(view, expected[:, ::-1] if label > 4 else expected)
    terms = method((x.double(),), (seen.double(),), Facts(distortions=[params]))
    maps = method.encoder(seen.double())[-1]
    assert isinstance(method.classifier, WordHead)
    torch.testing.assert_close(terms.losses["di"], torch.nn.functional.cross_entropy(method.classifier(maps), labels))
    assert terms.monitors["chance"] == pytest.approx(1 / 8)


def corners_by_hand(side: tuple[int, ...], gap: int, jitter: int, size: tuple[int, ...], cell: Any) -> list[range]:
    """Where a patch in a ``cell`` of the grid may start on each axis."""
    starts = []
    for s, n, at in zip(side, size, cell, strict=True):
        first = (n - (3 * s + 2 * gap + jitter)) // 2 + at * (s + gap)
        starts.append(range(first, first + jitter + 1))
    return starts


@pytest.mark.parametrize(("network", "n"), [(UNET, 2), (UNET3D, 3)])
def test_relative_position_equals_its_formula(network: dict[str, Any], n: int) -> None:
    """Patches cut by brute force where the grid has them; the shared encoder, both means side by side, three layers."""
    pair, size = PAIRS[n], SIZES[n]
    method: Any = built(POSITION, network, views(size, patches=pair), groups=1)
    x, params = pictures(method.views), drawn(method.views)
    terms = method((x,), (x,), Facts(distortions=[params]))

    side, neighbours = pair.sides(n), [cell for cell in product(range(3), repeat=n) if cell != (1,) * n]
    classes, corners = (params.corruptions["patches"][name].numpy() for name in ("neighbour", "corners"))
    patches = []
    for image, each, (first, second) in zip(x.numpy(), classes, corners, strict=True):
        for corner, cell in ((first, (1,) * n), (second, neighbours[each])):
            allowed = corners_by_hand(side, pair.gap, pair.jitter, method.views.sides, cell)
            assert all(at in starts for at, starts in zip(corner, allowed, strict=True))
            patches.append(image[0][tuple(slice(at, at + s) for at, s in zip(corner, side, strict=True))])
    maps = method.encoder(torch.from_numpy(np.stack(patches))[:, None])[-1].detach().numpy()
    y = maps.reshape(*maps.shape[:2], -1).mean(2).reshape(COUNT, -1)
    for layer in [layer for layer in method.classifier.layers if isinstance(layer, nn.Linear)][:2]:
        y = y @ layer.weight.detach().numpy().T
        y = ((y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)).clip(0)
    loss, accuracy = plain_loss(linear(method.classifier.layers[-1], y), classes)
    assert terms.losses["di"].item() == pytest.approx(loss, rel=1e-9)
    assert terms.monitors == {"accuracy": pytest.approx(accuracy), "chance": pytest.approx(1 / (3**n - 1))}
    terms.losses["di"].backward()
    assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize("n", [2, 3])
def test_neighbours_and_places_are_uniform(n: int) -> None:
    of = views(SIZES[n], patches=PAIRS[n])
    params, classes = drawn(of, 4000).corruptions["patches"], 3**n - 1
    counts = params["neighbour"].bincount(minlength=classes)
    assert len(counts) == classes and (counts / 4000 - 1 / classes).abs().max() < 0.03
    later = params["corners"][:, 0] - params["corners"][:, 0].amin(0)
    assert [set(axis.tolist()) for axis in later.T] == [{*range(PAIRS[n].jitter + 1)}] * n
    apart = [later[:, a].double() @ later[:, b].double() / 4000 for a in range(n) for b in range(a)]
    assert all(abs(float(mean) - PAIRS[n].jitter ** 2 / 4) < 0.3 for mean in apart)  # axes are independent


@pytest.mark.parametrize("of", [views(CUBE, turn=Turn()), views(64, patches=PAIRS[2])], ids=["turn", "patches"])
def test_choices_are_of_the_sample_and_patches_leave_the_view(of: ViewSpec) -> None:
    """A sample has the same ones in any batch, others in another epoch or seed."""
    ((name, parameters),) = drawn(of).corruptions.items()
    for key, values in parameters.items():
        assert torch.equal(drawn(of, 3).corruptions[name][key], values[:3])
        for other in ({"epoch": 2}, {"seed": 4}):
            assert not torch.equal(drawn(of, **other).corruptions[name][key], values)
    x = pictures(of).float()
    assert torch.equal(build(of)(x, drawn(of)), x) == (name == "patches")


@pytest.mark.parametrize(
    ("node", "network", "of", "output"),
    [(ROTATION, UNET3D, spec(*FLAT, count=1, flip=0.0), "data.size=[8, 16, 16]: expected equal sides, such as [8"),
     (ROTATION, UNET3D, spec(*CUBE, count=1), "views.flip=0.5: expected 0: a view that is mirrored along two axes"),
     (ROTATION, UNET, ViewSpec(size=64, **NONE), "views.count=2: expected 1: rotation"),
     (POSITION, UNET, views(64), "views.corruptions.patches: expected a pair of patches, as configs/views/relative"),
     (POSITION, UNET | {"encoder": "vit_tiny_patch16_224"}, views(224, patches=PatchPair(64, 16)),
      "model.encoder: expected a convolutional network, such as resnet50: vit_tiny_patch16_224 takes images of one "),
     ({"_target_": "DiRA", "base": POSITION}, UNET, views(64, patches=PAIRS[2]),
      "method.base: expected a method of whole views, which DiRA restores: RelativePosition encodes patches")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(node: Any, network: Any, of: ViewSpec, output: str) -> None:
    with pytest.raises(UserError) as raised:
        built(node, network, of)
    assert str(raised.value).startswith(output)


@pytest.mark.parametrize(
    ("pair", "output"),
    [((16, 8, 1), "corruptions.patches.side: expected less, or larger views: with gap and jitter 3 patches on each "
      "axis take 65 x 65, and a view has 64 x 64, got 16"),
     ((8, 1, 2), "jitter: expected at most the gap, 1, so that patches do not overlap, got 2"),
     (((8, 8, 8),), "corruptions.patches.side: expected one number, or one for each of 2 axes, got (8, 8, 8)")],
)  # fmt: skip
def test_patches_that_do_not_fit_are_refused(pair: Any, output: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        views(64, patches=PatchPair(*pair))
    assert str(raised.value) == output
