"""Phantom radiographs as single PNGs, and shards of them.

PNGs of 8 bits, as ChestX-ray14 has them, rather than the DICOM files of `recipe=phantom_cxr`: these are compressed with
pylibjpeg, which GPU containers lack.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dira_scale.errors import UserError
from dira_scale.machine.workers import parallel_map
from dira_scale.phantom.anatomy import Anatomy
from dira_scale.phantom.cxr.radiograph import take
from dira_scale.pixels import codecs
from dira_scale.shard import main as shard

WHITE = 4095  # of 12 bits


def draw(folder: Path, count: int, side: int, workers: int) -> list[Path]:
    """``count`` radiographs of ``side`` pixels in ``folder``, which is made; on as many processes as ``workers``."""
    folder.mkdir()
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    list(parallel_map(draw_one, ((path, number, side) for number, path in enumerate(paths)), min(workers, count)))
    return paths


def draw_one(path: Path, number: int, side: int) -> None:
    """A healthy chest; a function of ``number`` and ``side``."""
    random = np.random.default_rng(number)
    levels = take(Anatomy.draw(random), [], side, random).pixels.astype(np.float32) * (255 / WHITE)
    path.write_bytes(codecs.encode(levels.round().clip(0, 255).astype(np.uint8), "png"))


def shards(pngs: Sequence[Path], out: Path, side: int) -> Path:
    """The PNGs' folder as a dataset in ``out``: JPEGs of ``side`` pixels, all to train on.

    Raises:
        UserError: it could not be sharded, as was said.
    """
    words = ["recipe=folder", f"recipe.images={pngs[0].parent}", f"out={out}", "recipe.codec=jpg", "recipe.bits=8"]
    words += [f"recipe.max_side={side}", "recipe.secret=false", "recipe.burned_in=keep"]
    if shard([*words, "recipe.splits={train: 1, val: 0, test: 0}"]):
        raise UserError("no phantoms could be sharded, see above")
    return out
