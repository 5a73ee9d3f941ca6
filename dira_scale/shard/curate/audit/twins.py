"""Find copies of images between patients, splits and datasets.

Copies may be recompressed, shrunk, brightened, cropped by a few percent, flipped. Bodies look alike except at fine
scales, so images are compared after a band-pass, which removes shared anatomy and keeps individual detail.

1. All pairs, or those within cells (``candidates``): correlation of band-passed images of 32 pixels, by matrix
   products, for all four flips at the cost of one.
2. Pairs with a high correlation: the best correlation at 64 pixels over small shifts and scales (error rates on altered
   copies of real radiographs: docs/evidence/proof.md).
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dira_scale.base.errors import print_line
from dira_scale.base.machine.progress import bar
from dira_scale.base.machine.workers import parallel_map
from dira_scale.dataset.manifest import DatasetError, ShardedDataset
from dira_scale.shard.curate.audit import candidates

SIDE = 64  # pixels of the small versions
SLICES = (0.25, 0.5, 0.75)  # of a volume's depth
ROWS_PER_TASK = 256
MIN_CORRELATION = 0.92  # in the second step
PAIRS = 512  # per task
SAMPLED = 1000  # images that are compared with all, to measure what the search in cells misses
BAND, FINE_BAND = (0.0, 2.0), (0.67, 2.67)  # sigmas in pixels, at 32 and at 64 pixels
SCALES = (0.96, 0.98, 1.0, 1.02, 1.04)
FLIPS = ("", "mirrored", "upside down", "turned by 180°")


class Twins(NamedTuple):
    """Rows ``image`` < ``other`` (of all datasets concatenated), their similarity, how they differ."""

    image: int
    other: int
    alike: float
    how: str


def thumbnails(datasets: Sequence[ShardedDataset], folder: Path, workers: int) -> np.ndarray:
    """float16 [rows of all, K, SIDE, SIDE] in [0, 1], in a file in ``folder``; K = 1, for volumes 3 axial slices.

    Images that cannot be decoded are 0: ``shard verify`` names them.
    """
    dims = {dataset.info.dims for dataset in datasets}
    shape = (sum(len(dataset.index.records) for dataset in datasets), 1 if dims == {2} else len(SLICES), SIDE, SIDE)
    pictures = np.lib.format.open_memmap(folder / "thumbnails.npy", "w+", np.float16, shape)
    all_rows = ((str(dataset.root), range(len(dataset.index.records))) for dataset in datasets)
    jobs = ((root, rows[n : n + ROWS_PER_TASK]) for root, rows in all_rows for n in rows[::ROWS_PER_TASK])
    with bar("looking at", "images") as progress:
        task, start = progress.add_task("", total=shape[0]), 0
        for part in parallel_map(_of_rows, jobs, workers):
            pictures[start : start + len(part)] = part
            start += len(part)
            progress.advance(task, len(part))
    return pictures


def _of_rows(path: str, rows: range) -> np.ndarray:
    cv2.setNumThreads(1)
    dataset = ShardedDataset.open(path, check_shards=False)
    return np.stack([thumbnail(dataset, row) for row in rows])


def thumbnail(dataset: ShardedDataset, row: int) -> np.ndarray:
    """float16 [K, SIDE, SIDE]; the aspect ratio is not kept."""
    channel, low, high = dataset.shown(row)
    try:
        if dataset.info.dims == 3:
            depths = [int(part * dataset.sides(row)[0]) for part in SLICES]
            cuts = [dataset.voxels(row, slice(depth, depth + 1)) for depth in depths]
            planes = [cut.reshape(-1, *cut.shape[-2:])[channel] for cut in cuts]
        else:
            pixels = dataset.pixels(row)
            planes = [pixels.mean(-1) if pixels.ndim == 3 else pixels]
    except DatasetError:
        return np.zeros((len(SLICES) if dataset.info.dims == 3 else 1, SIDE, SIDE), np.float16)
    scaled = [np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1) for plane in planes]
    return np.stack([cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in scaled]).astype(np.float16)


def near_twins(
    pictures: np.ndarray, group: np.ndarray, queries: int, workers: int = 1, say: Callable[[str], None] = print_line
) -> list[Twins]:
    """Pairs of ``pictures`` [N, K, 64, 64] that show the same image, except two of one ``group`` [N], and two after the
    first ``queries``. Of very many, ``say`` is told how many are found."""
    with tempfile.TemporaryFile() as file:
        vectors = _vectors(pictures, file)
        twins = _twins_among(candidates.candidates(vectors, group, queries), pictures, workers)
        if len(pictures) > candidates.EXACT:
            rows = np.sort(np.random.default_rng(0).choice(queries, min(queries, SAMPLED), replace=False))
            expected = _twins_among(candidates.candidates_of(rows, vectors, group, queries), pictures, workers)
            found = len({twin[:2] for twin in twins} & {twin[:2] for twin in expected})
            share = f", {100 * found / len(expected):.1f} % were found" if expected else ""
            say(f"searched within cells: of the {len(expected)} near-duplicates of {len(rows)} random images{share}")
    return twins


def _twins_among(pairs: np.ndarray, pictures: np.ndarray, workers: int) -> list[Twins]:
    parts = [pairs[n : n + PAIRS] for n in range(0, len(pairs), PAIRS)]
    twins = []
    jobs = ((pictures[part[:, 0]], pictures[part[:, 1]]) for part in parts)
    for part, flips in zip(parts, parallel_map(_closely, jobs, workers), strict=True):
        twins += [
            Twins(int(image), int(other), round(alike, 3), FLIPS[flip])
            for (image, other), (flip, alike) in zip(part, flips, strict=True)
            if alike >= MIN_CORRELATION
        ]
    return sorted(twins)


def _closely(images: np.ndarray, others: np.ndarray) -> list[tuple[int, float]]:
    return [compare(image, other) for image, other in zip(images, others, strict=True)]


def compare(image: np.ndarray, other: np.ndarray) -> tuple[int, float]:
    """The flip of ``other`` [K, 64, 64] most similar to ``image``; their correlation at the best shift and scale."""
    first = [_band(plane, FINE_BAND) for plane in image.astype(np.float32)]
    second = [_band(plane, FINE_BAND) for plane in other.astype(np.float32)]
    flips = [
        [np.ascontiguousarray(plane[:: -1 if n & 2 else 1, :: -1 if n & 1 else 1]) for plane in second]
        for n in range(len(FLIPS))
    ]
    coarse = [sum(float((_half(a) * _half(b)).sum()) for a, b in zip(first, planes, strict=True)) for planes in flips]
    flip, correlations = int(np.argmax(coarse)), []
    for plane, flipped in zip(first, flips[flip], strict=True):  # its inner 7/8 with any position, at any scale
        margin = len(plane) // 16
        inner = plane[margin:-margin, margin:-margin]
        if inner.std() < 1e-4 or flipped.std() < 1e-4:  # empty
            correlations.append(0.0)
            continue
        sizes = [(round(len(plane) * scale),) * 2 for scale in SCALES]
        scaled = [cv2.resize(flipped, size, interpolation=cv2.INTER_LINEAR) for size in sizes]
        correlations.append(max(float(cv2.matchTemplate(s, inner, cv2.TM_CCOEFF_NORMED).max()) for s in scaled))
    return flip, float(np.mean(correlations))


def _band(plane: np.ndarray, sigmas: tuple[float, float]) -> np.ndarray:
    low, high = sigmas
    smooth = cv2.GaussianBlur(plane, (0, 0), low) if low else plane
    return smooth - cv2.GaussianBlur(plane, (0, 0), high, borderType=cv2.BORDER_REFLECT)


def _half(plane: np.ndarray) -> np.ndarray:
    return plane.reshape(len(plane) // 2, 2, -1, 2).mean((1, 3))


def _vectors(pictures: np.ndarray, file: Any) -> np.ndarray:
    """float32 [N, 4, D], for very many in ``file``: unit vectors of the band-passed images, split into parts even and
    odd in y and x.

    Each part is its own mirror image up to sign, so a quarter of it suffices; signed sums of the four products of parts
    give the correlations for all four flips.
    """
    shape = len(pictures), 4, pictures[0].size // 16
    many = len(pictures) > candidates.EXACT
    parts = np.memmap(file, np.float32, "w+", shape=shape) if many else np.empty(shape, np.float32)
    for number, picture in enumerate(pictures):
        planes = np.stack([_band(_half(plane.astype(np.float32)), BAND) for plane in picture])
        planes -= planes.mean()
        planes /= max(float(np.linalg.norm(planes)), 1e-3)
        half = planes.shape[-1] // 2
        for part in range(4):
            even_y = planes[:, :half] + (-1 if part & 2 else 1) * planes[:, : half - 1 : -1]
            even = even_y[..., :half] + (-1 if part & 1 else 1) * even_y[..., : half - 1 : -1]
            parts[number, part] = even.ravel() / 2
    return parts
