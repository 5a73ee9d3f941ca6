"""What ``python -m dira_scale.predict`` does: every image once, through the best checkpoint of a fine-tuned run.

::

    predictions.csv     of labels and numbers: a row for each image, its key and a probability or number for each
    masks/KEY.png       of masks: images; KEY.nii.gz: volumes. Pixels have the values of the classes that were learned
    quarantine.csv      images that could not be used: key, stage, reason
    predict.json        the network, the data, thresholds and temperatures of the run, counts. Written last
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dira_scale import __version__
from dira_scale.archive.outcome import most_common
from dira_scale.archive.output import check_output, names_file
from dira_scale.archive.reading import QuarantinedError
from dira_scale.data.batch import UNITS, unit_interval
from dira_scale.distributed.processes import default_workers
from dira_scale.errors import UserError, counted, print_line
from dira_scale.evaluation.config import SLIDING, require_masks
from dira_scale.evaluation.journal import FILE as UNFINISHED
from dira_scale.evaluation.journal import check_same, journal, rows_are_kept
from dira_scale.evaluation.stored import dense, read_ahead
from dira_scale.evaluation.trained import TrainedRun
from dira_scale.machine.device import compute_device
from dira_scale.machine.progress import bar
from dira_scale.metrics.libraries import require_libraries
from dira_scale.pixels.codecs import DecodeError
from dira_scale.predict.config import Predict
from dira_scale.predict.folder import FolderImages, conversion_of
from dira_scale.predict.images import DatasetImages, Images, Loaded
from dira_scale.storage.atomic import write_atomic, write_json
from dira_scale.storage.owned import REJECTED, own
from dira_scale.storage.tables import harmless

PREDICTIONS, QUARANTINE = "predictions.csv", "quarantine.csv"


def write_predictions(out: Path, keys: Sequence[str], columns: Sequence[str], values: np.ndarray) -> None:
    """A row for each of N keys, with its ``values`` [N, columns]."""
    rows = ([key, *map(repr, row)] for key, row in zip(keys, values.tolist(), strict=True))
    _write(out / PREDICTIONS, ["key", *columns], rows)


def write_quarantine(out: Path, refused: Mapping[str, Mapping[str, str]]) -> None:
    """``refused``: stage and reason by key."""
    _write(out / QUARANTINE, ["key", "stage", "reason"], ([k, r["stage"], r["reason"]] for k, r in refused.items()))


def write_rejected_names(out: Path, refused: Iterable[tuple[str, Mapping[str, str]]]) -> Path:
    """Write the table by the files' names, which may identify patients: beside ``out``, readable by its owner only."""
    path = names_file(out)
    _write(path, REJECTED, ([name, row["stage"], row["reason"]] for name, row in refused), private=True)
    return path


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], private: bool = False) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(map(harmless, [header, *rows]))
    write_atomic(path, text.getvalue().encode(errors="surrogateescape"), private=private)


ABOUT, MASKS = "predict.json", "masks"
Row = dict[
    str, Any
]  # of the journal: ``values`` of labels or numbers, ``mask``, or ``stage`` and ``reason`` of a refused image
Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class CroppedImage:
    """``crops`` [n, C, *size], of stored values; ``low`` and ``high`` become 0 and 1."""

    crops: np.ndarray
    low: np.ndarray | float
    high: np.ndarray | float


def make(cfg: DictConfig) -> None:
    """Predict what is not yet predicted. Raises UserError, also if no image is usable."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Predict)
    trained, out = TrainedRun.of(Path(config.run)), Path(config.out)
    check_output(out, config.images, "images")
    masks, learned = not trained.supervision.pooled, trained.supervision.learned
    require_masks(config.window, not masks, learned)
    if masks and (config.window or trained.window) == SLIDING:
        require_libraries()
    device = compute_device()
    workers = config.workers or default_workers(device)
    images = _images(config, trained, workers)
    seen = {"window": config.window or trained.window} if masks else {"crops": trained.about["evaluate"]["crops"]}
    about = {name: trained.about[name] for name in ("network", "stage", "step")}
    about |= {"weights": trained.hash, **seen, "data": images.about}
    if (out / ABOUT).is_file():
        check_same(out, json.loads((out / ABOUT).read_text()), about)
        print_line(f"{out} is complete: nothing is left to predict")
        return
    with rows_are_kept(out):
        own(out, "predictions", "out")
        with journal(out, about) as rows:
            todo = [number for number, key in enumerate(images.keys) if key not in rows.done]
            predicted = _masks if masks else _values
            with bar("predicting", UNITS[len(trained.size)]) as shown:
                task = shown.add_task("", total=len(images.keys), completed=len(images.keys) - len(todo))
                for number, row in predicted(config, trained, images, todo, device, workers):
                    rows.add(images.keys[number], row)
                    shown.advance(task)
            _finish(out, trained, images, rows.done, about)


def _images(config: Predict, trained: TrainedRun, workers: int) -> Images:
    dimensions = len(trained.size)
    if config.data.shards is not None:
        return DatasetImages(config.data.shards, config.data.split, dimensions)
    assert config.images is not None, "checked"
    conversion = conversion_of(config.like, trained.about["conversion"], trained.about["network"])
    return FolderImages(config.images, conversion, dimensions, config.names, config.key_file, workers)


def _values(
    config: Predict, trained: TrainedRun, images: Images, todo: list[int], device: torch.device, workers: int
) -> Iterator[tuple[int, Row]]:
    """As the run's test split was evaluated: the mean of what is predicted of its crops."""
    predicted = trained.predictor(device)

    def views(loaded: Loaded) -> CroppedImage:
        stored = loaded.stored
        return CroppedImage(
            np.stack([stored.cropped(crop, trained.size) for crop in trained.crops]), stored.low, stored.high
        )

    waiting = list[tuple[int, CroppedImage]]()
    for position, (number, view) in enumerate(_read(workers, trained, images, todo, views), 1):
        if isinstance(view, dict):
            yield number, view
        else:
            waiting.append((number, view))
        if len(waiting) < config.batch and position < len(todo):
            continue
        for _, alike in groupby(waiting, lambda item: item[1].crops.shape):  # of grey and colour images
            numbers, cropped = zip(*alike, strict=True)
            values = _mean_of_crops(predicted, cropped, device).double().tolist()
            yield from ((n, {"values": row}) for n, row in zip(numbers, values, strict=True))
        waiting.clear()


