"""A dataset of visual words: described, searched, cut and written, by the means of ``shard`` (``archive``).

Resumable, and the same bytes for any number of workers.
"""

import os
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from dira_scale import __version__
from dira_scale.archive.claim import remove_leftovers, write_dataset
from dira_scale.archive.finish import joined, publish_dataset
from dira_scale.archive.outcome import sample_counts
from dira_scale.archive.output import PARTIAL, check_output, finished
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.writer import Conversion
from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError, counted
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.device import compute_device
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.store import is_local, locate
from dira_scale.dataset.manifest import DatasetInfo, ShardedDataset
from dira_scale.judge.evaluation.encoders import LAST, levels
from dira_scale.judge.evaluation.features import Images, features
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.models.architecture import architecture, exported_architecture
from dira_scale.train.models.hub import local
from dira_scale.train.models.network import Encoder
from dira_scale.train.models.normalise import normalise_input
from dira_scale.train.models.start import start_weights
from dira_scale.train.models.weights import trained_encoder, weights_hash
from dira_scale.train.runs.reader import RunReader
from dira_scale.words.config import Words, check_dimensions
from dira_scale.words.cubes import CODECS, LABEL, WordPlan, cut, make_cube, planned_cubes
from dira_scale.words.search import SplitVolumes, open_origin, references, search, too_small

SIZE = {2: (224, 224), 3: (64, 128, 128)}  # of whole images; of whole volumes, as the authors' auto-encoder sees them


@dataclass(frozen=True)
class Describer:
    """An encoder in evaluation mode, and what it sees: ``size`` of the resized volume, and the stored values ``window``
    that become 0 and 1 (None: as the dataset has them)."""

    encoder: Encoder
    size: tuple[int, ...]
    window: Sequence[float] | None
    hash: str  # of its weights


def open_describer(words: Words) -> Describer:
    """The encoder of ``run`` or ``init``. Raises UserError naming the key, also for other dimensions than words'."""
    if words.run:
        run = RunReader(Path(words.run))
        tensors, _, _ = run.load(words.stage)
        encoder, input = trained_encoder(run.description, tensors), run.description.input
        check_dimensions(f"run={words.run}", encoder.name, encoder.dimensions, words)
        size, window = tuple(words.data.size or input.size), input.window
        if size != tuple(input.size) and encoder.fixed_size:
            only = f"{encoder.name} of the run takes {words.kind}s of {[*input.size]} only"
            raise UserError(f"data.size={[*size]}: {only}")
        digest = weights_hash(encoder)
        normalise_input(encoder, input)
        return Describer(encoder.eval(), size, window, digest)
    assert words.init is not None, "the schema checks it"
    with at("init"):
        exported = exported_architecture(local(words.init))
    model = architecture(exported) if exported else words.model
    size = tuple(words.data.size or SIZE[words.dimensions])
    check_dimensions(f"init={words.init}", model.name, model.dimensions, words)
    with at("model", {"size": "data.size"}), torch.random.fork_rng(devices=[]):
        torch.manual_seed(words.seed)
        encoder = model.build_encoder(size if words.dimensions == 3 else size[0])
    start_weights(words.init, encoder)
    return Describer(encoder.eval(), size, None, weights_hash(encoder))


