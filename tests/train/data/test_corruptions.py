"""Corruptions of views: how their parameters travel, and each against a plain reference."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation
from scipy.stats import kstest, norm
from torch._subclasses.fake_tensor import FakeTensorMode
from train.data.volumes import spec

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.distort import build
from dira_scale.train.data.distort.corruptions import (
    Affine,
    Bezier,
    BlockMask,
    Elastic,
    GaussianBlur,
    GaussianNoise,
    Inpaint,
    LocalShuffle,
    OneOf,
    Outpaint,
    SwapPatches,
    draws,
    local_shuffle,
)
from dira_scale.train.data.views import ViewSpec, draw

SIZE = (16, 16, 12)


def drawn(views: ViewSpec, index: np.ndarray):  # type: ignore[no-untyped-def]
    return draw(views, 3, 1, index, np.zeros(len(index), np.int64), 0, *(np.full(len(index), n) for n in SIZE))[1]


def test_blocks_are_hidden_exactly_and_all_alike() -> None:
    """As many as the share says, in every sample; over samples each block equally often; the rest is untouched."""
    views = spec(*SIZE, corruptions={"mask": BlockMask((8, 4, 4), 0.6, fill=0.5)})
    params = drawn(views, np.arange(2000))
    mask = params.corruptions["mask"]["mask"]
    assert mask.shape == (2000, 2, 4, 3) and mask.dtype == torch.bool
    assert (mask.flatten(1).sum(1) == 14).all()  # .6 of 24
    assert abs(mask.float().mean(0) - 14 / 24).max() < 0.05
    x = torch.rand(2, 1, *SIZE)
    result = build(views)(x, params[:2])
    for i in range(2):
        for z, y, x_ in np.ndindex(*SIZE):
            hidden = mask[i, z // 8, y // 4, x_ // 4]
            assert result[i, 0, z, y, x_] == (0.5 if hidden else x[i, 0, z, y, x_])
    assert torch.equal(build(views)(x, params[:2], corrupt=False), x)


def test_parameters_do_not_depend_on_the_batch() -> None:
    views = spec(*SIZE, corruptions={"first": BlockMask(4), "mask": BlockMask(4, 0.5)})
    together, alone = drawn(views, np.arange(8)), drawn(views, np.array([5]))
    for name in ("first", "mask"):
        assert torch.equal(together[5:6].corruptions[name]["mask"], alone.corruptions[name]["mask"])
    assert not torch.equal(together.corruptions["first"]["mask"], together.corruptions["mask"]["mask"])
    assert {"brightness", "corruptions.first.mask"} <= alone.to("cpu").tensors().keys()


def params_of(corruption: Any, size: tuple[int, ...], count: int = 4) -> dict[str, torch.Tensor]:
    u = np.random.default_rng(1).random((count, corruption.numbers(size)))
    return {name: torch.from_numpy(values) for name, values in corruption.draw(u, size).items()}


def pictures(size: tuple[int, ...], count: int = 4) -> torch.Tensor:
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(0))


def numbers(key: int, count: int) -> np.ndarray:
    """The numbers of a key, in [0, 1), by Python's whole numbers."""
    return np.array([plain_hash(key, number) >> 8 for number in range(count)]) * 2.0**-24


def plain_hash(key: int, number: int) -> int:
    x = (number * 0x9E3779B1 + key) % 2**32
    x = ((x ^ x >> 16) * 0x7FEB352D ^ (key >> 32) * 0x85EBCA6B) % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def plain_bezier(x: np.ndarray, p: dict[str, Any]) -> np.ndarray:
    t = np.linspace(0, 1, 100_000)
    a, b, c, d = p["points"].double().tolist()
    xs, ys = (3 * v * t * (1 - t) ** 2 + 3 * w * t**2 * (1 - t) + t**3 for v, w in ((a, b), (c, d)))
    return np.interp(x, xs, ys[::-1] if p["falls"] else ys)


