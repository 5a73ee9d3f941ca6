"""The GPU memory of decoding there: by hand, and where it counts."""

from types import SimpleNamespace

import numpy as np
import pytest

from dira_scale.fleet.forecast.estimate import decoding_bytes
from dira_scale.train.data.views import ViewSpec


@pytest.mark.parametrize(
    ("loader", "codecs", "counted"),
    [("auto", ["jpg", "jp2"], True), ("auto", ["jpg", "png"], False), ("cpu", ["jpg"], False), ("dali", ["png"], True)],
)
def test_by_hand(loader: str, codecs: list[str], counted: bool) -> None:
    """Images of 300 and 200 pixels of two bytes: 500 decoded and crops of 300, twice; six batches of two views."""
    columns = {"height": [10, 20, 9], "width": [30, 10, 9], "channels": [1, 1, 1], "bits": [16, 8, 8]}
    dataset = SimpleNamespace(
        column=lambda name: np.array(columns[name]),
        rows=lambda split: np.arange(2),
        splits=["train"],
        codecs={*codecs},
    )
    data = SimpleNamespace(loader=loader, prefetch=2, split="train")
    actual = decoding_bytes(data, [dataset], ViewSpec(size=64, scale=(0.2, 1.0)))
    assert actual == (pytest.approx(2 * 800 + 6 * 2 * 2 * 64**2) if counted else 0)
