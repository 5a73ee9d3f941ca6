"""Voxels of each class of a mask: by brute force which there are, by counting that all are as likely."""

import numpy as np
import pytest

from dira_scale.archive import foreground
from dira_scale.archive.foreground import MOST, foreground_of

GOLDEN = [31, 34, 41, 43, 49]  # must not change: a conversion that is run again has the same bytes


def random_mask(shape: tuple[int, ...], share: float) -> np.ndarray:
    generator = np.random.default_rng(4)
    classes = generator.integers(1, 4, shape, np.uint8)
    return np.where(generator.random(shape) < share, classes * 80, 0).astype(np.uint8)


def test_small_classes_are_there_whole_and_of_large_ones_some() -> None:
    mask = random_mask((30, 40, 50), 0.5)
    mask[7, :3, 5] = 9
    rows = foreground_of(mask, "some-volume")
    assert [(row["key"], row["value"]) for row in rows] == [("some-volume", value) for value in (9, 80, 160, 240)]
    for row in rows:
        everywhere = np.flatnonzero(mask == row["value"])
        assert row["count"] == len(everywhere) and len(row["voxels"]) == min(MOST, len(everywhere))
        assert row["voxels"] == sorted({*row["voxels"]}) and {*row["voxels"]} <= {*everywhere.tolist()}
    assert rows == foreground_of(mask, "some-volume")
    assert [row["voxels"] for row in foreground_of(mask, "other")[1:]] != [row["voxels"] for row in rows[1:]]
    assert foreground_of(np.zeros((4, 4, 4), np.uint8), "empty") == []


def test_each_voxel_is_as_likely_and_drawn_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "MOST", 5)
    mask = random_mask((4, 4, 4), 0.7) // 80
    assert foreground_of(mask, "0")[0]["voxels"] == GOLDEN
    counts = np.zeros(mask.size)
    for key in range(2000):
        for row in foreground_of(mask, str(key)):
            counts[row["voxels"]] += row["count"] / len(row["voxels"]) / 2000
    drawn = counts[mask.ravel() > 0]
    assert (counts[mask.ravel() == 0] == 0).all() and np.abs(drawn - 1).max() < 6 * np.sqrt(3 / 2000)


def test_many_classes_share_the_room_of_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "MOST_OF_VOLUME", 60)
    assert [len(row["voxels"]) for row in foreground_of(random_mask((9, 9, 9), 0.9), "a")] == [20, 20, 20]
