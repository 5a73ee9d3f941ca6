"""The summary at the end of a conversion: counts, what was refused and why, and the next command."""

import shlex
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from dira_scale.archive.finish import ConversionOutcome
from dira_scale.archive.sample import FILLED
from dira_scale.archive.slices import EMPTY
from dira_scale.base.config.compose import defaults
from dira_scale.base.errors import UserError, counted
from dira_scale.base.machine.console import Console
from dira_scale.dataset.epochs import longer, smaller_batch, steps_of
from dira_scale.dataset.manifest import DatasetInfo, ShardedDataset
from dira_scale.dataset.manifest.index import SIDES

REFUSED = 0.1  # share of refused images from which a conversion ends with a warning
MOST = 0.5  # share from which training on what is left is not proposed
REASONS = 10  # shown
CLASSES = 8  # of masks, named in a command
PHANTOMS = ("Phantom", "PhantomCT")  # the sources with an experiment of their own


def print_outcome(console: Console, out: Path, outcome: ConversionOutcome, seconds: float) -> None:
    """Print it all. ``next:`` is a command that works, or is left out."""
    size = sum(outcome.info.shards.values())
    console.print(
        f"{out}: {sample_counts(outcome.info)}; {size / 1e6:.1f} MB in {counted(len(outcome.info.shards), 'shard')}; "
        f"{seconds:.0f} s"
    )
    if outcome.info.split_remark:
        console.print(f"splits: as in {outcome.info.split_remark}")
    if outcome.reasons:
        console.print(f"quarantined: {outcome.info.quarantined} (by name in {outcome.rejected_names})")
        for reason, count in most_common(outcome.reasons):
            console.print(f"  {count} x {reason}")
    for warning in _warnings(outcome):
        console.print(f"warning: {warning}", style="yellow")
    if outcome.filled[0]:
        volumes, slices = outcome.filled
        console.print(f"filled in: {counted(slices, 'slice')} missing in {counted(volumes, 'volume')} "
                      f"(attribute {FILLED})")  # fmt: skip
    if outcome.absent:
        console.print(f"attributes: no sample has {', '.join(outcome.absent)}; neither table nor headers have it")
    console.print(f"look: python -m dira_scale.shard stats {shlex.quote(f'path={out}')}")
    if _refused(outcome) < MOST:
        commands = filter(None, (pretraining(out, outcome.info), finetuning(out, outcome.info)))
        for word, command in zip(("next", "or"), commands, strict=False):
            console.print(f"{word}: {command}")


def finetuning(out: Path, info: DatasetInfo) -> str:
    """The command that learns masks, else labels of yes and no, which all samples have; empty if there are none, if no
    sample is to be trained on or validated with, if values of masks are in some splits alone, or labels all alike."""
    splits = [split for split in ("train", "val", "test") if info.counts.get(split)]
    if splits[:2] != ["train", "val"]:
        return ""
    dataset = ShardedDataset.open(out)
    rows = np.arange(sum(info.counts.values()))
    labels = dataset.labels(rows)[:, [name not in info.classes for name in info.label_names]]
    if dataset.has_mask(rows).all():
        words = ["task=masks", f"preset={'volumes' if info.dims == 3 else 'images'}_small"]
        values, *others = (dataset.mask_values(dataset.rows(split))[0] for split in splits)
        if not 0 < len(values) <= CLASSES or any(other != values for other in others):
            return ""
        if len(values) > 1:
            words.append("task.classes={" + ", ".join(f"class_{value}: {value}" for value in sorted(values)) + "}")
    elif (
        info.dims == 2
        and np.isin(labels, (0, 1)).all()
        and all(np.ptp(labels[dataset.rows(split)], axis=0).any() for split in splits[:2])
    ):
        words = ["task=labels", "preset=images_small"]
    else:
        return ""
    words += [f"data.shards={out}", "init=random", f"run=out/runs/{info.name}_tuned"]
    words += [] if "test" in splits else ["data.test_split=null"]
    return f"python -m dira_scale.finetune {shlex.join(words)}"


def _refused(outcome: ConversionOutcome) -> float:
    """The share of the inputs that were refused; slices that show nothing do not count."""
    count = outcome.info.quarantined - outcome.reasons[EMPTY]
    return count / max(1, count + sum(outcome.info.counts.values()))


