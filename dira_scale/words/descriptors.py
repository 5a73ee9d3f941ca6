"""Descriptors of volumes: the mean over space of an encoder's last map."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.evaluation.encoders import LAST, levels
from dira_scale.evaluation.feature_source import weights_hash
from dira_scale.evaluation.features import Images, features
from dira_scale.machine.device import compute_device
from dira_scale.models.architecture import architecture, exported_architecture
from dira_scale.models.network import Encoder
from dira_scale.models.normalise import normalise_input
from dira_scale.models.start import start_weights
from dira_scale.models.weights import trained_encoder
from dira_scale.runs.reader import RunReader
from dira_scale.storage.atomic import write_atomic
from dira_scale.words.config import Words, check_dimensions
from dira_scale.words.origin import Volumes

SIZE = (64, 128, 128)  # of whole volumes, as the authors' auto-encoder sees them


@dataclass(frozen=True)
class Describer:
    """An encoder in evaluation mode, and what it sees: ``size`` of the resized volume, and the stored values ``window``
    that become 0 and 1 (None: as the dataset has them)."""

    encoder: Encoder
    size: tuple[int, ...]
    window: Sequence[float] | None
    hash: str  # of its weights

    @property
    def seen(self) -> list[float]:
        """Size and window."""
        return [*self.size, *(self.window or ())]


def open_describer(words: Words) -> Describer:
    """The encoder of ``run`` or ``init``. Raises UserError naming the key, also for an encoder of images."""
    if words.run:
        run = RunReader(Path(words.run))
        tensors, _, _ = run.load(words.stage)
        encoder, input = trained_encoder(run.description, tensors), run.description.input
        check_dimensions(f"run={words.run}", encoder.name, encoder.dimensions)
        size, window = tuple(words.data.size or input.size), input.window
        if size != tuple(input.size) and encoder.fixed_size:
            raise UserError(f"data.size={[*size]}: {encoder.name} of the run takes volumes of {[*input.size]} only")
        seen = weights_hash(encoder)
        normalise_input(encoder, input)
        return Describer(encoder.eval(), size, window, seen)
    assert words.init is not None, "the schema checks it"
    exported = exported_architecture(Path(words.init))
    model = architecture(exported) if exported else words.model
    size = tuple(words.data.size or SIZE)
    check_dimensions(f"init={words.init}", model.name, model.dimensions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(words.seed)
        encoder = model.build_encoder(size)
    start_weights(words.init, encoder)
    return Describer(encoder.eval(), size, None, weights_hash(encoder))


def describe(
    describer: Describer, dataset: ShardedDataset, splits: tuple[Volumes, Volumes], words: Words, kept: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Float32 [n, channels] for both splits, from the file ``kept`` if an earlier call wrote it.

    They are kept as another number of threads may change last digits, and so which volume is nearer.
    Raises UnreadableImagesError.
    """
    train, val = splits
    if not kept.exists():
        images = Images(
            dataset, np.concatenate([train.rows, val.rows]), describer.size, words.data.workers, describer.window,
            compute_device(),
        )  # fmt: skip
        layers = [*levels(LAST, describer.encoder).values()]
        _, ((values,),) = features([describer.encoder], images, layers, words.batch)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, values.astype("<f4").tobytes())
    every = np.frombuffer(kept.read_bytes(), "<f4").reshape(len(train.rows) + len(val.rows), -1)
    return every[: len(train.rows)], every[len(train.rows) :]
