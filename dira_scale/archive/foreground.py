"""Some voxels of each class of a volume's mask, for ``foreground.parquet``."""

from typing import Any

import numpy as np
import xxhash

MOST = 2_000  # voxels of a class and volume
MOST_OF_VOLUME = 16_000  # of all its classes: a volume of 100 classes keeps 160 of each


def foreground_of(mask: np.ndarray, key: str) -> list[dict[str, Any]]:
    """Return the rows of ``FOREGROUND`` of one volume: all voxels of each class of ``mask`` uint8 [Z, Y, X], or as many
    as are kept, drawn by a hash of ``key`` and class."""
    counts = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in mask])
    values = (np.flatnonzero(counts[:, 1:].sum(0)) + 1).tolist()
    rows = []
    for value in values:
        ends = counts[:, value].cumsum()
        chosen = _drawn(int(ends[-1]), min(MOST, MOST_OF_VOLUME // len(values)), f"{key}/{value}")
        depths, voxels = np.searchsorted(ends, chosen, side="right"), []
        for z in np.unique(depths).tolist():
            inside = np.flatnonzero(mask[z] == value)[chosen[depths == z] - (ends[z] - counts[z, value])]
            voxels += (inside + z * mask[z].size).tolist()
        rows.append({"key": key, "value": value, "count": int(ends[-1]), "voxels": voxels})
    return rows


def _drawn(count: int, most: int, key: str) -> np.ndarray:
    """Return at most ``most`` different numbers below ``count``, ascending: int64."""
    if count <= most:
        return np.arange(count)
    # A bit generator's raw numbers are the same in every version of NumPy, unlike those of its Generator.
    raw = np.random.Philox(key=xxhash.xxh3_64_intdigest(key.encode())).random_raw(8 * most) % np.uint64(count)
    _, first = np.unique(raw, return_index=True)
    return np.sort(raw[np.sort(first)[:most]]).astype(np.int64)
