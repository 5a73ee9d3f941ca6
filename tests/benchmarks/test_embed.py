"""The benchmark of embed: its arithmetic by hand, and that the bare pass computes what is written."""

import json
from pathlib import Path

import pytest
from toy_run import write

from benchmarks import embed


def test_the_ratio_is_to_the_slower_half() -> None:
    result = embed.figures({"ours": [4.0, 5.0, 4.0], "bare": [3.6, 4.0, 3.8], "loader": [1.0, 5.0, 1.0]}, images=38)
    assert result["images_per_second"] == pytest.approx({"ours": 9.5, "bare": 10.0, "loader": 38.0})
    assert result["ratio"] == pytest.approx(3.8 / 4)
    assert (result["lowest"], result["highest"]) == (pytest.approx(0.9), pytest.approx(1.0))


def test_both_compute_the_same(tmp_path: Path) -> None:
    """``measure`` itself holds their features together."""
    row = embed.measure("test_resnet-32", write(tmp_path / "shards"), rounds=1, keys=["threads=1", "batch=50"])
    assert (row["case"], row["images"]) == ("test_resnet-32", 108) and row["ratio"] > 0
    json.dumps(row)
