"""The ``python -m dira_scale.predict`` command: predicts every image once, by the best checkpoint of a fine-tuned run.

::

    predictions.csv     of labels and numbers: a row for each image, its key and a probability or number for each
    masks/KEY.png       of masks: images; KEY.nii.gz: volumes. Pixels have the values of the classes that were learned.
                        KEY.dcm: DICOM segmentations
    probabilities/KEY.nii.gz  of volumes, if asked for
    quarantine.csv      images that could not be used: key, stage, reason
    predict.json        the network, the data, thresholds and temperatures of the run, counts. Written last
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from dira_scale import __version__
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.output import check_output
from dira_scale.base.errors import UserError, print_line
from dira_scale.base.machine.progress import bar
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.owned import check_own, own
from dira_scale.dataset.metrics.libraries import require_libraries
from dira_scale.dataset.pixels.codecs import DecodeError
from dira_scale.judge.evaluation.config import SLIDING, require_masks
from dira_scale.judge.evaluation.finetuned_network import TrainedRun, unfinished
from dira_scale.judge.evaluation.inference import dense, read_ahead
from dira_scale.judge.evaluation.journal import Journal, is_complete, journal, rows_are_kept
from dira_scale.judge.evaluation.rounds import on_processes, own_parts, rounds
from dira_scale.predict.config import ABOUT, DICOMSEG, KEYS, MASKS, PROBABILITIES, Predict, check_format, require_format
from dira_scale.predict.dicomseg import DicomImages
from dira_scale.predict.folder import FolderImages, conversion_of
from dira_scale.predict.images import CroppedImage, DatasetImages, ImageRow, Loaded, PredictedImages, read_image
from dira_scale.predict.tables import finish
from dira_scale.train.data.batch import UNITS, unit_interval
from dira_scale.train.distributed.config import AUTO
from dira_scale.train.distributed.control import broadcast_from_main, check_equal, on_main, raise_on_all
from dira_scale.train.distributed.processes import default_workers
from dira_scale.train.distributed.world import World
from dira_scale.train.runs.exit_codes import DONE, INTERRUPTED

logger = logging.getLogger(__name__)
KIND = "predictions"  # of the folder


def make(cfg: DictConfig) -> int:
    """Predict what is not yet predicted; the exit code. Collective."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Predict)
    return on_processes(config.threads, config.timeout, AUTO, lambda world: _predict(config, world))


def _predict(config: Predict, world: World) -> int:
    """Raises AgreedError, also if no image is usable."""
    job = raise_on_all(lambda: Prediction(config, world))
    if config.images is None:
        job.images, job.about = raise_on_all(job.listed)
    else:  # a folder is listed once
        listed = broadcast_from_main(on_main(world, job.listed))
        assert listed is not None, "the main process lists it"
        job.images, job.about = listed
    check_equal({"weights": job.trained.hash, "data": job.images.about["hash"]})
    out, images = job.out, job.images
    if raise_on_all(lambda: is_complete(out, KIND, ABOUT, job.about)):
        if world.main:
            print_line(f"{out} is complete: nothing is left to predict")
        return DONE
    if world.main:
        for line in unfinished(Path(config.run), job.trained.about["step"]):
            print_line(line)
    with ExitStack() as stack:  # closes the main process's journal
        rows = on_main(world, lambda: job.begin(stack))
        parts, left = broadcast_from_main(job.parts(rows.done) if rows else ([], 0))
        read = job.read([number for part in own_parts(world, parts) for number in part])
        progress = bar("predicting", UNITS[len(job.trained.size)])
        progress.disable = not world.main
        with progress:
            task = progress.add_task("", total=len(images.keys), completed=len(images.keys) - left)
            for results, stopped in rounds(world, parts, lambda part, _: job.part(part, read)):
                new = [row for part in results for row in part]
                raise_on_all(lambda new=new: job.keep(rows, new))  # type: ignore[misc]
                left -= len(new)
                progress.advance(task, len(new))
                if stopped and left > 0:
                    logger.info("%s: %d images are left; the same command continues", stopped, left)
                    return INTERRUPTED
        raise_on_all(lambda: job.finish(rows.done) if rows else None)
    return DONE


