"""What finds the nearest centroids on a GPU, beside NumPy."""

from functools import partial

import numpy as np
import pytest

from dira_scale.judge.evaluation import nearest as torch_nearest
from dira_scale.shard.curate.balance import clusters
from dira_scale.shard.curate.balance.clusters import k_means, nearest


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_torch_finds_the_same(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    points = (rng.normal(size=(20, 8))[rng.integers(20, size=900)] + 0.3 * rng.normal(size=(900, 8))).astype(np.float32)
    found = []
    for is_there in (False, True):
        monkeypatch.setattr(clusters, "on_gpu", lambda is_there=is_there: is_there)
        monkeypatch.setattr(torch_nearest, "finder", partial(torch_nearest.finder, device=device))
        centroids = k_means(points, np.arange(900), 20, np.random.default_rng(0))
        number, distance = clusters.finder(centroids)(points, 3)
        found.append((centroids, *nearest(points, centroids), np.sort(number, 1), np.sort(distance, 1)))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
