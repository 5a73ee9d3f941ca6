"""What storing a dataset's images in another form would give: speed, size, and loss of detail."""

import contextlib
import io
import shlex
import statistics
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.loader.settings import LoaderSetting, speeds
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.views import ViewSpec, draw
from dira_scale.errors import UserError
from dira_scale.pixels.boxes import Crop
from dira_scale.pixels.crops import fill
from dira_scale.shard.curate.recode import recode
from dira_scale.shard.curate.recode_sample import Form
from dira_scale.shard.curate.subset import Part, subset

SAMPLES = 48  # images that are stored anew
FASTER = 1.05  # times as fast: worth another copy
VISIBLE = 40.0  # dB: above it, no difference is seen in a view


def compare_forms(dataset: ShardedDataset, best: LoaderSetting, rounds: int, seconds: float, console: Console) -> str:
    """Print a table of forms; returns the command that makes the fastest without a visible loss, if it is faster."""
    with tempfile.TemporaryDirectory() as folder:
        made = _made(dataset, best.size, Path(folder))
        read = {words: each for words, each in made.items() if best.reads(each)}
        result = speeds([(best, each) for each in read.values()], rounds, seconds)
        speed = {words: statistics.median(rates) for words, rates in zip(read, result, strict=True)}
        stored = next(iter(made))
        detail = {words: detail_of(made[stored], each, best.size) for words, each in made.items()}
        table = Table("stored form", "images/s", "kB/image", "detail of a view, dB")
        for words, each in made.items():
            shown = f"{speed[words]:.0f}" if words in speed else f"not by {best.loader}"
            table.add_row(words, shown, f"{each.column('size').mean() / 1e3:.0f}", f"{detail[words]:.1f}")
        console.print(table)
    better = [words for words in speed if speed[words] > FASTER * speed[stored] and detail[words] > VISIBLE]
    if not better:
        return ""
    chosen = max(better, key=lambda words: speed[words])
    command = f"python -m dira_scale.shard convert path={shlex.quote(str(dataset.root))} to=webdataset {chosen} out=…"
    console.print(f"{speed[chosen] / speed[stored]:.1f} times as fast: {command}", highlight=False, soft_wrap=True)
    return command


def _made(dataset: ShardedDataset, size: int, folder: Path) -> dict[str, ShardedDataset]:
    """By their keys of ``shard convert``: some of the images as they are stored, and in every other form."""
    longest = int(max(dataset.column("height").max(), dataset.column("width").max()))
    small = next((side for side in (128, 256, 512, 1024) if 2 * size <= side < longest), None)
    codecs = ("jpg", "jp2", "npy") if dataset.column("bits").max() == 8 else ("jp2", "npy")
    forms = [Form(codec, side) for side in ([None, small] if small else [None]) for codec in codecs]
    with contextlib.redirect_stdout(io.StringIO()):
        share = min(1.0, SAMPLES / len(dataset.rows("train")))
        subset(dataset.root.resolve(), folder / "few", Part(share, 0, ("train",), {}, None, 0))
        result = {f"as stored ({dataset.info.codec})": ShardedDataset.open(folder / "few")}
        for form in forms:
            words = " ".join(f"{key}={value}" for key, value in form.given.items())
            with contextlib.suppress(UserError):  # it is stored so already
                recode(folder / "few", folder / words, form, 1)
                result[words] = ShardedDataset.open(folder / words)
    return result


def detail_of(stored: ShardedDataset, form: ShardedDataset, size: int) -> float:
    """Peak signal-to-noise ratio of equal crops of both, in dB; infinite where they are equal."""
    rows = {key: row for row, key in enumerate(form.column("key"))}
    errors = []
    for row, key in enumerate(stored.column("key")):
        other, (height, width) = rows[key], stored.shape(row)[:2]
        sides = np.array([height]), np.array([width])
        box = draw(ViewSpec(size=size), 0, 0, np.array([row]), np.zeros(1, int), 0, *sides)[0].box[0]
        high, wide = form.shape(other)[:2]
        scaled = box * np.array([high / height, wide / width] * 2)
        difference = _view(stored, row, box, size) - _view(form, other, scaled, size)
        errors.append(float(np.square(difference).mean()))
    mean = statistics.mean(errors)
    return -10 * float(np.log10(mean)) if mean else float("inf")


def _view(dataset: ShardedDataset, row: int, box: np.ndarray, size: int) -> np.ndarray:
    """A crop in [0, 1]."""
    view = np.empty((int(dataset.column("channels")[row]), size, size), np.uint16)
    y, x, h, w = map(float, box)
    crop = Crop((y, x, h, w), (False, False))
    fill(dataset.read(row), dataset.cell("codec", row), [crop], [view], dataset.shape(row))
    low, high = (float(dataset.column(name)[row]) for name in ("low", "high"))
    return (view - low) / (high - low)
