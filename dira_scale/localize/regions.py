"""A map becomes boxes, boxes are compared: in any number of dimensions n. A box is [2 n]: starts, then extents."""

import numpy as np
from scipy import ndimage


def regions(map: np.ndarray, intensity: float) -> np.ndarray:
    """The boxes [k, 2 n] around the connected regions of ``map`` [*size] that are above ``intensity``, in its pixels.

    Pixels that touch at a corner are connected: 8 neighbours in an image, 26 in a volume.
    """
    labelled, _ = ndimage.label(map > intensity, np.ones((3,) * map.ndim))
    parts = ndimage.find_objects(labelled)
    boxes = [[side.start for side in part] + [side.stop - side.start for side in part] for part in parts]
    return np.array(boxes, float).reshape(-1, 2 * map.ndim)


def in_stored(boxes: np.ndarray, crop: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """``boxes`` [k, 2 n] in pixels of a view of ``size``, which shows the box ``crop`` [2 n] of an image, in the
    image's pixels."""
    n = len(size)
    scale = crop[n:] / np.array(size, float)
    return np.concatenate((crop[:n] + boxes[:, :n] * scale, boxes[:, n:] * scale), 1)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The intersection over union [k] of ``box`` [2 n] with each of ``boxes`` [k, 2 n]."""
    n = len(box) // 2
    starts, ends = np.maximum(box[:n], boxes[:, :n]), np.minimum(box[:n] + box[n:], boxes[:, :n] + boxes[:, n:])
    common = (ends - starts).clip(0).prod(1)
    union = box[n:].prod() + boxes[:, n:].prod(1) - common
    return np.asarray(common / union)
