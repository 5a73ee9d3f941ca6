"""Corruptions of views: how their parameters travel, and each against a plain reference."""

import numpy as np
import pytest
import torch
from data.volumes import spec

from dira_scale.data.distort import build
from dira_scale.data.distort.corruptions import BlockMask
from dira_scale.data.views import ViewSpec, draw
from dira_scale.errors import UserError

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


def test_images_have_them_too() -> None:
    plain = ViewSpec(size=32)
    views = ViewSpec(size=32, corruptions={"mask": BlockMask(8, 0.75)})
    index, zeros, sides = np.arange(4), np.zeros(4, np.int64), [np.full(4, 40)] * 2
    (_, without), (_, params) = (draw(each, 0, 0, index, zeros, 0, *sides) for each in (plain, views))
    x = torch.rand(4, 1, 32, 32)
    hidden = params.corruptions["mask"]["mask"].repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    assert torch.equal(build(views)(x, params), build(plain)(x, without).masked_fill(hidden, 0.0))


@pytest.mark.parametrize(
    ("corruption", "said"),
    [(BlockMask(5), "mask: block=5: a view of 16 x 16 x 12 does not divide"), (BlockMask(4, 0.001), "some must be"),
     (7, "expected {_target_: …}")],
)  # fmt: skip
def test_what_is_none_is_refused(corruption: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        spec(*SIZE, corruptions={"mask": corruption})