def _mean_of_crops(
    predicted: Callable[[Tensor], Tensor], images: Sequence[CroppedImage], device: torch.device
) -> Tensor:
    """[b, L] on the CPU. What is stored goes to the device, where it is scaled."""
    stored = torch.from_numpy(np.stack([image.crops for image in images], 1))
    limits = torch.from_numpy(np.array([(image.low, image.high) for image in images], np.float32))
    if device.type == "cuda":
        stored, limits = stored.pin_memory(), limits.pin_memory()
    stored, (low, high) = stored.to(device, non_blocking=True), limits.to(device, non_blocking=True).unbind(1)
    return torch.stack([predicted(unit_interval(crop, low, high)) for crop in stored]).mean(0).cpu()


def _masks(
    config: Predict, trained: TrainedRun, images: Images, todo: list[int], device: torch.device, workers: int
) -> Iterator[tuple[int, Row]]:
    window, folder = config.window or trained.window, Path(config.out) / MASKS
    predicted, supervision, chosen = trained.predictor(device), trained.supervision, trained.chosen
    if len({*images.targets}) < len(images.targets):
        twice = Counter(images.targets).most_common(1)[0][0]
        raise UserError(f"names=source: two images would have the mask {twice}; use names=keys")
    for number, loaded in _read(workers, trained, images, todo, lambda loaded: loaded):
        if isinstance(loaded, dict):
            yield number, loaded
            continue
        probabilities = dense(predicted, loaded.stored, trained.size, window, device, config.batch)
        mask = supervision.answers(loaded.geometry.restored(probabilities)[None], chosen)[0]
        path = folder / f"{images.targets[number]}{loaded.geometry.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, loaded.geometry.encoded(mask))
        yield number, {"mask": path.relative_to(folder).as_posix()}


def _read(
    workers: int, trained: TrainedRun, images: Images, todo: list[int], prepare: Callable[[Loaded], Prepared]
) -> Iterator[tuple[int, Prepared | Row]]:
    """What is ``prepared`` of each image, or the row of one that cannot be used."""

    def read(number: int) -> tuple[int, Prepared | Row]:
        try:
            loaded = images.load(number)
            loaded = replace(loaded, stored=loaded.stored.seen(**trained.stored))
            if (channels := loaded.stored.channels) not in (1, trained.channels):
                raise QuarantinedError("check", f"{channels} channels, and the network takes 1 or {trained.channels}")
            return number, prepare(loaded)
        except QuarantinedError as error:
            return number, {"stage": error.stage, "reason": error.reason}
        except DecodeError as error:
            return number, {"stage": "decode", "reason": str(error)}

    return read_ahead(read, todo, workers)


def _finish(out: Path, trained: TrainedRun, images: Images, done: dict[str, Row], about: Row) -> None:
    """Write the tables and the description, and tell what was done. Raises UserError if nothing could be used."""
    rows = [done[key] for key in images.keys]
    refused = {key: row for key, row in zip(images.keys, rows, strict=True) if "reason" in row}
    usable = {key: row for key, row in zip(images.keys, rows, strict=True) if "reason" not in row}
    names = [(name, row) for number, row in enumerate(rows) if "reason" in row and (name := images.name(number))]
    table = write_rejected_names(out, names) if names else out / "quarantine.csv"
    reasons = Counter(row["reason"] for row in refused.values())
    why = ", ".join(f"{count} x {reason}" for reason, count in most_common(reasons))
    if not usable:
        (out / UNFINISHED).unlink()
        raise UserError(f"none of the {len(rows)} images is usable: {why} (full list: {table})")
    write_quarantine(out, refused)
    supervision, where = trained.supervision, out / MASKS
    if supervision.pooled:
        values = torch.tensor([row["values"] for row in usable.values()], dtype=torch.float64)
        columns = supervision.columns(trained.chosen)
        write_predictions(out, [*usable], columns, supervision.answers(values, trained.chosen))
        where = out / PREDICTIONS
    judged = ("thresholds", "temperatures", "calibrated_thresholds")
    counts = {"predicted": len(usable), "quarantined": len(refused)}
    network = {"dira_scale": __version__, "outputs": [*supervision.outputs]}
    written = about | network | {name: trained.about[name] for name in judged} | counts
    write_json(out / ABOUT, written)
    (out / UNFINISHED).unlink()
    print_line(f"{where}: {counted(len(usable), 'image')}")
    if refused:
        print_line(f"quarantined: {len(refused)} ({why}; all in {table})")