def describe(
    describer: Describer, dataset: ShardedDataset, splits: tuple[SplitVolumes, SplitVolumes], words: Words, file: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Float32 [n, channels] for both splits, from ``file`` if an earlier call wrote it.

    They are kept as another number of threads may change last digits, and so which volume is nearer.
    Raises UnreadableImagesError.
    """
    train, val = splits
    if not file.exists():
        images = Images(
            dataset, np.concatenate([train.rows, val.rows]), describer.size, words.data.workers, describer.window,
            compute_device(),
        )  # fmt: skip
        layers = [*levels(LAST, describer.encoder).values()]
        _, ((values,),) = features([describer.encoder], images, layers, words.batch)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, values.astype("<f4").tobytes())
    values = np.frombuffer(file.read_bytes(), "<f4").reshape(len(train.rows) + len(val.rows), -1)
    return values[: len(train.rows)], values[len(train.rows) :]


# What decides which cubes there are, beside the encoder and the volumes.
DECISIVE = ("seed", "words", "neighbours", "size", "margin", "distance", "trials", "zoomed", "air", "shard_size")


def make(cfg: DictConfig) -> None:
    """Write the words of the dataset to ``out``; goes on with what an earlier call left.

    Raises UserError if ``out`` or the encoder is unsuitable, a volume is damaged, or too few words are there.
    """
    words: Any = OmegaConf.to_object(cfg)
    assert isinstance(words, Words)
    dataset, train, val = open_origin(words)
    console, out = Console(soft_wrap=True, highlight=False), locate(words.out, "out")
    if not is_local(out):
        raise UserError(f"out={words.out}: words are written to a folder of this machine; copy it from there")
    describer = open_describer(words)
    identity = _identity(words, dataset, describer)
    started = time.monotonic()
    try:
        written = finished(out, identity)
        if written is None:
            check_output(out, None)
            if small := too_small(dataset, train, ~references(train, words), words):
                console.print(f"warning: not every training {words.kind} can be a reference{small}", style="yellow")
            decisive = {name: identity[name] for name in ("words_of", "splits", "encoder", "seen")}
            kept = out / PARTIAL / f"descriptors-{identity_hash(decisive)[:16]}"  # until the dataset is finished
            if not kept.exists():
                console.print(f"describing {counted(len(train.rows) + len(val.rows), words.kind)}")
            descriptors = describe(describer, dataset, (train, val), words, kept)
            reader = SampleReader(Samples([dataset], words.data.split))

            def read(volume: int, corner: Any, size: Any) -> Any:
                return cut(reader, int(train.samples[volume]), (*corner, *size), size)

            discovered = search(words, train, val, descriptors, read)
            plan = WordPlan(dataset, planned_cubes(words, discovered, dataset, train, val), words.shard_size)
            cubes = partial(make_cube, shards=str(dataset.root), size=tuple(words.size))
            work = Conversion(cubes, doing="cutting words", kind="crops")
            join = partial(_finish, out, plan, words, dataset.info, identity)
            write_dataset(out, plan, identity, work, words.workers or len(os.sched_getaffinity(0)), join)
            written = ShardedDataset.open(out)
    except OSError as error:
        raise UserError(
            f"writing words to {out} failed ({error}); finished shards are kept: fix this, then run the same command "
            "again"
        ) from error
    remove_leftovers(out)
    console.print(f"{out}: {counted(words.words, 'word')}; {sample_counts(written.info)}; "
                  f"{time.monotonic() - started:.0f} s")  # fmt: skip
    console.print(f"look: python -m dira_scale.shard stats {shlex.quote(f'path={out}')}")


def _finish(
    out: Path, plan: WordPlan, words: Words, origin: DatasetInfo, identity: dict[str, Any], scratch: Path
) -> None:
    """Join the shards' states into the dataset's tables."""
    counts, sizes, checksums = Counter[str](), {}, {}
    for shard, state, rows in joined(out, plan, identity, scratch):
        sizes[shard], checksums[shard] = state.size, state.xxh3
        counts[shard.rpartition("-")[0]] += rows.num_rows
    info = DatasetInfo(
        name=f"{origin.name}_words",
        modality=origin.modality,
        dims=words.dimensions,
        codec=CODECS[words.dimensions],
        label_names=[LABEL],
        classes={LABEL: [str(number) for number in range(words.words)]},
        counts=dict(counts),
        quarantined=0,
        shards=sizes,
        checksums=checksums,
        recipe=identity,
        recipe_hash=identity_hash(identity),
        plan_hash=plan.hash,
        patients_in_two_splits=origin.patients_in_two_splits,
        licence=origin.licence,
        tool_version=__version__,
    )
    publish_dataset(out, scratch, info)


def _identity(words: Words, dataset: ShardedDataset, describer: Describer) -> dict[str, Any]:
    """Return what determines every byte: settings, volumes, descriptors; and what makes patients' hashes comparable."""
    settings = {name: value for name, value in asdict(words).items() if name in DECISIVE}
    data, origin = words.data, dataset.info.recipe
    splits = [data.split, data.val_split, *([data.fraction, data.fraction_seed] if data.fraction < 1 else [])]
    return {
        "words_of": dataset.hash,
        "recipe_hash": dataset.info.recipe_hash,
        "splits": splits,
        "encoder": describer.hash,
        "seen": [*describer.size, *(describer.window or ())],
        **settings,
        **{name: origin.get(name) for name in ("hash_key", "archive")},
        **({"lists": origin["lists"]} if dataset.info.published_lists else {}),
    }
