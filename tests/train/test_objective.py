"""Which stages corrupt the views that they train on: those that restore them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dira_scale.config import Stage
from dira_scale.data.views import CUTOUT, Distortion, ViewSpec
from dira_scale.train.objective import Objective

COUNT = 2


def batch() -> Any:
    """Grey views with one box to cut out, and no other distortion."""
    boxes = torch.zeros(COUNT, 10, 4, dtype=torch.int16)
    boxes[:, 0] = torch.tensor([4, 5, 6, 7])
    ones = torch.ones(COUNT)
    off = {"brightness": ones, "contrast": ones, "contrast_first": ones > 0, "sigma": 0 * ones}
    cut = {"branch": torch.full((COUNT,), CUTOUT, dtype=torch.uint8), "n_boxes": torch.ones(COUNT, dtype=torch.uint8)}
    swaps = torch.zeros(COUNT, 10, 6, dtype=torch.int16)
    distortion = Distortion(**off, **cut, boxes=boxes, swaps=swaps)
    return SimpleNamespace(views=(torch.full((COUNT, 1, 32, 32), 0.5),) * 2, distortions=(distortion,) * 2)


@pytest.mark.parametrize(
    ("terms", "holes"),
    [(["di"], 0), (["re"], 42), (["di", "re"], 42), (["di", "re", "ad"], 42), (["di", "ad"], 42), (["ad"], 42)],
)
def test_views_are_cut_out_where_they_are_restored(terms: list[str], holes: int) -> None:
    method: Any = SimpleNamespace()
    objective = Objective(method, method, ViewSpec(size=32), torch.device("cpu"), "fp32")
    for view in objective.distorted(batch(), Stage(terms=terms, epochs=1)):
        assert (view == 0).sum(dim=(1, 2, 3)).tolist() == [holes] * COUNT
    for view in objective.distorted(batch(), Stage(terms=terms, epochs=1), corrupt=False):
        assert (view == 0.5).all()
