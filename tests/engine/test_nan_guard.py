"""What is no number is found at its step, named, kept from the weights and saved with its images."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import get_total_norm

from dira_scale.data.batch import Batch
from dira_scale.data.views import ViewSpec, draw
from dira_scale.engine.nan_guard import Finding, Guard, save_batch, unsound

ROOT = Path(__file__).parents[2]
BAD = [math.nan, math.inf, -math.inf]


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def a_step(guard: Guard, network: nn.Module, step: int, di: float = 1.0, re: float = 2.0, hook: float = 1.0) -> float:
    """Losses whose gradients are finite even where they are not; ``hook`` spoils the gradient alone."""
    network.zero_grad()
    out = network(torch.ones(2, 3)).square().mean()
    out.register_hook(lambda grad: grad * hook)
    losses = {"loss": torch.tensor(di + re), "loss/di": torch.tensor(di), "loss/re": torch.tensor(re)}
    factor = guard.losses(step, losses)
    ((out + torch.tensor(di) + torch.tensor(re)) * factor).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = get_total_norm(gradients)
    guard.gradients(step, gradients, norm)
    return float(norm)


def test_nothing_is_found_in_numbers_and_gradients_are_as_they_were() -> None:
    guard, guarded, plain = Guard(torch.device("cpu")), module(), module()
    assert guard.read() is None
    for step in range(3):
        norm = a_step(guard, guarded, step)
        plain.zero_grad()
        plain(torch.ones(2, 3)).square().mean().backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(guarded.parameters(), plain.parameters(), strict=True))
        assert norm == pytest.approx(math.sqrt(sum(float(p.grad.square().sum()) for p in plain.parameters())))
    assert guard.read() is None


@pytest.mark.parametrize("value", BAD)
def test_the_first_term_is_named_and_its_gradients_cleared(value: float) -> None:
    guard, network = Guard(torch.device("cpu")), module()
    a_step(guard, network, 4)
    a_step(guard, network, 5, re=value)  # its gradient alone would have been finite
    assert all(p.grad.eq(0).all() for p in network.parameters())
    a_step(guard, network, 6, di=math.nan, re=math.nan)
    assert all(p.grad.eq(0).all() for p in network.parameters())  # from then on
    found = guard.read()
    assert found is not None and (found.step, found.terms) == (5, {"loss/re": [0]})
    assert found.losses[0]["loss/di"] == 1.0 and not math.isfinite(found.losses[0]["loss/re"])
    assert str(found) == "step 6: loss/re is no number"


@pytest.mark.parametrize("value", BAD)
def test_a_gradient_that_is_no_number_under_a_loss_that_is_one(value: float) -> None:
    guard, network = Guard(torch.device("cpu")), module()
    a_step(guard, network, 0)
    a_step(guard, network, 1, di=0.5, hook=value)
    a_step(guard, network, 2)
    assert all(p.grad.eq(0).all() for p in network.parameters())
    found = guard.read()
    assert found is not None and (found.step, found.terms) == (1, {"gradient": [0]})
    assert found.losses[0]["loss/di"] == 0.5  # of that step, not of the last
    assert "though every loss is one" in str(found)


def test_one_weight_in_a_great_many_is_found() -> None:
    tensors = {"large": torch.full((3,), 3e38), "whole": torch.tensor([2**60]), "empty": torch.zeros(0)}
    tensors |= {f"{value}": torch.ones(1000).index_fill_(0, torch.tensor([77]), value) for value in BAD}
    assert unsound(tensors) == [str(value) for value in BAD]


def test_the_batch_is_saved_as_it_was_with_its_images_names(tmp_path: Path) -> None:
    spec, index = ViewSpec(size=32), np.array([3, 0])
    drawn = [draw(spec, 0, 0, index, np.zeros(2), view, np.full(2, 40), np.full(2, 40))[1] for view in range(2)]
    views = tuple((torch.arange(2048).view(2, 1, 32, 32) + i).to(torch.uint16) for i in range(2))
    batch = Batch(views, tuple(drawn), torch.from_numpy(index), torch.zeros(2), torch.full((2,), 4096.0), 7, 0)
    datasets = [stub("a", ["x0", "x1"], [1, 0]), stub("b", ["y0", "y1", "y2"], [0, 2])]
    finding = Finding(7, {"loss/re": [1]}, [{"loss/re": 1.5}, {"loss/re": math.nan}])
    save_batch(tmp_path / "deep", batch, datasets, "train", finding.row(1))
    tensors, row = (
        load_file(tmp_path / "deep" / "batch.safetensors"),
        json.loads((tmp_path / "deep/batch.json").read_text()),
    )
    assert all(
        torch.equal(tensors[f"views.{i}"], views[i]) and tensors[f"views.{i}"].dtype == torch.uint16 for i in (0, 1)
    )
    assert torch.equal(tensors["distortions.1.boxes"], drawn[1].boxes) and tensors["index"].tolist() == [3, 0]
    assert row == {
        "step": 8, "rank": 1, "broken": {"loss/re": [1]}, "losses": {"loss/re": "nan"},
        "images": [{"dataset": "b", "key": "y2"}, {"dataset": "a", "key": "x1"}],
    }  # fmt: skip


def test_the_views_of_a_saved_batch_are_seen_as_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = torch.arange(2048, dtype=torch.uint8).view(2, 1, 32, 32)
    none = draw(ViewSpec(size=32), 0, 0, np.array([1, 0]), np.zeros(2), 0, np.full(2, 40), np.full(2, 40))[1]
    batch = Batch((views,), (none,), torch.tensor([1, 0]), torch.zeros(2), torch.full((2,), 255.0), 7, 0)
    folder = tmp_path / "out/runs/demo/nan/step-000000008/rank-0"
    save_batch(folder, batch, [stub("a", ["x0", "x1"], [0, 1])], "train", Finding(7, {"loss/re": [0]}, [{}]).row(0))
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "health.md").read_text(), re.DOTALL)
    exec(code, {})
    seen = np.asarray(Image.open(folder / "views.png")).astype(int)
    assert np.abs(seen - np.concatenate(list(views[:, 0].numpy()), axis=1).astype(int)).max() <= 1


def stub(name: str, keys: list[str], rows: list[int]) -> SimpleNamespace:
    """A dataset whose train split is ``rows``."""
    return SimpleNamespace(
        info=SimpleNamespace(name=name), rows=lambda split: np.array(rows), column=lambda column: np.array(keys)
    )
