"""A batch with a loss that is not finite is saved with its images, as it was."""

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

from dira_scale.train.broken_batch import save_batch
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec, draw
from dira_scale.train.engine.nan_guard import NotFinite

ROOT = Path(__file__).parents[2]


def test_the_batch_is_saved_as_it_was_with_its_images_names(tmp_path: Path) -> None:
    spec, index = ViewSpec(size=32), np.array([3, 0])
    drawn = [draw(spec, 0, 0, index, np.zeros(2), view, np.full(2, 40), np.full(2, 40))[1] for view in range(2)]
    views = tuple((torch.arange(2048).view(2, 1, 32, 32) + i).to(torch.uint16) for i in range(2))
    batch = Batch(views, tuple(drawn), torch.from_numpy(index), torch.zeros(2, 2), torch.full((2, 2), 4096.0), 7, 0)
    datasets = [stub("a", ["x0", "x1"], [1, 0]), stub("b", ["y0", "y1", "y2"], [0, 2])]
    finding = NotFinite(7, {"loss/re": [1]}, [{"loss/re": 1.5}, {"loss/re": math.nan}])
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
    batch = Batch((views,), (none,), torch.tensor([1, 0]), torch.zeros(2, 1), torch.full((2, 1), 255.0), 7, 0)
    folder = tmp_path / "out/runs/demo/nan/step-000000008/rank-0"
    save_batch(folder, batch, [stub("a", ["x0", "x1"], [0, 1])], "train", NotFinite(7, {"loss/re": [0]}, [{}]).row(0))
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "training.md").read_text(), re.DOTALL)
    exec(code, {})
    seen = np.asarray(Image.open(folder / "views.png")).astype(int)
    assert np.abs(seen - np.concatenate(list(views[:, 0].numpy()), axis=1).astype(int)).max() <= 1


def stub(name: str, keys: list[str], rows: list[int]) -> SimpleNamespace:
    """A dataset whose train split is ``rows``."""
    return SimpleNamespace(
        info=SimpleNamespace(name=name), rows=lambda split: np.array(rows), cell=lambda column, row: keys[row]
    )