def _warnings(outcome: ConversionOutcome) -> Iterator[str]:
    """Yield what to check before training: many refused images, an empty split."""
    info = outcome.info
    if (refused := _refused(outcome)) > REFUSED:
        named = any("recipe." in reason for reason in outcome.reasons)
        decides = "; some name the key that decides" if named else ""
        yield f"{refused:.0%} of the inputs were refused: see the reasons above{decides}"
    for what, count in outcome.noted.items():
        yield f"{count} x {what}"
    if info.patients_in_two_splits:
        yield (f"the lists have {counted(info.patients_in_two_splits, 'patient')} in two splits: figures on val and "
               "test are then partly of patients that were trained on")  # fmt: skip
    images, batch = info.counts.get("train", 0), _settings(experiment_for(info))["data"]["batch"]
    if info.dims == 2 and 0 < images < batch:
        yield (f"{counted(images, 'image')} in the split 'train', fewer than the batch of {batch} that pretraining "
               f"takes by default; data.batch={smaller_batch(images)} only tries whether all works")  # fmt: skip
    if not images:
        yield ("no image is in the split 'train', as a patient's images are in one split: with another out and "
               "recipe.splits='{train: 1, val: 0, test: 0}' all are in train")  # fmt: skip
    if not info.counts.get("val"):
        yield "no image is in the split 'val'; set data.val_split=null, or shard with other recipe.splits"


def most_common(reasons: Counter[str]) -> list[tuple[str, int]]:
    """The ten most frequent reasons, and the count of all others if there are several."""
    most = reasons.most_common(REASONS + 1)
    if len(most) <= REASONS or len(reasons) == REASONS + 1:
        return most
    return [*most[:-1], ("other reasons", reasons.total() - sum(count for _, count in most[:-1]))]


def sample_counts(info: DatasetInfo) -> str:
    """``train 80, val 10, test 10 samples``."""
    return ", ".join(f"{split} {count}" for split, count in info.counts.items()) + " samples"


def pretraining(out: Path, info: DatasetInfo) -> str:
    """The command; empty if the images of train do not fill a batch, when it would be refused."""
    experiment = experiment_for(info)
    config, images = _settings(experiment), info.counts.get("train", 0)
    per_epoch = images // config["data"]["batch"]
    if not per_epoch:
        return ""
    planned = sum(steps_of(stage["epochs"], per_epoch) for stage in config["stages"].values())
    factor = longer(planned, config["enough_steps"])
    words = [f"experiment={experiment}", f"data.shards={out}", f"run=out/runs/{info.name}"]
    if info.in_colour or info.channels:
        words.append(f"channels={3 if info.in_colour else len(info.channels)}")
    if factor is not None:
        words.append(f"epoch_factor={factor:g}")
    if not info.counts.get("val"):
        words.append("data.val_split=null")
    if info.dims == 3:  # a volume smaller than the largest crop would be refused
        extents = config["views"].get("extents") or [config["data"]["size"]]
        *depth, height, width = map(max, zip(*extents, strict=True))
        dataset = ShardedDataset.open(out)
        smallest = [int(dataset.column(name).min()) for name in SIDES[3]]
        if any(side < edge for side, edge in zip(smallest, (*depth, *2 * [max(height, width)]), strict=True)):
            words.append("data.pad=true")
    return f"python -m dira_scale.pretrain {shlex.join(words)}"


def require_images(shards: str) -> None:
    """Raise UserError where ``doctor shards=`` names volumes; its experiments are on images."""
    dataset = ShardedDataset.open(shards)
    if dataset.info.dims == 3:
        commands = [make(Path(shards), dataset.info) for make in (pretraining, finetuning)]
        instead = next(filter(None, commands), "more are needed, as these do not fill a batch")
        raise UserError(f"shards={shards} holds volumes, and the doctor compares experiments on images; of volumes: "
                        f"{instead}")  # fmt: skip


def experiment_for(info: DatasetInfo) -> str:
    """The small one for images or volumes; phantoms have their own."""
    names = ("phantom3d", "small_dira_moco3d") if info.dims == 3 else ("phantom", "small")
    return names[0 if info.recipe["_target_"] in PHANTOMS else 1]


@cache
def _settings(experiment: str) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(defaults("pretrain", [f"experiment={experiment}"]))
    return dict(config)
