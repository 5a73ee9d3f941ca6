"""Tubes as chains of tapering segments, and space-filling trees of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dira_scale.archive.phantom.anatomy import curve

MURRAY = 1 / 3  # exponent: a branch's radius by the amount of tissue it supplies (Murray 1926)
FINEST = 0.45  # mm: thinner branches do not divide


@dataclass(frozen=True)
class Tubes:
    """N segments: ends [N, 2, 3] (x, y, z) and radii [N, 2], mm."""

    ends: NDArray[np.float64]
    radii: NDArray[np.float64]

    @classmethod
    def along(cls, points: ArrayLike, radii: ArrayLike, samples: int = 16) -> "Tubes":
        """A smooth tube through control points [M, 3] with radii [M]."""
        return cls.chain(*(curve(np.asarray(knots, float)[None], samples)[0] for knots in (points, radii)))

    @classmethod
    def chain(cls, points: NDArray, radii: NDArray) -> "Tubes":
        """Straight segments between points [M, 3]."""
        return cls(np.stack([points[:-1], points[1:]], 1), np.stack([radii[:-1], radii[1:]], 1))

    @classmethod
    def joined(cls, parts: Sequence["Tubes"]) -> "Tubes":
        """All parts as one."""
        return cls(np.concatenate([part.ends for part in parts]), np.concatenate([part.radii for part in parts]))

    @classmethod
    def tree(cls, start: NDArray, targets: NDArray, radius: float, rng: np.random.Generator) -> "Tubes":
        """A tree that supplies all ``targets`` [N, 3].

        Each branch goes part of the way to the centre of its targets and divides them across their longest extent.
        """
        ends, radii = [], []
        stack = [(np.asarray(start, float), targets, radius)]
        while stack:
            begin, fed, here = stack.pop()
            middle = fed.mean(0)
            alone = len(fed) < 3 or here < FINEST
            end = middle if alone else begin + rng.uniform(0.36, 0.5) * (middle - begin)
            ends.append((begin, end))
            radii.append((here, here))
            if alone:
                continue
            offset = fed - middle
            longest = np.linalg.eigh(offset.T @ offset)[1][:, -1]
            fed = fed[np.argsort(offset @ (longest + rng.normal(0, 0.15, 3)))]
            cut = round(len(fed) * rng.uniform(0.34, 0.66))
            for part in (fed[:cut], fed[cut:]):
                stack.append((end, part, here * (len(part) / len(fed)) ** MURRAY))
        return cls(np.array(ends), np.array(radii))
