"""Restoration of held-out images, beside what costs nothing: the distorted input, a blur of it, Telea's inpainting."""

import cv2
import numpy as np
from skimage.metrics import structural_similarity

RESTORERS = ("distorted", "blur", "telea", "restored")


class RestorationTable:
    """Mean MSE and SSIM (7 x 7 windows) of each restorer against the clean image, all in [0, 1]."""

    def __init__(self) -> None:
        self._sums = {name: np.zeros(2) for name in RESTORERS}
        self._count = 0

    def add(self, clean: np.ndarray, distorted: np.ndarray, restored: np.ndarray) -> None:
        """Count one image; each [S, S] float32 in [0, 1]."""
        tried = {
            "distorted": distorted,
            "blur": cv2.blur(distorted, (5, 5), borderType=cv2.BORDER_REFLECT),
            "telea": telea(distorted),
            "restored": restored,
        }
        for name, image in tried.items():
            mse = float(np.mean((image - clean) ** 2))
            self._sums[name] += (mse, structural_similarity(clean, image, data_range=1.0))
        self._count += 1

    def rows(self, stage: str) -> list[dict[str, str | float | int]]:
        """One row a restorer: stage, restorer, mse, ssim, n."""
        return [
            {"stage": stage, "restorer": name, "mse": mse, "ssim": ssim, "n": self._count}
            for name, (mse, ssim) in ((n, self._sums[n] / max(1, self._count)) for n in RESTORERS)
        ]


def telea(image: np.ndarray) -> np.ndarray:
    """OpenCV's inpainting (Telea 2004, radius 3) of the pixels that are exactly zero; [S, S] in [0, 1]."""
    hole = (image == 0).astype(np.uint8)
    eight_bits = np.round(image * 255).astype(np.uint8)
    filled = cv2.inpaint(eight_bits, hole, 3, cv2.INPAINT_TELEA).astype(np.float32) / 255
    return np.where(hole == 1, filled, image)
