"""The page: clusters of the last level with the images nearest to their centroids, and near-duplicates, as pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Resampling

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.outlines import fitted
from dira_scale.judge.evaluation.embeddings import About
from dira_scale.judge.pages.figure import address
from dira_scale.judge.pages.template import template

CLUSTERS, NEAREST, PAIRS, TILE = 32, 6, 12, 160  # shown: of both ends of the sizes; images; pairs; pixels of a side


@dataclass(frozen=True)
class Balanced:
    """All that is known of n rows, [n] each.

    Attributes:
        kept: the row that is drawn in its place, itself or one of which it is a near-duplicate.
        cosine: of both.
        levels: its cluster on each level, from the finest on.
        distance: squared, from the centroid of the last level; infinite if it is not kept.
        repeats: how often it is drawn.
    """

    kept: np.ndarray
    cosine: np.ndarray
    levels: Sequence[np.ndarray]
    distance: np.ndarray
    repeats: np.ndarray

    @property
    def dropped(self) -> np.ndarray:
        """Return the rows that are near-duplicates of others, the least alike first."""
        rows = np.flatnonzero(self.kept != np.arange(len(self.kept)))
        return rows[np.argsort(self.cosine[rows], kind="stable")]

    def nearest(self, cluster: int) -> list[int]:
        """Return some rows of a cluster of the last level, those nearest to its centroid first."""
        rows = np.flatnonzero((self.levels[-1] == cluster) & np.isfinite(self.distance))
        return rows[np.argsort(self.distance[rows], kind="stable")][:NEAREST].tolist()


def render(found: Balanced, datasets: Sequence[ShardedDataset], settings: Any, about: About) -> str:
    """Return the page."""
    rows = [dataset.rows(settings.split) for dataset in datasets]
    starts = np.cumsum([0, *map(len, rows)])

    def tile(row: int) -> str:
        of = int(np.searchsorted(starts, row, side="right")) - 1
        picture = datasets[of].picture(int(rows[of][row - starts[of]]))
        return address(fitted((picture * 255).astype(np.uint8), TILE, Resampling.BILINEAR))

    sizes, draws = np.bincount(found.levels[-1]), np.bincount(found.levels[-1], found.repeats).astype(int)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)].tolist()
    ends = order if len(order) <= CLUSTERS else order[: CLUSTERS // 2] + order[-CLUSTERS // 2 :]
    return template(Path(__file__).with_name("balance.html.j2")).render(
        about=about,
        settings=settings,
        found=found,
        names=", ".join(dataset.info.name for dataset in datasets),
        clusters=len(order),
        shown=[(int(sizes[c]), int(draws[c]), [tile(row) for row in found.nearest(c)]) for c in ends],
        pairs=[(found.cosine[row], [tile(row), tile(int(found.kept[row]))]) for row in found.dropped[:PAIRS].tolist()],
    )
