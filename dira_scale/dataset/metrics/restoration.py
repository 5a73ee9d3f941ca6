"""Restoration of held-out images and volumes against restorers that learn nothing: each one's own mean, the distorted
input, a blur of it, and fillings of holes: of images Telea's inpainting, of volumes the nearest voxel, a Gaussian mean.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter

from dira_scale.dataset.metrics.ssim import ssim


class RestorationTable:
    """Mean and standard deviation of MSE and SSIM (windows of 7 on each axis) of each restorer against the clean image.

    The blur is of planes: a volume's are blurred one by one.
    """

    def __init__(self) -> None:
        self._scores: dict[str, list[tuple[float, float]]] = {}

    def add(
        self, clean: np.ndarray, distorted: np.ndarray, hole: np.ndarray, restored: np.ndarray, colour: bool = False
    ) -> None:
        """Add one image or volume; each [*size] float32 in [0, 1], ``hole`` bool: pixels that a
        cutout, a mask or a painting has replaced. ``colour``: an image [3, H, W], by the means over its channels."""
        plane, whole = colour or clean.ndim == 2, (1, 2) if colour else None
        fillings: dict[str, Callable[..., np.ndarray]] = {"nearest": nearest, "gaussian": gaussian}
        if plane:
            fillings = {"telea": partial(by_plane, telea)}
        restorations = {
            "mean": np.zeros_like(clean) + clean.mean(whole, keepdims=True),
            "distorted": distorted,
            "blur": by_plane(partial(cv2.blur, ksize=(5, 5), borderType=cv2.BORDER_REFLECT), distorted),
            **{name: fill(distorted, hole) for name, fill in fillings.items()},
            "restored": restored,
        }
        for name, image in restorations.items():
            mse = float(np.mean((image - clean) ** 2))
            one = (slice(None) if colour else None, None)  # each channel is an image of its own
            pair = (torch.from_numpy(each).double()[one] for each in (clean, image))
            self._scores.setdefault(name, []).append((mse, float(ssim(*pair).mean())))

    def rows(self, stage: str) -> list[dict[str, str | float | int]]:
        """One row per restorer: stage, restorer, mse, mse_sd, ssim, ssim_sd (over images), n."""
        table: list[dict[str, str | float | int]] = []
        for name, scores in self._scores.items():
            (mse, like), (mse_sd, like_sd) = np.mean(scores, axis=0).tolist(), np.std(scores, axis=0, ddof=1).tolist()
            row = {"mse": mse, "mse_sd": mse_sd, "ssim": like, "ssim_sd": like_sd, "n": len(scores)}
            table.append({"stage": stage, "restorer": name, **row})
        return table


def by_plane(restorer: Callable[..., np.ndarray], *images: np.ndarray) -> np.ndarray:
    """``restorer`` of images [S, S], or of each of a volume's."""
    if images[0].ndim == 2:
        return restorer(*images)
    return np.stack([restorer(*planes) for planes in zip(*images, strict=True)])


def telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """OpenCV's inpainting (Telea 2004, radius 3) of ``hole`` (bool); [S, S] in [0, 1], 8-bit precision in the hole."""
    eight_bits = np.round(image * 255).astype(np.uint8)
    filled = cv2.inpaint(eight_bits, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA).astype(np.float32) / 255
    return np.where(hole, filled, image)


def nearest(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """``image`` [*size] with each voxel of ``hole`` (bool) as the nearest that is in none."""
    if hole.all():
        return image
    indices = distance_transform_edt(hole, return_distances=False, return_indices=True)
    return image[tuple(indices)]


def gaussian(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """``image`` [*size] with each voxel of ``hole`` (bool) as the mean of those in none, weighted by a Gaussian.

    Its standard deviation is half of the way from the hole's innermost voxel to the nearest outside, at least 1 voxel.
    """
    if hole.all() or not hole.any():
        return image
    sigma = max(1.0, float(distance_transform_edt(hole).max()) / 2)
    weights = gaussian_filter(np.where(hole, np.float32(0), np.float32(1)), sigma)
    values = gaussian_filter(np.where(hole, np.float32(0), image), sigma)
    return np.where(hole, values / np.maximum(weights, np.finfo(np.float32).tiny), image)
