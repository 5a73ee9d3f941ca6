"""The distortions of one image, for CPUs: numpy arrays [C, S, S] in [0, 1]. ``plane`` has the same for whole batches.

An operation whose parameters leave the image as it is costs nothing.
"""

import numpy as np

from dira_scale.train.data.views import CUTOUT, INVERSE_CUTOUT, LUMA, SHUFFLE

_NEGLIGIBLE = 1e-9  # a tap's weight; all smaller ones together change a pixel by less than float32's resolution


def jitter(image: np.ndarray, brightness: float, contrast: float, contrast_first: bool) -> np.ndarray:
    """Brightness multiplies; contrast multiplies the distance from the mean grey; both are clipped right away."""
    for is_contrast in (contrast_first, not contrast_first):
        if is_contrast and contrast != 1:
            mean = image.mean((1, 2)) @ np.array(LUMA, np.float32) if len(image) == len(LUMA) else image.mean()
            image = (image * contrast + (1 - contrast) * mean).clip(0, 1)
        elif not is_contrast and brightness != 1:
            image = (image * brightness).clip(0, 1)
    return image


def blur(image: np.ndarray, half_kernel: np.ndarray, blurred: np.ndarray) -> None:
    """Into ``blurred``, by a separable kernel given from its centre outwards; mirrored edges."""
    import cv2  # not where a GPU distorts

    half_kernel = half_kernel[half_kernel > _NEGLIGIBLE]
    if len(half_kernel) == 1:
        blurred[:] = image
        return
    kernel = np.concatenate((half_kernel[:0:-1], half_kernel))
    for plane, result in zip(image, blurred, strict=True):
        cv2.sepFilter2D(plane, -1, kernel, kernel, dst=result, borderType=cv2.BORDER_REFLECT_101)


def corrupt(image: np.ndarray, branch: int, boxes: list[list[int]], n_boxes: int, swaps: list[list[int]]) -> None:
    """Cutout, inverse cutout or patch shuffling, in place; parameters as in ``views.Distortion``."""
    windows = [_window(*box) for box in boxes[:n_boxes]]
    if branch == CUTOUT:
        for window in windows:
            image[window] = 0
    elif branch == INVERSE_CUTOUT:
        before = image.copy()
        image[:] = 0
        for window in windows:
            image[window] = before[window]
    elif branch == SHUFFLE:
        before = image.copy()
        for h, w, y1, x1, y2, x2 in swaps:
            first, second = _window(y1, x1, h, w), _window(y2, x2, h, w)
            image[first] = before[second]
            image[second] = before[first]


def _window(y: int, x: int, h: int, w: int) -> tuple[slice, slice, slice]:
    """The part of a rectangle that lies within the image."""
    return slice(None), slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))
