"""A folder of embeddings: ``_embedding.json``, and Parquet parts of a fixed number of rows in the manifest's order.

    FOLDER/
      _embedding.json      About: of which weights and dataset, how they were pooled
      part-000000.parquet  one row group: key, patient, split, labels, embedding; About is in the schema's metadata

Of maps the column is ``map``, and others say where its cells lie: of images ``scale`` and ``offset``, of volumes
``affine`` (:func:`places`).

A part appears complete, and which rows it has depends on the dataset alone: any process may write it.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale.base.arguments import Length, Within
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import write_atomic, write_json
from dira_scale.base.storage.owned import own
from dira_scale.base.storage.text import brief
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import SIDES
from dira_scale.dataset.manifest.info import Flag, as_flags, flags_of
from dira_scale.train.runs.files import inside, read_json
from dira_scale.train.runs.shape import CHANNELS, SIDE, STEP, VIEW, shaped

FILE, FORMAT = "_embedding.json", 1  # readers of a folder of Parquet files pass over names with an underscore
KIND = b"dira_scale.embedding"  # in the schema's metadata
DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
SMALLEST, LARGEST, PARTS = 64, 4096, 256  # rows of a part; parts of a dataset, between these
PART_BYTES = 2**26  # of maps in a part
MOST_LABELS, MOST_CLASSES = Length(0, 2**16), Length(1, 2**16)


@dataclass(frozen=True)
class Weights:
    """The weights whose features these are.

    Attributes:
        kind: run | init | random.
        stage, step: of a run's checkpoint. ``seed``: of random ones.
        hash: SHA-256 of names, types, shapes and values of all the encoder's tensors.
        licence: None: unknown.
    """

    kind: Literal["run", "init", "random"]
    encoder: str
    stage: str | None
    step: STEP | None
    seed: int | None
    hash: str
    licence: str | None = None


@dataclass(frozen=True)
class EmbeddedDataset:
    """The dataset whose features these are. ``classes``: names of the values of a label of several classes."""

    name: str
    hash: str
    modality: str
    licence: str
    label_names: Annotated[list[str], MOST_LABELS]
    classes: dict[str, Annotated[list[str], MOST_CLASSES]]

    @property
    def flags(self) -> list[Flag]:
        return flags_of(self.label_names, self.classes)


@dataclass(frozen=True)
class About:
    """The description of a folder's rows.

    Attributes:
        name: of the run's folder or the weights' file; says nothing about the rows.
        size: pixels or voxels to which each axis of a whole image is resized.
        mean, deviation: by channel, which normalised the images; empty: they stayed in [0, 1].
        window: the stored values that became 0 and 1; empty: each image's own.
        level: of the encoder's pyramid, or its tokens; ``pooling``: what was done over space.
        width: of an embedding. ``dtype``: as stored. ``precision``: as computed.
        sides: of a map; empty: one vector an image.
        rows: of the folder. ``part_rows``: of each part but the last.
    """

    name: str
    weights: Weights
    dataset: EmbeddedDataset
    split: str
    size: Annotated[list[SIDE], Length(1, 3)]
    mean: list[float]
    deviation: list[float]
    level: STEP | str
    width: CHANNELS
    dtype: Literal["float32", "float16"]
    precision: str
    rows: Annotated[int, Within(1, 2**40)]
    part_rows: Annotated[int, Within(1, LARGEST)]
    pooling: str
    window: list[float] = field(default_factory=list)
    sides: Annotated[list[SIDE], Length(0, 3)] = field(default_factory=list)
    format: int = FORMAT

    @property
    def parts(self) -> int:
        return -(-self.rows // self.part_rows)

    def span(self, part: int) -> slice:
        """The positions of a part's rows."""
        return slice(part * self.part_rows, min((part + 1) * self.part_rows, self.rows))

    @property
    def schema(self) -> pa.Schema:
        columns = [(name, pa.string()) for name in ("key", "patient", "split")]
        values = [
            ("labels", pa.list_(pa.float32())),
            (self.column, pa.list_(DTYPES[self.dtype], math.prod(self.shape))),
        ]
        values += [(name, pa.list_(pa.float64(), math.prod(shape))) for name, shape in self.places.items()]
        return pa.schema([*columns, *values], metadata={KIND: json.dumps(self.content, ensure_ascii=False)})

    @property
    def content(self) -> dict[str, Any]:
        """The content of ``_embedding.json``; vectors have no ``sides``, as before there were maps."""
        content = asdict(self)
        return content if self.sides else {name: value for name, value in content.items() if name != "sides"}

    @property
    def column(self) -> str:
        return "map" if self.sides else "embedding"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is stored of an image: [width], or [width, *sides]."""
        return self.width, *self.sides

    @property
    def places(self) -> dict[str, tuple[int, ...]]:
        """The columns that say where maps lie, with the shape of a row."""
        if not self.sides:
            return {}
        return {"scale": (2,), "offset": (2,)} if len(self.sides) == 2 else {"affine": (4, 4)}

    @classmethod
    def read(cls, folder: Path) -> "About | None":
        """None where there is none. Raises UserError for a damaged one."""
        path = folder / FILE
        if not path.is_file():
            return None
        content, repair = read_json(path, dict[str, Any]()), f"remove {folder}, and call embed again"
        if (version := content.get("format")) != FORMAT:
            raise UserError(f"{path} is of format {version}, this dira_scale reads {FORMAT}: {repair}")
        try:
            about: About = shaped(cls, content, repair)
        except UserError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        if math.prod(about.shape) > VIEW or len(about.sides) == 1:
            raise UserError(f"{path} is damaged: sides is {about.sides} of width {about.width}; {repair}")
        return about

    def difference(self, other: "About") -> str:
        """The first key, with both values, in which the rows of two folders differ; empty if there is none."""
        own, others = (_leaves(asdict(replace(about, name=""))) for about in (self, other))
        return next((f"{key} is {others[key]}, not {own[key]}" for key in own if own[key] != others[key]), "")


def part_rows(rows: int, row_bytes: int = 0) -> int:
    """Return how many rows a part has: so few that a stopped process loses little, and that maps of so many bytes fit
    its memory; so many that files are not tiny."""
    return max(1, min(LARGEST, max(SMALLEST, -(-rows // PARTS)), PART_BYTES // max(1, row_bytes)))


def places(dataset: ShardedDataset, rows: np.ndarray, sides: Sequence[int]) -> dict[str, np.ndarray]:
    """Return where the cells of the maps of images lie, each the same share of the whole image: float64 [n, …].

    Images: ``scale`` and ``offset`` [n, 2], down and to the right: the pixel of the stored image, counted from the
    middle of its first one, is scale x cell + offset. Volumes: ``affine`` [n, 4, 4], NIfTI's, from (x, y, z) cells to
    mm; NaN where the dataset has none.
    """
    stored = np.stack([dataset.column(name)[rows] for name in SIDES[len(sides)]], 1)
    scale = stored / np.array(sides)
    offset = (scale - 1) / 2
    if len(sides) == 2:
        return {"scale": scale, "offset": offset}
    cells = np.tile(np.eye(4), (len(rows), 1, 1))
    cells[:, [0, 1, 2], [0, 1, 2]], cells[:, :3, 3] = scale[:, ::-1], offset[:, ::-1]
    affines = (affine for part in dataset.manifest.at(["affine"], rows) for affine in part["affine"].to_pylist())
    return {"affine": np.stack([np.full(16, np.nan) if a is None else a for a in affines]).reshape(-1, 4, 4) @ cells}


def part_file(folder: Path, part: int) -> Path:
    return folder / f"part-{part:06d}.parquet"


def missing_parts(folder: Path, about: About) -> list[int]:
    """Return the parts that are absent, by one listing, or whose footer does not say that they are whole."""
    missing, there = [], {path.name for path in folder.iterdir()}
    for part in range(about.parts):
        file, span = part_file(folder, part), about.span(part)
        try:
            complete = file.name in there and pq.read_metadata(file).num_rows == span.stop - span.start
        except (OSError, pa.ArrowException):
            complete = False
        missing += [] if complete else [part]
    return missing


def claim(folder: Path, about: About) -> About:
    """Make the folder, or check that it has such rows: what it says of them. Removes what a killed process left half
    written.

    Raises UserError for rows of other weights or another dataset, OSError.
    """
    own(folder, "embeddings", "out")
    if (before := About.read(folder)) is not None:
        if difference := about.difference(before):
            raise UserError(f"out={folder} has other rows: {difference}; name another folder, or remove it")
    else:
        write_json(folder / FILE, about.content)
    return before or about


def write_part(
    folder: Path, about: About, part: int, rows: pa.Table, labels: np.ndarray, values: np.ndarray,
    where: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:  # fmt: skip
    """``rows``: key, patient, split [n]; ``labels`` [n, L]; ``values`` [n, width], of maps [n, width, *sides], and
    ``where`` they lie.

    Raises OSError, and UserError for what the type of number cannot hold."""
    offsets = np.arange(len(labels) + 1, dtype=np.int32) * labels.shape[1]
    lists = pa.ListArray.from_arrays(offsets, labels.ravel())
    converted = np.ascontiguousarray(values, about.dtype)
    if np.isinf(converted).any() and not np.isinf(values).any():
        raise UserError(f"dtype={about.dtype}: a feature of {np.abs(values).max():.4g} exceeds its range; use float32")
    stored = [(converted, about.shape), *((where[name], shape) for name, shape in about.places.items())]
    arrays = [pa.FixedSizeListArray.from_arrays(pa.array(of.ravel()), math.prod(shape)) for of, shape in stored]
    columns = [rows[name].combine_chunks() for name in ("key", "patient", "split")]
    content = io.BytesIO()
    table = pa.Table.from_arrays([*columns, lists, *arrays], schema=about.schema)
    pq.write_table(table, content, row_group_size=about.part_rows, use_dictionary=["split"])
    write_atomic(part_file(folder, part), content.getvalue())


def read_parts(folder: Path | str, key: str = "embeddings") -> tuple[About, Iterator[pa.Table]]:
    """Return what a complete folder holds, and its parts, each read when it is asked for.

    Raises UserError naming ``key``, at once or at a part: no such folder, parts that are missing or of another folder.
    """
    root = Path(folder)
    if (about := About.read(root)) is None:
        raise UserError(f"{key}={root} has no {FILE}: name a folder that embed wrote")
    there = sum(1 for _ in root.glob("part-*.parquet"))  # before as many are looked for as a stranger's file says
    done = there if there < about.parts else about.parts - len(missing_parts(root, about))
    if done < about.parts:
        done_of = f"{done} of {about.parts} parts"
        raise UserError(f"{key}={root} has {done_of}: the command of embed that began it makes the others")
    return about, (_read_part(root, about, part) for part in range(about.parts))


def _read_part(root: Path, about: About, part: int) -> pa.Table:
    file, span, again = inside(part_file(root, part)), about.span(part), "remove it, and call embed again"
    try:
        table = pq.read_table(file)
        if (table.schema.metadata or {}).get(KIND) != about.schema.metadata[KIND]:
            raise UserError(f"{file} is not of {root / FILE}: {again}")
        table = table.cast(about.schema)
        lists = [table["labels"], *(table[name] for name in (about.column, *about.places))]
        nulls = any(each.null_count or each.combine_chunks().flatten().null_count for each in lists)
        nulls = nulls or any(table[name].null_count for name in ("key", "patient", "split"))
        sizes = pc.equal(pc.list_value_length(table["labels"]), len(about.dataset.label_names))
        if nulls or len(table) != span.stop - span.start or not pc.all(sizes).as_py():
            raise ValueError("rows are missing, or values in them")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{file} is damaged ({brief(str(error))}): {again}") from error
    return table


class Embeddings:
    """The rows of a complete folder, asked as a :class:`~dira_scale.dataset.manifest.ShardedDataset` is.

    Attributes:
        info: of the dataset: label names and flags.
    """

    def __init__(self, root: Path, about: About, table: pa.Table) -> None:
        self.root, self.about, self.table, self.info = root, about, table, about.dataset

    @classmethod
    def open(cls, folder: Path | str, key: str = "embeddings") -> "Embeddings":
        """Raises UserError as :func:`read_parts`."""
        about, tables = read_parts(folder, key)
        return cls(Path(folder), about, pa.concat_tables(tables))

    @property
    def hash(self) -> str:
        return self.about.dataset.hash

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(self.table["split"].to_pylist()))

    def rows(self, split: str) -> np.ndarray:
        """Row numbers (int64) of ``split``, in manifest order."""
        return np.flatnonzero(self.column("split") == split)

    def column(self, name: str) -> np.ndarray:
        """``key``, ``patient`` or ``split`` [rows]."""
        return np.asarray(self.table[name].to_numpy())

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n, L]; NaN = unknown."""
        values = self.table["labels"].combine_chunks().flatten().to_numpy()
        return np.asarray(values.reshape(len(self.table), -1)[rows])

    def flags(self, rows: np.ndarray) -> np.ndarray:
        """Labels as yes and no, float32 [n, F] in the order of ``info.flags``; NaN = unknown, -1 = uncertain."""
        return as_flags(self.labels(rows), self.info.flags)

    @cached_property
    def values(self) -> np.ndarray:
        """The embeddings, float32 [rows, width], or the maps, [rows, width, *sides]."""
        return self._array(self.about.column, self.about.shape).astype(np.float32)

    @property
    def places(self) -> dict[str, np.ndarray]:
        """The positions of maps (:func:`places`); empty for vectors."""
        return {name: self._array(name, shape) for name, shape in self.about.places.items()}

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        stored = self.table[name].combine_chunks().flatten().to_numpy()
        return np.asarray(stored.reshape(len(self.table), *shape))


def about_rows(output: Path) -> tuple[list[tuple[str, float]], dict[str, Any], set[str]]:
    """Return what a sweep lists of a finished folder: the number of its rows, and the content of :class:`About`."""
    about = About.read(output)
    assert about is not None, output
    return [("rows", float(about.rows))], about.content, set()


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict) and key != "classes"
        leaves |= _leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return leaves
