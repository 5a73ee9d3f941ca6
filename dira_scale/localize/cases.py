"""The boxes of a dataset that are looked for: those of a split's images, of labels that a network has learned."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig

from dira_scale.base.errors import UserError, nearest
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.judge.evaluation.config import require_finetuned
from dira_scale.train.runs.description import Description

# Of a box in the manifest: where it starts on each axis, then how far it extends.
SIDES = {2: ("y", "x", "h", "w"), 3: ("z", "y", "x", "d", "h", "w")}


@dataclass(frozen=True)
class BoxedImage:
    """An image of the split's number ``sample``; ``boxes``: for each label [k, 2 n], in pixels of the image as it is
    stored: starts, then extents."""

    sample: int
    key: str
    patient: str
    boxes: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class BoxedImages:
    """``left_out``: numbers of the split's boxes whose labels are not looked for, by label."""

    images: tuple[BoxedImage, ...]
    labels: tuple[str, ...]
    left_out: Mapping[str, int]


def cases_of(dataset: ShardedDataset, split: str, learned: Sequence[str], chosen: Sequence[str] | None) -> BoxedImages:
    """The images in the order of the manifest, the labels in the order of ``learned``, the network's labels.

    ``chosen``: those that are looked for; None: all. Raises UserError: no such split, no boxes, none of these labels,
    or a label that was not learned.
    """
    if split not in dataset.splits:
        raise UserError(f"data.split={split}: {dataset.root} has {', '.join(dataset.splits)}")
    check_labels(chosen, learned)
    table = dataset.manifest.table(["boxes"])["boxes"].to_pylist()
    by_split = {name: [table[row] or [] for row in dataset.rows(name)] for name in dataset.splits}
    of_splits = {name: Counter(box["label"] for boxes in rows for box in boxes) for name, rows in by_split.items()}
    if not (counts := of_splits[split]):
        elsewhere = ", ".join(f"'{name}' ({of.total()})" for name, of in of_splits.items() if of)
        without = "it has no boxes, with which localize compares: shard it with a file of boxes and another out "
        without += "(recipe.boxes=FILE; of ChestX-ray14 BBox_List_2017.csv beside its tables). Masks are not taken for "
        of_others = f"split '{split}' has no boxes, but {elsewhere}: choose data.split"
        raise UserError(f"data.shards={dataset.root}: {of_others if elsewhere else without + 'boxes'}")
    labels = tuple(name for name in learned if name in (chosen or learned) and counts[name])
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
    if missing := ", ".join(name for name in chosen or () if not counts[name]):
        raise UserError(f"labels: split '{split}' of {dataset.root} has no box of {missing}, but of {listed}")
    if not labels:
        raise UserError(
            f"data.shards={dataset.root}: its boxes in split '{split}' are of {listed}; the run has learned "
            f"{', '.join(learned)}: name a run that has learned one of them"
        )
    keys, patients, sides = dataset.column("key"), dataset.column("patient"), SIDES[dataset.info.dims]
    images = []
    for sample, (row, boxes) in enumerate(zip(dataset.rows(split), by_split[split], strict=True)):
        by_label = {name: [[box[side] for side in sides] for box in boxes if box["label"] == name] for name in labels}
        if arrays := {name: np.array(rows, float) for name, rows in by_label.items() if rows}:
            images.append(BoxedImage(sample, str(keys[row]), str(patients[row]), arrays))
    left_out = {name: count for name, count in sorted(counts.items()) if name not in labels}
    return BoxedImages(tuple(images), labels, left_out)


def check_labels(chosen: Collection[str] | None, learned: Sequence[str]) -> None:
    """Raise UserError for a label that was not learned."""
    if unknown := next((name for name in chosen or () if name not in learned), None):
        listed = f"{', '.join(learned)}{nearest(unknown, learned)}"
        raise UserError(f"labels: the run has not learned '{unknown}', but {listed}")


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Raise UserError as `localize` would for one of the ``runs``, by their names, that have not trained yet: it is not
    of labels, or is not to learn ``labels``."""
    for name, run in runs.items():
        require_finetuned(name, run)
        if run.network.head != "pooled" or not run.output.of_classes:
            raise UserError(not_of_labels(name, run.trained))
        if run.output.names:  # not known yet where all labels of a dataset are learned
            check_labels(cfg.labels, run.output.names)


def not_of_labels(run: str, trained: str) -> str:
    """Return why a run that is ``trained`` otherwise is refused."""
    return f"run={run} was {trained}: localize asks where labels are seen; name a run that learned labels"
