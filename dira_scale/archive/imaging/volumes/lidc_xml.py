"""LIDC-IDRI's readings: outlines in XML to voxels (Armato et al., Medical Physics 2011)."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import skimage.draw

from dira_scale.archive.imaging.rejection import RejectedError, rejects
from dira_scale.base.storage.store import open_file

MAX_SIDE = 8192  # pixels of a slice


@dataclass(frozen=True)
class Nodule:
    """One reader's outline of one nodule.

    Attributes:
        reader: number of the reading session.
        malignancy: the reader's rating, 1 to 5; NaN if there is none.
        voxels: int64 [n, 3] of z, y, x.
    """

    reader: int
    malignancy: float
    voxels: np.ndarray


def series_of(path: Path) -> str | None:
    """The CT series that an XML file describes; None if it describes something else. Raises RejectedError."""
    with rejects("the XML of the readings is damaged ({})"), open_file(path) as file:
        root = None
        for event, element in ET.iterparse(file, ("start", "end")):
            root = root or _tag(element)
            if root != "LidcReadMessage":  # readings of radiographs have another root element
                return None
            if event == "end" and _tag(element) == "SeriesInstanceUid":
                return (element.text or "").strip()
    return None


def nodules_in(path: Path, matrices: Mapping[str, Sequence[np.ndarray]]) -> list[Nodule]:
    """All outlines of nodules of 3 mm and more; smaller nodules have only a point, non-nodules no outline.

    An outline runs through the first pixels outside the nodule. Without ``inclusion`` it encloses a hole.
    ``matrices``, by the slice's SOP Instance UID: from (column, row, 1) to the voxel's x, y and z, one for each
    position in the volume to which the slice's outlines apply.
    Raises RejectedError, also for an outline on an unknown slice.
    """
    nodules = []
    with rejects("the XML of the readings is damaged ({})"), open_file(path) as file:
        for reader, session in enumerate(ET.parse(file).iterfind(".//{*}readingSession")):
            for element in session.iterfind("{*}unblindedReadNodule"):
                inside: list[np.ndarray] = []
                holes: list[np.ndarray] = []
                for roi in element.iterfind("{*}roi"):
                    outline = [(int(_text(edge, "xCoord")), int(_text(edge, "yCoord")))
                               for edge in roi.iterfind("{*}edgeMap")]  # fmt: skip
                    instance = _text(roi, "imageSOP_UID")
                    if len(outline) < 2:
                        continue
                    if instance not in matrices:
                        raise RejectedError("an outline on a slice that the series lacks")
                    pixels = _enclosed(outline)
                    drawn = [np.rint(pixels @ matrix.T).astype(np.int64)[:, ::-1] for matrix in matrices[instance]]
                    (inside if _text(roi, "inclusion").upper() == "TRUE" else holes).extend(drawn)
                if inside:
                    voxels = _unique(inside)
                    voxels = voxels[~_is_in(voxels, _unique(holes))] if holes else voxels
                    rating = [_text(traits, "malignancy") for traits in element.iterfind("{*}characteristics")]
                    malignancy = float(rating[0]) if rating and rating[0] in {*"12345"} else float("nan")
                    nodules.append(Nodule(reader, malignancy, voxels))
    return nodules


def agreed_nodules(nodules: Sequence[Nodule], readers: int) -> Iterator[tuple[np.ndarray, float]]:
    """Each nodule's voxels [n, 3] enclosed by at least ``readers`` readers, and its mean rating over all readers.

    Outlines that share a voxel belong to one nodule. Nodules without such voxels are left out.
    """
    numbers = list(range(len(nodules)))  # of each one's group
    for a, b in combinations(range(len(nodules)), 2):
        if numbers[a] != numbers[b] and _is_in(nodules[a].voxels, nodules[b].voxels).any():
            numbers = [numbers[a] if number == numbers[b] else number for number in numbers]
    for number in dict.fromkeys(numbers):
        group = [nodule for nodule, n in zip(nodules, numbers, strict=True) if n == number]
        by_reader = [_unique([n.voxels for n in group if n.reader == reader]) for reader in {n.reader for n in group}]
        voxels, counts = np.unique(np.concatenate(by_reader), axis=0, return_counts=True)
        ratings = [nodule.malignancy for nodule in group if nodule.malignancy == nodule.malignancy]
        if (counts >= readers).any():
            yield voxels[counts >= readers], float(np.mean(ratings)) if ratings else float("nan")


def _enclosed(outline: Sequence[tuple[int, int]]) -> np.ndarray:
    """Pixels strictly inside an outline: [n, 3] of column, row, 1. Raises RejectedError for impossible positions."""
    points = np.array(outline)
    if points.min() < 0 or points.max() > MAX_SIDE:
        raise RejectedError("an outline that leaves the volume")
    corner = points.min(axis=0)
    columns, rows = (points - corner).T
    mask = np.zeros((rows.max() + 1, columns.max() + 1), bool)
    mask[skimage.draw.polygon(rows, columns)] = True
    mask[rows, columns] = False
    y, x = np.nonzero(mask)
    return np.stack([x + corner[0], y + corner[1], np.ones_like(x)], axis=1)


def _unique(voxels: Sequence[np.ndarray]) -> np.ndarray:
    """The distinct voxels [n, 3] of several arrays."""
    return np.unique(np.concatenate(voxels), axis=0)


def _is_in(voxels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool [n]: which of ``voxels`` are among ``others``. z, y and x, each below 2^20, are packed into one number."""
    shifts = np.array([2**40, 2**20, 1])
    return np.isin((voxels + 2**19) @ shifts, (others + 2**19) @ shifts)


def _tag(element: ET.Element) -> str:
    """The tag without its namespace, which varies."""
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element, tag: str) -> str:
    return (element.findtext(f"{{*}}{tag}") or "").strip()
