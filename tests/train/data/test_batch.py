"""Scaling and cutting of batches."""

import numpy as np
import pytest
import torch

from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import ViewSpec, draw


def make_batch(dtype=torch.uint8, b=4):
    index = np.arange(b) + 10
    distortion = draw(ViewSpec(), 0, 0, index, np.zeros(b, int), 0, np.full(b, 99), np.full(b, 99))[1]
    top = torch.iinfo(dtype).max
    views = tuple(
        torch.from_numpy(np.random.default_rng(v).integers(0, top, (b, 1, 6, 6), endpoint=True)).to(dtype)
        for v in (0, 1)
    )
    low = torch.stack([torch.arange(b) * 5.0, torch.arange(b) * 2.0], 1)
    high = top - 4 * low
    return Batch(views, (distortion, distortion), torch.from_numpy(index), low, high, 7, 2, torch.rand(b, 3))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_to_scales_each_sample_by_its_range(dtype):
    batch = make_batch(dtype)
    moved = batch.to("cpu")
    for v, (raw, view) in enumerate(zip(batch.views, moved.views, strict=True)):
        assert view.dtype == torch.float32 and view.is_contiguous(memory_format=torch.channels_last)
        for i in range(4):
            low, high = float(batch.low[i, v]), float(batch.high[i, v])
            expected = np.clip((raw[i].numpy().astype(np.float64) - low) / (high - low), 0, 1)
            np.testing.assert_allclose(view[i].numpy(), expected, atol=1e-6)
    again = moved.to("cpu")
    assert torch.equal(again.views[0], moved.views[0])


def test_split_keeps_order_and_everything():
    batch = make_batch()
    parts = batch.split(2)
    assert [part.index.tolist() for part in parts] == [[10, 11], [12, 13]]
    for name in ("index", "low", "high", "labels"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    for v in range(2):
        assert torch.equal(torch.cat([part.views[v] for part in parts]), batch.views[v])
        for name, values in batch.distortions[v].tensors().items():
            assert torch.equal(torch.cat([part.distortions[v].tensors()[name] for part in parts]), values)
    assert {(part.step, part.epoch) for part in parts} == {(7, 2)}
    assert batch.split(1)[0] is batch  # nothing of it is sliced, in every step of a run without accumulation
    with pytest.raises(AssertionError, match="4 samples"):
        batch.split(3)
