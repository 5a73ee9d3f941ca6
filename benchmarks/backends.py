"""The loaders that benchmarks of training compare, by the keys of ``pretrain``, and phantoms for them to read."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks import synthetic
from dira_scale.archive.phantom.anatomy import Anatomy
from dira_scale.archive.phantom.cxr.radiograph import take
from dira_scale.base.errors import UserError
from dira_scale.base.machine.workers import parallel_map
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.dataset.pixels import codecs
from dira_scale.shard import main as shard
from dira_scale.train.data.loaders import Loader
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.inputs import Inputs

WHITE = 4095  # of 12 bits

BACKENDS = {
    "cpu": ("data.loader=cpu", "data.helper=false"),
    "helper": ("data.loader=cpu", "data.helper=true"),
    "dali": ("data.loader=dali",),
    "ffcv": ("data.loader=ffcv",),
    "stream": ("data.loader=stream",),  # and a cache for its shards
}


def open_all(
    names: Iterable[str], given: Sequence[str], views: ViewSpec, device: torch.device | str, cores: int, folder: Path
) -> tuple[dict[str, Loader], dict[str, str]]:
    """Loaders of the training data of ``pretrain`` with the keys ``given``, by name; and the reasons of those that
    cannot read it here.

    Raises UserError with all reasons if none can.
    """
    loaders: dict[str, Loader] = {}
    reasons: dict[str, str] = {}
    for name in names:
        cache = [f"data.cache={folder / 'cache'}"] if name == "stream" else []
        _, config = synthetic.configuration(*given, *BACKENDS[name], *cache)
        try:
            loaders[name] = Inputs(config.data, views, config.seed, 0, 1, device=device, cores=cores).train(
                config.data.batch
            )
        except UserError as error:
            reasons[name] = str(error)
    if not loaders:
        raise UserError("; ".join(dict.fromkeys(reasons.values())))
    return loaders, reasons


def make_shards(
    folder: Path, images: int, side: int, stored: int, workers: int, bits: int = 8, few: int | None = None
) -> Path:
    """Phantom radiographs of ``side`` pixels, all to train on, stored with ``stored`` pixels as JPEG, or as PNG of 16
    ``bits``; those of 8 also in FFCV's form where FFCV is installed. They are drawn by ``workers`` processes, the first
    ``few`` of them; the others are these, shifted.

    They come from PNGs, as ChestX-ray14 has them, rather than from the DICOM files of `recipe=phantom_cxr`:
    these are compressed with pylibjpeg, which GPU containers lack.

    Raises:
        UserError: they could not be sharded, as was said.
    """
    out, codec = folder / "shards", "jpg" if bits == 8 else "png"
    drawn = draw(folder / "png", min(images, few or images), side, workers, bits)
    others = ((drawn[n % len(drawn)], folder / "png" / f"{n:05d}.png", n) for n in range(len(drawn), images))
    list(parallel_map(shift, others, workers))
    words = [f"recipe.images={folder / 'png'}", f"recipe.max_side={stored}"]
    words += [f"recipe.codec={codec}", f"recipe.bits={bits}", "recipe.secret=false", "recipe.burned_in=keep"]
    code = shard(["recipe=folder", f"out={out}", *words, "recipe.splits={train: 1, val: 0, test: 0}"])
    if code == 0 and bits == 8 and find_spec("ffcv"):
        code = shard(["convert", f"path={out}", "to=ffcv"])
    if code:
        raise UserError("no phantoms could be sharded, see above")
    return out


def draw(folder: Path, count: int, side: int, workers: int, bits: int = 8) -> list[Path]:
    """``count`` radiographs of ``side`` pixels in ``folder`` as PNGs, those that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.png" for number in range(count)]
    lacking = [(path, number, side, bits) for number, path in enumerate(paths) if not path.exists()]
    list(parallel_map(draw_one, iter(lacking), min(workers, count)))
    return paths


def draw_one(path: Path, number: int, side: int, bits: int) -> None:
    """A healthy chest of 8 bits, or of 12 in 16; a function of ``number`` and ``side``."""
    random = np.random.default_rng(number)
    levels = take(Anatomy.draw(random), [], side, random).pixels
    if bits == 8:
        levels = (levels.astype(np.float32) * (255 / WHITE)).round().clip(0, 255).astype(np.uint8)
    write_atomic(path, codecs.encode(levels, "png"))


def shift(drawn: Path, path: Path, number: int) -> None:
    write_atomic(path, codecs.encode(np.roll(codecs.decode(drawn.read_bytes(), "png"), number, (0, 1)), "png"))