def plain_painting(corruption: Inpaint, x: np.ndarray, p: dict[str, Any]) -> np.ndarray:
    n, outer = x.ndim, isinstance(corruption, Outpaint)
    noise = numbers(int(p["key"]), x.size).reshape(x.shape)
    fills = [
        noise if corruption.fill == "noise" else np.full(x.shape, v if corruption.fill == "constant" else 0.25)
        for v in p["values"].tolist()
    ]
    result = fills[0].copy() if outer else x.copy()
    for box, filling in list(zip(p["boxes"].tolist(), fills, strict=True))[: int(p["count"])]:
        at = tuple(slice(start, start + extent) for start, extent in zip(box[:n], box[n:], strict=True))
        result[at] = x[at] if outer else filling[at]
    return result


def plain_elastic(corruption: Elastic, x: np.ndarray, p: dict[str, Any]) -> np.ndarray:
    noise = 2 * numbers(int(p["key"]), 2 * x.size).reshape(2, *x.shape) - 1
    moved = [corruption.alpha * gaussian_filter(each, corruption.sigma, mode="constant") for each in noise]
    where = list(np.indices(x.shape).astype(float))
    where[-2] += moved[0]
    where[-1] += moved[1]
    return map_coordinates(x, where, order=1, mode="reflect")


def plain_affine(corruption: Affine, x: np.ndarray, p: dict[str, Any]) -> np.ndarray:
    matrix, centre = p["matrix"].double().numpy(), (np.array(x.shape) - 1) / 2
    offset = centre - matrix @ centre
    return affine_transform(x, matrix, offset, order=1, mode="grid-constant", cval=x.min())


