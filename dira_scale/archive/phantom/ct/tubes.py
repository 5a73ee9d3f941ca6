"""Tubes as chains of tapering segments, and space-filling trees of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dira_scale.archive.phantom.curve import curve

MURRAY = 1 / 3  # exponent: a branch's radius by the amount of tissue it supplies (Murray 1926)


@dataclass(frozen=True)
class Tubes:
    """N segments: ends [N, 2, 3] (x, y, z) and radii [N, 2], mm."""

    ends: NDArray[np.float64]
    radii: NDArray[np.float64]

    @classmethod
    def along(cls, points: ArrayLike, radii: ArrayLike, samples: int = 12) -> "Tubes":
        """A smooth tube through control points [M, 3] with radii [M]."""
        fine, thick = curve(np.asarray(points, float)[None], samples)[0], curve(np.asarray(radii, float)[None], samples)
        return cls.chain(fine, thick[0])

    @classmethod
    def chain(cls, points: NDArray, radii: NDArray) -> "Tubes":
        """Straight segments between points [M, 3]."""
        return cls(np.stack([points[:-1], points[1:]], 1), np.stack([radii[:-1], radii[1:]], 1))

    @classmethod
    def joined(cls, parts: Sequence["Tubes"]) -> "Tubes":
        """All parts as one."""
        return cls(np.concatenate([part.ends for part in parts]), np.concatenate([part.radii for part in parts]))

    def __add__(self, other: "Tubes") -> "Tubes":
        return Tubes.joined([self, other])

    def wider(self, by: float, factor: float = 1.0) -> "Tubes":
        """A copy with radii scaled by ``factor``, plus ``by`` mm."""
        return Tubes(self.ends, self.radii * factor + by)

    def within(self, low: float, high: float, reach: float) -> "Tubes":
        """The segments within ``reach`` mm of the slices from z = low to high."""
        z, far = self.ends[..., 2], self.radii.max(1) + reach
        near = (z.min(1) - far < high) & (z.max(1) + far > low)
        return Tubes(self.ends[near], self.radii[near])


def tree(
    start: NDArray, targets: NDArray, radius: float, rng: np.random.Generator, finest: float = 0.45
) -> tuple[NDArray, NDArray]:
    """A tree that supplies all ``targets`` [N, 3]: branches [S, 3, 3] (start, bend, end), radii [S].

    Each branch goes part of the way to the centre of its targets and divides them across their longest extent.
    """
    paths, radii = [], []
    stack = [(np.asarray(start, float), targets, radius)]
    while stack:
        begin, fed, here = stack.pop()
        middle = fed.mean(0)
        alone = len(fed) < 3 or here < finest
        end = middle if alone else begin + rng.uniform(0.36, 0.5) * (middle - begin)
        bend = (begin + end) / 2 + rng.normal(0, 0.05, 3) * np.linalg.norm(end - begin)
        paths.append((begin, bend, end))
        radii.append(here)
        if alone:
            continue
        offset = fed - middle
        longest = np.linalg.eigh(offset.T @ offset)[1][:, -1]
        fed = fed[np.argsort(offset @ (longest + rng.normal(0, 0.15, 3)))]
        cut = round(len(fed) * rng.uniform(0.34, 0.66))
        for part in (fed[:cut], fed[cut:]):
            stack.append((end, part, here * (len(part) / len(fed)) ** MURRAY))
    return np.array(paths), np.array(radii)


def as_tubes(paths: NDArray, radii: NDArray) -> Tubes:
    """A tree's branches as tubes of two segments each."""
    thick = np.repeat(radii[:, None], 2, 1)
    return Tubes(paths[:, :2], thick) + Tubes(paths[:, 1:], thick)
