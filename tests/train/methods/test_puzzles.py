"""Jigsaw puzzles and Rubik's cube: blocks by hand, losses in float64 beside plain formulas, what is refused."""

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train.data.volumes import spec
from train.methods.masked import UNET, UNET3D, built
from train.methods.test_pretext import CUBE, drawn, linear, pictures, plain_loss, views
from train.methods.tiny import Facts

from dira_scale.base.errors import UserError
from dira_scale.train.data.distort import build
from dira_scale.train.data.distort.corruptions import BlockMask, ShuffleBlocks, Turn, TurnBlocks
from dira_scale.train.data.geometry.blocks import cut, distant_permutations, joined

BOX = (16, 16, 32)
JIGSAW, RUBIK = {"_target_": "Jigsaw"}, {"_target_": "RubiksCube"}
PUZZLE = {"order": ShuffleBlocks(50, 2)}
RUBIKS = {"turn": TurnBlocks(), **PUZZLE}
HALF_TURNS = [None, (1, 2), (0, 2), (0, 1)]  # planes of np.rot90, of [depth, height, width]


def corners(size: Any, counts: Any) -> list[tuple[slice, ...]]:
    """Each block's place in a view, row by row."""
    sides = [n // count for n, count in zip(size, counts, strict=True)]
    cells = product(*(range(count) for count in counts))
    return [tuple(slice(i * s, (i + 1) * s) for i, s in zip(cell, sides, strict=True)) for cell in cells]


def by_hand(image: np.ndarray, places: Any, turns: Any, margin: int) -> np.ndarray:
    """The halves of ``image`` turned, put to their places, and their faces zeroed."""
    result, boxes = np.zeros_like(image), corners(image.shape, (2,) * image.ndim)
    inner = (slice(margin, -margin or None),) * image.ndim
    for box, source in zip(boxes, places, strict=True):
        block = image[boxes[source]]
        plane = HALF_TURNS[turns[source]] if turns is not None else None
        result[box][inner] = (np.rot90(block, 2, plane) if plane else block)[inner]
    return result


def step(node: dict[str, Any], network: dict[str, Any], size: Any, corruptions: Any) -> tuple[Any, Any, Tensor, Tensor]:
    """A method, what is drawn of its views, the pictures and the same as they are seen."""
    method: Any = built(node, network, views(size, **corruptions), groups=1)
    params, x = drawn(method.views), pictures(method.views)
    return method, params, x, build(method.views)(x.float(), params).double()


def terms_of(method: Any, params: Any, x: Tensor, seen: Tensor) -> Any:
    return method((x,), (seen,), Facts(distortions=[params]))


@pytest.mark.parametrize(("size", "counts"), [((8, 12), (2, 3)), ((4, 6, 8), (2, 1, 4))])
def test_blocks_are_cut_row_by_row(size: Any, counts: Any) -> None:
    x = torch.rand(2, 3, *size)
    blocks = cut(x, counts)
    for number, box in enumerate(corners(size, counts)):
        assert torch.equal(blocks[:, number], x[(..., *box)])
    assert torch.equal(joined(blocks, counts), x)


def test_orders_are_as_far_apart_as_a_greedy_choice_makes_them() -> None:
    """Every next one has the largest least distance to those before, by brute force."""
    orders = distant_permutations(4, 12).tolist()
    assert orders[0] == [0, 1, 2, 3]
    for n in range(1, 12):
        far = {
            p: min(sum(a != b for a, b in zip(p, q, strict=True)) for q in orders[:n]) for p in permutations(range(4))
        }
        assert tuple(orders[n]) == next(p for p, d in far.items() if d == max(far.values()))
    eight = distant_permutations(8, 1000)
    assert len({*map(tuple, eight.tolist())}) == 1000 and (np.sort(eight, 1) == np.arange(8)).all()


def test_orders_of_a_file_are_drawn_and_named_by_their_content(tmp_path: Path) -> None:
    """Numbered from 0 or 1, as an array or text: the same views, and one identity."""
    rows = np.random.default_rng(0).permuted(np.tile(np.arange(4), (3, 1)), axis=1)
    assert len({*map(tuple, rows.tolist())}) == 3
    np.save(tmp_path / "a.npy", rows.astype(np.int32))
    (tmp_path / "b.txt").write_text("\n".join(", ".join(str(1 + n) for n in row) for row in rows) + "\n\n")
    of = [views(64, order=ShuffleBlocks(3, file=str(tmp_path / name))) for name in ("a.npy", "b.txt")]
    for each in of:
        params = drawn(each, 50).corruptions["order"]
        assert params["places"].tolist() == rows[params["order"]].tolist() and len(params["order"].unique()) == 3
    np.save(tmp_path / "c.npy", rows[::-1])
    other = views(64, order=ShuffleBlocks(3, file=str(tmp_path / "c.npy")))
    assert of[0].content == of[1].content != other.content
    assert len(other.content) == 1 and views(64, order=ShuffleBlocks(3)).content == []


@pytest.mark.parametrize(
    ("text", "message"),
    [("0 1 2 3\n1 0 2 3", "3 permutations of 4 blocks; the file has 2 x 4 numbers"),
     ("0 1 2 3\n1 0 2 3\n3 2 1 1", r"each number from 0 to 3 once in a row; row 3 is \[3, 2, 1, 1\]"),
     ("0 1 2 3\n1 0 2 3\n0 1 2 3", "permutations that differ; 1 are there before"),
     ("0 1 2 3\n1 0 2", r".npy, or text with a permutation on each line \("),
     ("a b", r".npy, or text with a permutation on each line \(invalid literal"),
     (None, r".npy, or text with a permutation on each line \(.*No such file")],
)  # fmt: skip
def test_files_that_have_no_orders_are_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "orders.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"corruptions\.order\.file: expected {message}"):
        views(64, order=ShuffleBlocks(3, file=str(tmp_path / "orders.txt")))


@pytest.mark.parametrize(
    ("size", "corruptions"), [((64, 64), {"order": ShuffleBlocks(24, 3)}), (BOX, PUZZLE), (BOX, RUBIKS)],
    ids=["images", "volumes", "turned"],
)  # fmt: skip
def test_views_show_the_blocks_as_drawn(size: Any, corruptions: Any) -> None:
    of = views(size[0] if len(size) == 2 else size, **corruptions)
    params, x = drawn(of), pictures(of).float()
    seen = build(of)(x, params)
    turns = params.corruptions["turn"]["turn"].tolist() if "turn" in corruptions else [None] * len(x)
    for i, order in enumerate(params.corruptions["order"]["order"].tolist()):
        places = params.corruptions["order"]["places"][i].tolist()
        assert places == distant_permutations(len(places), of.corruptions["order"].permutations)[order].tolist()  # type: ignore[attr-defined]
        expected = by_hand(x[i, 0].numpy(), places, turns[i], of.corruptions["order"].margin)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(seen[i, 0].numpy(), expected)


def test_zeroed_faces_do_not_tell_the_order() -> None:
    """A view without structure looks alike in every order and turn."""
    of = views(CUBE, **RUBIKS)
    seen = build(of)(torch.ones(20, 1, *CUBE), drawn(of, 20))
    assert 0 < seen.mean() < 1 and (seen == seen[0]).all()


def test_orders_and_turns_are_uniform() -> None:
    params = drawn(views(CUBE, **RUBIKS), 4000).corruptions
    counts = params["order"]["order"].bincount(minlength=50)
    assert len(counts) == 50 and (counts / 4000 - 1 / 50).abs().max() < 0.012
    turns = params["turn"]["turn"]
    assert turns.shape == (4000, 8)
    each = torch.stack([(turns == turn).float().mean(0) for turn in range(4)])
    assert turns.max() == 3 and (each - 1 / 4).abs().max() < 0.03
    assert abs(float(torch.corrcoef(turns.T.float()).fill_diagonal_(0).abs().max())) < 0.07  # blocks are independent


def test_quarter_turns_of_small_cubes() -> None:
    """4 x 2 x 2 cubes, each by one of the ten turns of np.rot90."""
    of = views((16, 8, 8), turn=TurnBlocks((4, 2, 2), "quarter"))
    x, params = pictures(of).float(), drawn(of)
    ways = [(0, (1, 2)), *((k, plane) for plane in ((1, 2), (0, 2), (0, 1)) for k in (1, 2, 3))]
    seen = build(of)(x, params)
    for i, turns in enumerate(params.corruptions["turn"]["turn"].tolist()):
        for box, turn in zip(corners((16, 8, 8), (4, 2, 2)), turns, strict=True):
            np.testing.assert_array_equal(seen[i, 0][box].numpy(), np.rot90(x[i, 0][box].numpy(), *ways[turn]))


@pytest.mark.parametrize(
    ("network", "size", "orders"), [(UNET, 64, {"order": ShuffleBlocks(20, 2)}), (UNET3D, CUBE, PUZZLE)]
)
def test_jigsaw_equals_its_formula(network: dict[str, Any], size: Any, orders: Any) -> None:
    """The encoder's map of the puzzle, a convolution, the mean over space, two linear layers."""
    method, params, x, seen = step(JIGSAW, network, size, orders)
    terms = terms_of(method, params, x, seen)
    convolution, norm, _, mlp = method.classifier
    maps = convolution(method.encoder(seen)[-1]).detach().numpy()
    axes = (0, *range(2, maps.ndim))
    maps = (maps - maps.mean(axes, keepdims=True)) / np.sqrt(maps.var(axes, keepdims=True) + norm.eps)
    y = maps.clip(0).reshape(*maps.shape[:2], -1).mean(2)
    first, last = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
    loss, accuracy = plain_loss(linear(last, linear(first, y).clip(0)), params.corruptions["order"]["order"].numpy())
    assert terms.losses["di"].item() == pytest.approx(loss, rel=1e-9)
    chance = 1 / method.views.corruptions["order"].permutations
    assert terms.monitors == {"accuracy": pytest.approx(accuracy), "chance": pytest.approx(chance)}
    terms.losses["di"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_rubiks_cube_equals_its_formula() -> None:
    """Blocks encoded one by one, means side by side, two linear layers; its maps are put back to where they belong."""
    method, params, x, seen = step(RUBIK, UNET3D, CUBE, RUBIKS)
    terms = terms_of(method, params, x, seen)
    places, turns = params.corruptions["order"]["places"].tolist(), params.corruptions["turn"]["turn"].tolist()
    boxes = corners(CUBE, (2, 2, 2))
    maps = method.encoder(torch.cat([seen[i : i + 1, :, *box] for i in range(len(x)) for box in boxes]))
    means = maps[-1].detach().numpy().reshape(len(x), 8, maps[-1].shape[1], -1).mean(3).reshape(len(x), -1)
    loss, accuracy = plain_loss(linear(method.order.layers[-1], means), params.corruptions["order"]["order"].numpy())
    logits, right, entropy = linear(method.turned.layers[-1], means), [], []
    for i, p in product(range(len(x)), range(8)):
        is_turned = turns[i][places[i][p]] > 0
        probability = 1 / (1 + np.exp(-logits[i, p]))
        entropy.append(-np.log(probability if is_turned else 1 - probability))
        right.append((probability > 0.5) == is_turned)
    assert terms.losses["di"].item() == pytest.approx(loss + np.mean(entropy), rel=1e-9)
    assert terms.monitors == {
        "accuracy": pytest.approx(accuracy),
        "chance": pytest.approx(1 / 50),
        "turn_accuracy": pytest.approx(np.mean(right)),
    }
    for level, whole in zip(maps, terms.pyramids[0], strict=True):
        there = corners(whole.shape[2:], (2, 2, 2))
        for i, p in product(range(len(x)), range(8)):
            torch.testing.assert_close(whole[(i, slice(None), *there[places[i][p]])], level[8 * i + p])
    (slope,) = torch.autograd.grad(terms.losses["di"], terms.pyramids[0][-1], retain_graph=True)
    assert slope.abs().max() > 0  # what health monitors measure
    terms.losses["di"].backward()
    assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize(("base", "corruptions"), [(JIGSAW, PUZZLE), (RUBIK, RUBIKS)], ids=["jigsaw", "cube"])
def test_dira_puts_the_blocks_back(base: dict[str, Any], corruptions: Any) -> None:
    """What is restored is of the whole view and compared with the view as it was; all parts learn."""
    node = {"_target_": "DiRA", "base": base, "weights": {"di": 1.0, "re": 100.0, "ad": 1.0}}
    method, params, x, seen = step(node, UNET3D, CUBE, corruptions)
    method.enter_stage(["di", "re"])
    terms = terms_of(method, params, x, seen)
    restored = torch.sigmoid(method.head(method.decoder(method.base(((x),), (seen,), Facts(
        distortions=[params])).pyramids[0])))  # fmt: skip
    torch.testing.assert_close(terms.losses["re"], (restored - x).square().mean())
    assert torch.equal(terms.target, x) and terms.restored.shape == x.shape
    sum(terms.losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize(
    ("node", "network", "of", "output"),
    [(JIGSAW, UNET3D, views(CUBE), "views.corruptions.order: expected blocks that change places, for Jigsaw"),
     (JIGSAW, UNET3D, views(CUBE, **PUZZLE, mask=BlockMask(4)), "views.corruptions: expected order last: mask after"),
     (JIGSAW, UNET3D, spec(*CUBE, corruptions=PUZZLE), "views.count=2: expected 1: jigsaw"),
     (RUBIK, UNET3D, views(CUBE, **PUZZLE), "views.corruptions.turn: expected 2 blocks on each axis that are turned, "
      "as configs/views/rubiks_cube.yaml has"),
     (RUBIK, UNET3D, views(CUBE, turn=Turn(), **PUZZLE), "views.corruptions.turn: expected 2 blocks on each axis"),
     (RUBIK, UNET3D, views((24, 24, 24), **RUBIKS), "data.size=[24, 24, 24]: expected multiples of 16: unet3d makes"),
     (RUBIK, UNET | {"encoder": "vit_tiny_patch16_224"}, views(224, turn=TurnBlocks(), order=ShuffleBlocks(24)),
      "model.encoder: expected a convolutional network, such as resnet50: vit_tiny_patch16_224 takes images of one ")],
)  # fmt: skip
def test_views_that_are_no_puzzle_are_refused(node: Any, network: Any, of: Any, output: str) -> None:
    with pytest.raises(UserError) as raised:
        built(node, network, of)
    assert str(raised.value).startswith(output)


@pytest.mark.parametrize(
    ("size", "corruption", "output"),
    [(64, ShuffleBlocks(25), "corruptions.blocks.permutations: expected at most 24, those of 4 blocks, got 25"),
     (CUBE, ShuffleBlocks(9, 4), "corruptions.blocks.margin: expected less than half of a block's side, which is 8"),
     ((15, 16, 16), ShuffleBlocks(9), "ShuffleBlocks halves the sides of a view, and not all of 15 x 16 x 16 are even"),
     (CUBE, TurnBlocks((2, 2)), "corruptions.blocks.blocks: expected numbers that divide the sides of a view of 16 x"),
     (BOX, TurnBlocks(2, "quarter"), "corruptions.blocks.turns: expected half, or as many blocks on each axis")],
)  # fmt: skip
def test_settings_that_make_no_puzzle_are_refused(size: Any, corruption: Any, output: str) -> None:
    with pytest.raises(ValueError) as raised:
        views(size, blocks=corruption)
    assert str(raised.value).startswith(output)