def plain_shuffle(corruption: LocalShuffle, x: np.ndarray, p: dict[str, Any]) -> np.ndarray:
    tables = local_shuffle._tables(x.shape, torch.device("cpu"), None)
    sides, starts = local_shuffle._blocks(p["key"], corruption.blocks, tables)
    most, result = math.prod(max(1, n // 10) for n in x.shape), x.copy()
    for k, (side, start) in enumerate(zip(sides.tolist(), starts.tolist(), strict=True)):
        at = tuple(slice(s, s + e) for s, e in zip(start, side, strict=True))
        first = 2 * x.ndim * corruption.blocks + k * most
        order = np.argsort([plain_hash(int(p["key"]), first + i) >> 5 for i in range(math.prod(side))])
        result[at] = x[at].ravel()[order].reshape(side)
    return result


def plain_swaps(x: np.ndarray, p: dict[str, Any]) -> np.ndarray:
    result, n = x.copy(), x.ndim
    for row in p["boxes"].tolist():
        boxes = [tuple(slice(s, s + e) for s, e in zip(row[k : k + n], row[2 * n :], strict=True)) for k in (0, n)]
        result[boxes[0]] = x[boxes[1]]
        result[boxes[1]] = x[boxes[0]]
    return result


PLAIN: list[tuple[Any, Callable[..., np.ndarray]]] = [
    (Bezier(p=1.0), lambda c, x, p: plain_bezier(x, p)),
    (Inpaint(), plain_painting),
    (Inpaint(fill="constant", boxes=3, border=0), plain_painting),
    (Outpaint(fill=0.25, more=0.5), plain_painting),
    (SwapPatches(), lambda c, x, p: plain_swaps(x, p)),
    (Elastic(alpha=60.0, sigma=2.5), plain_elastic),
    (Affine(degrees=90.0, scale=0.5), plain_affine),
    (LocalShuffle(p=1.0, blocks=300), plain_shuffle),
    (GaussianBlur(), lambda c, x, p: gaussian_filter(x, p["sigma"].double().tolist(), mode="reflect")),
    (GaussianBlur(sigma=(6.0, 9.0)), lambda c, x, p: gaussian_filter(x, p["sigma"].double().tolist(), mode="reflect")),
    (
        GaussianNoise(),
        lambda c, x, p: (
            x + float(p["sigma"]) * norm.ppf(numbers(int(p["key"]), x.size).reshape(x.shape) + 2.0**-25)
        ).clip(0, 1),
    ),
]


@pytest.mark.parametrize("size", [(20, 32, 28), (40, 44)])
@pytest.mark.parametrize(("corruption", "plain"), PLAIN)
def test_each_equals_its_formula(
    size: tuple[int, ...], corruption: Any, plain: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample by sample in NumPy; all at once the same; and by half of the samples' ``on``."""
    params, x = params_of(corruption, size), pictures(size)
    result = corruption.apply(x, params)
    for i in range(len(x)):
        expected = plain(corruption, x[i, 0].double().numpy(), {name: values[i] for name, values in params.items()})
        np.testing.assert_allclose(result[i, 0], expected, atol=1e-5)
    half = params | {"on": torch.tensor([True, False, True, False])}
    assert torch.equal(corruption.apply(x, half)[::2], result[::2])
    assert torch.equal(corruption.apply(x, half)[1::2], x[1::2])
    monkeypatch.setattr(draws, "one_by_one", lambda x: False)
    monkeypatch.setattr(local_shuffle, "one_by_one", lambda x: False)
    monkeypatch.setattr(local_shuffle, "SLOTS", 3 * 300 * math.prod(n // 10 for n in size))  # of 3 samples, then of 1
    torch.testing.assert_close(corruption.apply(x, half)[::2], result[::2], atol=1e-6, rtol=0)


def test_one_of_several_by_its_probability() -> None:
    corruption = OneOf(of={"first": Inpaint(fill=0.0), "mask": BlockMask(4)}, p={"first": 0.2, "mask": 0.5})
    params = params_of(corruption, SIZE, 3000)
    counts = params["choice"].int().add(1).bincount() / 3000
    assert (counts - torch.tensor([0.3, 0.2, 0.5])).abs().max() < 0.03
    x = pictures(SIZE, 3000)
    result = corruption.apply(x, params)
    masked = BlockMask(4).apply(x, {"mask": params["mask.mask"]})
    assert torch.equal(result[params["choice"] == 1], masked[params["choice"] == 1])
    assert torch.equal(result[params["choice"] == -1], x[params["choice"] == -1])


def test_boxes_are_drawn_as_the_authors_draw_them() -> None:
    """Models Genesis' code at 32 x 64 x 64: sides, margins and numbers of boxes and windows."""
    size = (32, 64, 64)
    inner, outer = (params_of(kind(), size, 4000) for kind in (Inpaint, Outpaint))
    shares = inner["count"].int().bincount(minlength=6) / 4000
    assert (shares - torch.tensor([0.05 * 0.95**k for k in range(5)] + [0.95**5])).abs().max() < 0.03
    shares = outer["count"].int().bincount(minlength=6) / 4000
    assert shares[0] == 0 and abs(shares[5] - 0.95**4) < 0.03
    for params, low, high in ((inner, (5, 10, 10), (10, 21, 21)), (outer, (14, 28, 28), (19, 37, 37))):
        starts, extents = params["boxes"].flatten(0, 1).int().split(3, 1)
        assert tuple(extents.amin(0).tolist()) == low and tuple(extents.amax(0).tolist()) == high
        assert starts.min() == 3 and ((starts + extents).amax(0) == torch.tensor(size) - 3).all()


def test_angles_and_factors_are_uniform() -> None:
    """A view is turned in the planes of its axes one after another, then scaled: columns are as long as 1 / factor."""
    matrix = params_of(Affine(degrees=20.0, scale=0.3), (8, 8, 8), 3000)["matrix"].double().numpy()
    factors = 1 / np.linalg.norm(matrix, axis=1)
    turns = matrix * factors[:, None]
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (3000, 1, 1)), atol=1e-6)
    angles = Rotation.from_matrix(turns).as_euler("zyx", degrees=True)
    for values, middle, reach in ((factors, 1.0, 0.3), (angles, 0.0, 20.0)):
        for column in values.T:
            assert kstest(column, "uniform", (middle - reach, 2 * reach)).pvalue > 1e-3
    plane = params_of(Affine(degrees=20.0, scale=0.0), (8, 8), 3000)["matrix"]
    assert plane.shape == (3000, 2, 2) and torch.allclose(plane.det(), torch.ones(3000))


def test_curves_rise_or_fall_as_often() -> None:
    params = params_of(Bezier(p=1.0), SIZE, 300)
    ends = Bezier(p=1.0).apply(torch.tensor([0.0, 1.0]).expand(300, 1, 2), params)[:, 0]
    rising = ends[:, 0] < ends[:, 1]
    assert torch.equal(ends[rising].unique(dim=0), torch.tensor([[0.0, 1.0]])) and torch.equal(rising, ~params["falls"])
    assert abs(rising.float().mean() - 0.5) < 0.1


@pytest.mark.parametrize(
    ("corruption", "printed"),
    [(BlockMask(5), "x.block: expected sides that divide a view of 16 x 16 x 12, got 5"),
     (BlockMask(4, 0.001), "x.share: expected a share that hides some of 48 blocks, not all"),
     (7, "x: expected a corruption, with numbers, draw and apply, such as BlockMask, got 7"),
     (Inpaint(side=(0.1, 0.9)), "x.side: expected boxes that fit into a side of"),
     (GaussianBlur(sigma=(2.0, 13.0)), "x.sigma: expected at most 12, the shortest side"),
     (OneOf(of={"a": BlockMask(5)}, p={"a": 1.0}), "x.of.a.block: expected sides that divide")],
)  # fmt: skip
def test_views_that_a_corruption_does_not_take_are_refused(corruption: Any, printed: str) -> None:
    with pytest.raises(ArgumentError, match=f"^corruptions.{printed}"):
        spec(*SIZE, corruptions={"x": corruption})


@pytest.mark.parametrize(
    ("kind", "given", "printed"),
    [(OneOf, {"of": {"a": Bezier()}}, "p: expected a probability for each of a"),
     (OneOf, {"of": {"a": Bezier()}, "p": {"a": 1.5}}, "p.a: expected a number from 0 to 1"),
     (OneOf, {"of": {"a": Bezier(), "b": Bezier()}, "p": {"a": 0.6, "b": 0.6}}, "p: expected .*add up to at most 1"),
     (Inpaint, {"fill": "black"}, "fill: expected noise or constant, or a number from 0 to 1, got 'black'")],
)  # fmt: skip
def test_a_corruption_refuses_its_own_arguments(kind: Any, given: dict[str, Any], printed: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{printed}"):
        kind(**given)


def test_the_corruption_of_the_documentation_works() -> None:
    page = Path(__file__).parents[3] / "docs/explanation/methods.md"
    (code,) = re.findall(r"```python\n([^`]*class Haze:.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": __name__}
    exec(code, names)
    views = spec(*SIZE, corruptions={"haze": names["Haze"](most=0.8)})
    params, x = drawn(views, np.arange(3)), pictures(SIZE, 3)
    share = params.corruptions["haze"]["share"].view(3, 1, 1, 1, 1)
    assert share.min() > 0 and share.max() < 0.8
    torch.testing.assert_close(build(views)(x, params), x + share * (1 - x))


@pytest.mark.parametrize("corruption", [Elastic(alpha=60.0, sigma=2.125), LocalShuffle(blocks=299)])
def test_what_a_plan_has_computed_is_not_kept_for_training(corruption: Any) -> None:
    """Tensors without values are of one plan: another one, and a run in the same process, must not get them."""
    params = params_of(corruption, SIZE, 2)
    for _ in range(2):
        with FakeTensorMode() as mode:
            faked = {name: mode.from_tensor(value) for name, value in params.items()}
            assert corruption.apply(torch.empty(2, 1, *SIZE), faked).shape == (2, 1, *SIZE)
    assert type(corruption.apply(torch.rand(2, 1, *SIZE), params)) is torch.Tensor
