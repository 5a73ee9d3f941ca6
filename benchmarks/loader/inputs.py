"""What every contender reads: radiographs in one stored form, as shards and as single files, and the crops to take.

The radiographs are the 12 of ``$DIRA_SCALE_DATA/chestxray14_nih12_1024`` (ChestX-ray14's own PNGs of 8 bits, 1024 x
1024), repeated. Where the folder is absent, phantoms of the same size take their place, and the table says so. With 16
bits a pixel is its 8-bit level times 257 plus noise with a standard deviation of one such level, smoothed over 0.7
pixels as by a detector: the low bits are neither empty nor a copy of the high ones.
"""

import contextlib
import io
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.backends import draw as draw_phantoms
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels import codecs
from dira_scale.shard import main as shard
from dira_scale.train.data.views import ViewSpec, draw

VIEWS = ViewSpec()  # two crops of 224 x 224
SIDE = 1024  # of the radiographs
EPOCHS = 4  # whose crops are drawn beforehand; then they repeat
REAL = "chestxray14_nih12_1024"


@dataclass(frozen=True)
class LoaderCase:
    """One stored form of the radiographs."""

    codec: str
    bits: int
    side: int  # pixels

    def __str__(self) -> str:
        return f"{self.codec}{self.bits}-{self.side}"


FORMS = [("jpg", 8), ("png", 8), ("png", 16), ("jp2", 16), ("npy", 8), ("npy", 16)]
CASES = {str(case): case for side in (SIDE, SIDE // 2) for case in (LoaderCase(*form, side) for form in FORMS)}


@dataclass(frozen=True)
class LoaderInputs:
    """A case on disk.

    Attributes:
        dataset: its shards, each of a quarter of the images.
        files: the payloads of its rows as single files, in the order of the rows.
        boxes, flips: int32 [EPOCHS * images, 2, 4] (y, x, h, w) and bool [EPOCHS * images, 2]: both views of row
            ``i % images`` in epoch ``i // images``, those that a loader of ours draws with the seed 0.
        workers: threads or processes of every contender.
        batch: images of a batch.
    """

    case: LoaderCase
    dataset: ShardedDataset
    files: list[Path]
    boxes: np.ndarray
    flips: np.ndarray
    workers: int
    batch: int

    @property
    def images(self) -> int:
        return len(self.files)

    def payloads(self) -> list[bytes]:
        """All rows' encoded images."""
        return [self.dataset.read(row) for row in range(self.images)]

    def save(self) -> Path:
        """The files' folder's parent, for a process that takes the same crops of them."""
        folder = self.files[0].parents[1]
        numbers = np.array([self.workers, self.batch])
        np.savez(folder / "crops.npz", boxes=self.boxes, flips=self.flips, numbers=numbers)
        return folder


def radiographs(folder: Path, images: int) -> tuple[list[Path], str]:
    """``images`` PNGs of 8 bits in ``folder``, and what they are, in words."""
    given = Path(os.environ.get("DIRA_SCALE_DATA", "../shared/data")) / REAL / "images"
    drawn = sorted(given.glob("*.png"))[:images]
    what = f"{len(drawn)} radiographs of ChestX-ray14 ({SIDE} x {SIDE}), repeated to {images}"
    if not drawn:
        drawn = draw_phantoms(folder.parent / "phantoms", min(8, images), SIDE, len(os.sched_getaffinity(0)))
        what = f"{len(drawn)} phantoms ({SIDE} x {SIDE}), repeated to {images}: no {given} (DIRA_SCALE_DATA names it)"
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.png" for number in range(images)]
    for number, path in enumerate(paths):
        path.write_bytes(drawn[number % len(drawn)].read_bytes())
    return paths, what


def sixteen_bits(originals: list[Path], folder: Path) -> Path:
    """A folder with the same radiographs in 16 bits."""
    folder.mkdir()
    for number, path in enumerate(originals):
        noise = gaussian_filter(np.random.default_rng(number).standard_normal((SIDE, SIDE)), 0.7)
        levels = codecs.decode(path.read_bytes(), "png") + noise / noise.std()
        pixels = np.rint(257 * levels).clip(0, 65535).astype(np.uint16)
        (folder / path.name).write_bytes(codecs.encode(pixels, "png"))
    return folder


def prepare(case: LoaderCase, originals: list[Path], folder: Path, workers: int, batch: int) -> LoaderInputs:
    """Shard the radiographs in ``folder`` as ``case`` says, by the command that users call, also in FFCV's form where
    FFCV is installed; and write the payloads as files.
    """
    source = originals[0].parent if case.bits == 8 else sixteen_bits(originals, folder / "png16")
    out, printed = folder / "shards", io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = shard(
            ["recipe=folder", f"recipe.images={source}", f"out={out}", f"recipe.codec={case.codec}",
             f"recipe.bits={case.bits}", f"recipe.max_side={case.side}", "recipe.secret=false", "recipe.burned_in=keep",
             "recipe.splits={train: 1, val: 0, test: 0}", f"recipe.shard_size={-(-len(originals) // 4)}", "workers=1"]
        )  # fmt: skip
        if code == 0 and case.bits == 8 and find_spec("ffcv"):
            code = shard(["convert", f"path={out}", "to=ffcv"])
    dataset = ShardedDataset.open(out) if code == 0 else None
    if dataset is None or dataset.table.num_rows != len(originals):
        raise UserError(f"sharding the benchmark's images as {case} failed (exit code {code}):\n{printed.getvalue()}")
    (folder / "files").mkdir()
    files = [folder / "files" / f"{row:05d}.{case.codec}" for row in range(len(originals))]
    for row, path in enumerate(files):
        path.write_bytes(dataset.read(row))
    return LoaderInputs(case, dataset, files, *crops(dataset), workers, batch)


def crops(dataset: ShardedDataset) -> tuple[np.ndarray, np.ndarray]:
    """``Inputs.boxes`` and ``Inputs.flips``."""
    rows, sides = np.arange(dataset.table.num_rows), (dataset.column("height"), dataset.column("width"))
    drawn = [
        [draw(VIEWS, 0, epoch, rows, np.zeros_like(rows), view, *sides)[0] for view in range(VIEWS.count)]
        for epoch in range(EPOCHS)
    ]
    boxes = np.concatenate([np.stack([geometry.box for geometry in epoch], 1) for epoch in drawn])
    flips = np.concatenate([np.stack([geometry.flip[:, 1] for geometry in epoch], 1) for epoch in drawn])
    return boxes, flips