class Prediction:
    """A folder of predictions to be filled.

    A part of the work is a batch of consecutive images, or one whose mask is asked for: what is computed at once is the
    same for any number of processes, and after a stop.

    Attributes:
        images, about: what :meth:`listed` returns.
    """

    images: PredictedImages
    about: ImageRow

    def __init__(self, config: Predict, world: World) -> None:
        """Raises UserError for what cannot be, naming the key. Must not wait for another process."""
        require_format(config)
        self.config, self.out, self.trained = config, Path(config.out), TrainedRun.of(Path(config.run))
        check_output(self.out, config.images, "images")
        check_own(self.out, KIND, "out")
        supervision = self.trained.supervision
        self.masks, self.device = not supervision.pooled, world.device
        self.window = config.window or self.trained.window
        require_masks(config.window, not self.masks, supervision.learned)
        check_format(config, config.run, not self.masks, len(self.trained.size))
        if self.masks and self.window == SLIDING:
            require_libraries()
        self.workers = config.workers or default_workers(self.device)
        self.predicted = self.trained.predictor(self.device)

    def listed(self) -> tuple[PredictedImages, ImageRow]:
        """The images, and what identifies their prediction. Raises UserError. Must not wait for another process."""
        config, trained, supervision = self.config, self.trained, self.trained.supervision
        dimensions = len(trained.size)
        images: DatasetImages | FolderImages
        if config.data.shards is not None:
            images = DatasetImages(config.data.shards, config.data.split, dimensions)
            trained.require_channels(images.dataset, [])  # their names; `read` quarantines other numbers
        else:
            assert config.images is not None, "checked"
            conversion = conversion_of(config.like, trained.about["conversion"], trained.about["network"])
            images = FolderImages(config.images, conversion, dimensions, config.names, config.key_file, self.workers)
        if self.masks and len({*images.targets}) < len(images.targets):
            twice = Counter(images.targets).most_common(1)[0][0]
            cause, remedy = "names=source", "use names=keys"
            if isinstance(images, DatasetImages):
                cause, remedy = f"{images.dataset.root} has a key twice", "shard again, or copy it from its origin"
            raise UserError(f"{cause}: two images would have the mask {twice}; {remedy}")
        views = {"window": self.window} if self.masks else {"crops": trained.about["evaluate"]["crops"]}
        written = {"format": config.format, "probabilities": config.probabilities or None} if self.masks else {}
        about = {name: trained.about[name] for name in ("network", "stage", "step")}
        about |= {"weights": trained.hash, **views, **written, "data": images.about}
        if not isinstance(images, FolderImages) or config.format != DICOMSEG:
            return images, about
        identity = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        version, anonymous = f"{__version__}, weights {trained.hash}", config.names == KEYS
        return DicomImages(images, supervision.names, about["network"], version, identity, anonymous), about

    def begin(self, stack: ExitStack) -> Journal:
        """Make the folder, or go on with it. Raises UserError."""
        with rows_are_kept(self.out):
            own(self.out, KIND, "out")
            return stack.enter_context(journal(self.out, self.about))

    def parts(self, done: Mapping[str, ImageRow]) -> tuple[list[range], int]:
        """The parts that are not done, and how many images these have."""
        size, count = 1 if self.masks else self.config.batch, len(self.images.keys)
        every = [range(first, min(first + size, count)) for first in range(0, count, size)]
        left = [part for part in every if not all(self.images.keys[number] in done for number in part)]
        return left, sum(map(len, left))

    def read(self, numbers: Sequence[int]) -> Iterator[Loaded | CroppedImage | ImageRow]:
        """The images ``numbers``, ahead: as they are stored for masks, else their crops; the row of one that cannot be
        used."""
        trained = self.trained
        takes = {trained.channels, *([] if trained.about.get("channel_names") or trained.colour else [1])}
        crops = None if self.masks else trained.crops
        read = partial(read_image, self.images, trained.stored, takes, crops, trained.size)
        return read_ahead(read, numbers, self.workers, self.device)

    def part(self, part: range, read: Iterator[Loaded | CroppedImage | ImageRow]) -> list[tuple[int, ImageRow]]:
        """The rows of a part; writes its masks. Raises UserError."""
        with rows_are_kept(self.out):
            rows, waiting = list[tuple[int, ImageRow]](), list[tuple[int, CroppedImage]]()
            for number in part:
                image = next(read)
                if isinstance(image, CroppedImage):
                    waiting.append((number, image))
                else:
                    rows.append((number, image if isinstance(image, dict) else self._mask(number, image)))
            for _, alike in groupby(waiting, lambda item: item[1].crops.shape):  # of grey and colour images
                numbers, images = zip(*alike, strict=True)
                stored = torch.from_numpy(np.stack([image.crops for image in images], 1))
                limits = torch.from_numpy(np.array([(image.low, image.high) for image in images], np.float32))
                if self.device.type == "cuda":
                    stored, limits = stored.pin_memory(), limits.pin_memory()
                stored, limits = (values.to(self.device, non_blocking=True) for values in (stored, limits))
                low, high = limits.unbind(1)  # what is stored is scaled on the device
                of_crops = [self.predicted(unit_interval(crop, low, high)) for crop in stored]
                values = torch.stack(of_crops).mean(0).cpu().double().tolist()
                rows += [(number, {"values": of_image}) for number, of_image in zip(numbers, values, strict=True)]
            return rows

    def _mask(self, number: int, image: Loaded) -> ImageRow:
        """Predict and write a mask as the run's masks were evaluated, and return its row."""
        trained, geometry, name = self.trained, image.geometry, self.images.targets[number]
        size, batch, task = trained.size, self.config.batch, trained.supervision
        try:
            predicted = dense(self.predicted, image.stored, size, self.window, self.device, batch)
            restored = geometry.restored(predicted)[None]
        except DecodeError as error:
            return {"stage": "decode", "reason": str(error)}
        overlap = self.config.format == DICOMSEG
        mask = task.segments(restored).numpy()[0] if overlap else task.answers(restored, trained.chosen)[0]
        arrays = {MASKS: mask} | ({PROBABILITIES: restored.numpy()[0]} if self.config.probabilities else {})
        for folder, array in arrays.items():
            path = self.out / folder / f"{name}{geometry.suffix}"
            try:
                content = geometry.encoded(array)
            except RejectedError as error:
                return {"stage": "encode", "reason": str(error)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        return {"mask": f"{name}{geometry.suffix}"}

    def keep(self, journal: Journal | None, rows: Sequence[tuple[int, ImageRow]]) -> None:
        """Write down what is done, in the process that has the journal. Raises UserError."""
        if journal:
            with rows_are_kept(self.out):
                for number, row in rows:
                    journal.add(self.images.keys[number], row)

    def finish(self, done: dict[str, ImageRow]) -> None:
        """Write the tables and the description. Raises UserError."""
        with rows_are_kept(self.out):
            finish(self.out, self.trained, self.images, done, self.about)
