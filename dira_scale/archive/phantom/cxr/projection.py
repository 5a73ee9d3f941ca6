"""From thickness to radiograph: Beer-Lambert, scatter, quantum noise, detector blur, display transform.

Linear attenuation coefficients at an effective energy of 60 keV (about 120 kV, filtered), mass coefficients from
NIST's tables (Hubbell and Seltzer, NISTIR 5632) times ICRU-44 densities.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from dira_scale.archive.phantom.cxr.view import Map

SOFT = 0.2048 * 1.06 / 10  # per mm: cm2/g x g/cm3
FAT = 0.1974 * 0.95 / 10
BONE = 0.3148 * 1.92 / 10
LUNG = 0.2053 * 0.26 / 10  # inflated


@dataclass(frozen=True)
class Exposure:
    """Acquisition and display parameters."""

    photons: float = 8.0e4  # per pixel of 0.8 mm in the open beam
    scatter: float = 0.35  # scatter-to-primary ratio, behind the grid
    blur: float = 0.45  # mm, sigma of the detector
    equalise: float = 0.35  # share of the low frequencies that the display removes
    detail: float = 0.7  # enhancement of structures finer than about 5 mm
    contrast: float = 1.2
    level: float = 0.97  # grey of the densest parts


def _smooth(image: Map, sigma: float) -> Map:
    """A Gaussian blur of `sigma` pixels, on a grid as coarse as the blur allows."""
    size = len(image)
    factor = next(f for f in (16, 8, 4, 2, 1) if size % f == 0 and f * 1.3 <= max(sigma, 1.3))
    small = image.reshape(size // factor, factor, size // factor, factor).mean((1, 3))
    smooth = ndimage.gaussian_filter(small, sigma / factor, mode="nearest")
    return ndimage.zoom(smooth, factor, order=1, mode="nearest", grid_mode=True)


def detect(line: Map, spacing: float, exposure: Exposure, rng: np.random.Generator) -> Map:
    """Line integrals -> detected photons relative to the open beam, with scatter, noise and blur; [size, size]."""
    primary = np.exp(-line)
    light = primary + np.float32(exposure.scatter) * _smooth(primary, 35 / spacing)
    count = np.float32(exposure.photons * (spacing / 0.8) ** 2)
    # Normal approximation of Poisson noise: even the darkest ray has hundreds of photons.
    light += np.sqrt(light / count) * rng.standard_normal(light.shape, np.float32)
    return ndimage.gaussian_filter(light, exposure.blur / spacing, truncate=3.0)


def display(light: Map, spacing: float, exposure: Exposure) -> np.ndarray:
    """Detected photons -> 12-bit presentation values (dense = bright): logarithm, equalisation, film curve."""
    dense = -np.log(np.maximum(light, 1e-4))
    slow, fine = _smooth(dense, 40 / spacing), _smooth(dense, 4.5 / spacing)
    dense += np.float32(exposure.detail) * (dense - fine) - np.float32(exposure.equalise) * slow
    size = len(dense)
    inner = dense[size // 8 : -size // 8 : 4, size // 8 : -size // 8 : 4]
    low, high = np.percentile(inner, (3, 97))
    density = (dense - np.float32(low)) * np.float32(0.82 / (high - low)) + np.float32(0.18)
    np.clip(density, 0, None, out=density)
    # Steep in the lungs, flat in the mediastinum.
    grey = 1 - np.exp(density * density * np.float32(-1.2) - density * np.float32(exposure.contrast))
    grey *= np.float32(exposure.level)
    return (np.clip(grey, 0, 1) * 4095).astype(np.uint16)


@lru_cache(maxsize=4)
def texture(size: int) -> Map:
    """A periodic tile [2 size, 2 size] of unit-variance noise, amplitude 1/f: tissue texture. Always the same."""
    side = 2 * size
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) * size
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / np.maximum(frequency, 6.0) ** 1.35
    spectrum *= np.exp(-np.square(frequency / 160))
    tile = np.fft.irfft2(spectrum, (side, side))
    return ((tile - tile.mean()) / tile.std()).astype(np.float32)


def grain(size: int, rng: np.random.Generator) -> Map:
    """A window [size, size] of the tile at a random position."""
    top, left = rng.integers(0, size, 2)
    return texture(size)[top : top + size, left : left + size]
