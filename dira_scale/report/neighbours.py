"""The page of a folder of embeddings: images with those nearest to them, how often these share a label, and a map.

Nearness is cosine similarity. Images of the same patient are left out: they are alike without any learning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from PIL.Image import Resampling
from sklearn.manifold import TSNE

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.neighbours import nearest_of_others
from dira_scale.dataset.metrics.statistics.bootstrap import bootstrap
from dira_scale.dataset.metrics.statistics.weighted import weighted_mean
from dira_scale.dataset.pixels.outlines import fitted
from dira_scale.judge.evaluation.embeddings import Embeddings
from dira_scale.judge.evaluation.features import rows_of
from dira_scale.judge.pages.figure import COLOURS, address, svg
from dira_scale.judge.pages.tables.figures import Plot
from dira_scale.judge.pages.template import template

K, SHOWN, TILE = 6, 12, 160  # neighbours; images shown with theirs; pixels of a side
ASKED, MAPPED, MAPS = 2000, 1500, 4  # images whose neighbours are counted; points of a map; maps, a label each
PERPLEXITY = 30.0  # of t-SNE (van der Maaten and Hinton, JMLR 2008), who advise 5 to 50
PATIENTS = 10  # from which on there is an interval


@dataclass(frozen=True)
class SharedLabel:
    """How often neighbours share a label.

    Attributes:
        images: those with the label, among those that were asked.
        share: of their neighbours that have it, the mean over these images; ``interval``: 95 % over patients.
        chance: the share of all images of other patients.
    """

    label: str
    images: int
    share: float
    chance: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Tile:
    """An image. ``labels``: its own, and whether its query has each; ``similarity``: to its query; None: it is one."""

    picture: str
    labels: Sequence[tuple[str, bool]]
    similarity: float | None = None


def page(folder: str, shards: str) -> str:
    """The page of the embeddings in ``folder``, of images in ``shards``. Raises UserError: they are of other images, or
    maps, or all of one patient."""
    embeddings, dataset = Embeddings.open(folder), ShardedDataset.open(shards)
    about, hashes = embeddings.about, (embeddings.hash, dataset.hash)
    if hashes[0] != hashes[1]:
        raise UserError(f"data.shards={shards} has other images ({hashes[1][:12]}) than embeddings={folder} is of "
                        f"({hashes[0][:12]}): name the dataset that was embedded")  # fmt: skip
    if len(rows := rows_of(dataset, about.split)) != about.rows:
        raise UserError(f"embeddings={folder} has {about.rows} rows, and data.shards={shards} {len(rows)} images in "
                        f"{about.split}: call embed again")  # fmt: skip
    if about.sides:
        raise UserError(f"embeddings={folder} holds maps: name a folder that embed what=pooled wrote")
    if lost := int((~np.isfinite(embeddings.values)).any(1).sum()):
        raise UserError(f"embeddings={folder}: {lost} images have features that are not finite; look at the weights")
    owners = np.unique(embeddings.column("patient"), return_inverse=True)[1]
    k = min(K, len(owners) - int(np.bincount(owners).max()))
    if k < 1:
        raise UserError(f"embeddings={folder}: all images are of one patient, whose images are left out of neighbours")
    names, labels = known_labels(embeddings)
    drawn = np.random.default_rng(0).permutation(len(owners))
    asked = drawn[:ASKED]
    neighbours, similarities = nearest_of_others(embeddings.values, owners, asked, k)
    first = np.sort(np.unique(owners[asked], return_index=True)[1])[:SHOWN]  # a patient is shown once
    shared = shares(names, labels, owners, asked, neighbours)
    return template(Path(__file__).with_name("neighbours.html.j2")).render(
        about=about,
        name=Path(folder).resolve().name,
        queries=[_tiles(dataset, rows, names, labels, asked[i], neighbours[i], similarities[i]) for i in first],
        shared=shared,
        mean=[float(np.mean([getattr(each, part) for each in shared])) for part in ("share", "chance") if shared],
        asked=len(asked),
        k=k,
        maps=maps(names, labels, embeddings.values, drawn[:MAPPED]),
        mapped=min(MAPPED, len(drawn)),
        volumes=dataset.info.dims == 3,
    )


def known_labels(embeddings: Embeddings) -> tuple[list[str], np.ndarray]:
    """Names of the labels that are yes or no, and float32 [n, F]: 1, 0, or NaN where that is unknown or uncertain."""
    flags = embeddings.flags(np.arange(len(embeddings.table)))
    kept = [i for i in range(flags.shape[1]) if {*np.unique(flags[~np.isnan(flags[:, i]), i]).tolist()} <= {-1, 0, 1}]
    names = [flag.name for flag in embeddings.info.flags]
    return [names[i] for i in kept], np.where(flags[:, kept] < 0, np.nan, flags[:, kept])


def shares(
    names: Sequence[str], labels: np.ndarray, owners: np.ndarray, asked: np.ndarray, neighbours: np.ndarray
) -> list[SharedLabel]:
    """A row for each label that an image that was asked has. ``labels``, ``owners``: [n, F] and [n]; ``asked``,
    ``neighbours``: rows [m], and of theirs [m, k]."""
    shared = []
    for name, values in zip(names, labels.T, strict=True):
        of_patient = [np.bincount(owners, part)[owners] for part in (values == 1, ~np.isnan(values))]
        has, known = ((values == 1).sum() - of_patient[0], (~np.isnan(values)).sum() - of_patient[1])
        near = values[neighbours]
        chosen = (values[asked] == 1) & (known[asked] > 0) & ~np.isnan(near).all(1)
        if not chosen.any():
            continue
        rows, near = asked[chosen], near[chosen]
        interval = bootstrap(weighted_mean((near == 1).sum(1) / (~np.isnan(near)).sum(1)), owners[rows])
        ends = (interval.low, interval.high) if interval.patients >= PATIENTS else None
        shared.append(SharedLabel(name, len(rows), interval.value, float((has[rows] / known[rows]).mean()), ends))
    return shared


def _tiles(
    dataset: ShardedDataset, rows: np.ndarray, names: Sequence[str], labels: np.ndarray, query: int,
    neighbours: np.ndarray, similarities: np.ndarray,
) -> list[Tile]:  # fmt: skip
    """The query, then its neighbours."""
    tiles = []
    for row, similarity in [(query, None), *zip(neighbours, similarities.tolist(), strict=True)]:
        plane = (dataset.picture(int(rows[row])) * 255).astype(np.uint8)
        of = [(names[i], bool(labels[query, i] == 1)) for i in np.flatnonzero(labels[row] == 1).tolist()]
        tiles.append(Tile(address(fitted(plane, TILE, Resampling.BILINEAR)), of, similarity))
    return tiles


def maps(names: Sequence[str], labels: np.ndarray, features: np.ndarray, rows: np.ndarray) -> list[Plot]:
    """The map once for each of the labels whose rarer value is the most frequent, coloured by it."""
    if len(rows) <= 3:
        return []
    unit = features[rows] / np.maximum(np.linalg.norm(features[rows], axis=1, keepdims=True), 1e-12)
    tsne = TSNE(perplexity=min(PERPLEXITY, (len(rows) - 1) / 3), init="pca", random_state=0)
    points, of_rows = tsne.fit_transform(unit), labels[rows]
    rarer = np.minimum((of_rows == 1).sum(0), (of_rows == 0).sum(0))
    chosen = [i for i in np.argsort(-rarer, kind="stable")[:MAPS] if rarer[i]]
    values = {names[i]: of_rows[:, i] for i in chosen} or {"all images": np.zeros(len(rows))}
    return [
        Plot(name, svg(f"map of the embeddings: {name}", partial(_map, points, of)), [*_KEYS] if chosen else [])
        for name, of in values.items()
    ]


_KEYS = [(word, f"var(--{key}, {COLOURS[key]})", "solid") for word, key in (("yes", "plot-2"), ("no", "plot-level"))]


def _map(points: np.ndarray, values: np.ndarray, axes: Axes) -> None:
    for value, key in ((0, "plot-level"), (1, "plot-2")):
        x, y = points[values == value].T
        axes.scatter(x, y, s=5, color=COLOURS[key], alpha=0.8, linewidths=0)
    axes.set_axis_off()
