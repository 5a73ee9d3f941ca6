"""Lines for users of a fine-tuning run: before it begins, and at its end."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from dira_scale.finetune.config import Finetune, nevertheless
from dira_scale.judge.tasks.task import Supervision
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.inputs import Inputs
from dira_scale.train.models.network import Network
from dira_scale.train.runs.description import Best
from dira_scale.train.runs.files import read_rows
from dira_scale.train.schedule import LEAST, still_falling

AXES = {  # of volumes as they are stored, counted from the last; images are mirrored along the last alone
    "left": -1, "right": -1,
    "anterior": -2, "posterior": -2, "front": -2, "back": -2, "ventral": -2, "dorsal": -2,
    "superior": -3, "inferior": -3, "upper": -3, "lower": -3,
}  # fmt: skip


def told_apart_by_side(outputs: Sequence[str], views: ViewSpec) -> list[str]:
    """A line if classes are called after sides of an axis that ``views.flip`` mirrors: masks and labels do not change
    their names with it, and the network cannot tell these classes apart."""
    mirrored = views.entries[0].flips
    flips, found = [*mirrored], list[str]()
    for output in outputs:
        axes = {AXES[word] for word in re.findall("[a-z]+", output.lower()) if word in AXES}
        for axis in (axis for axis in axes if -axis <= len(flips) and mirrored[axis]):
            flips[axis] = 0.0
            found.append(output)
    if not found:
        return []
    shown = "0" if not any(flips) else f"[{','.join(f'{p:g}' for p in flips)}]"
    return [
        f"mirrored: views.flip makes alike what {' and '.join(dict.fromkeys(found))} tell apart: use views.flip={shown}"
    ]


def without_figure(config: Finetune, data: Inputs, supervision: Supervision) -> list[str]:
    """Return a line if the test split cannot have the figure by which checkpoints are compared."""
    split = config.data.test_split
    why = "" if split is None else supervision.unscored(data, split)
    return [f"data.test_split={split}: {why}, so there will be no figure over all labels"] if why else []


def learned_share(network: nn.Module) -> str:
    """Say how many parameters are left to learn."""
    every = sum(p.numel() for p in network.parameters())
    learned = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return f"{learned:,} of {every:,} parameters are learned"


def frozen_lines(config: Finetune, network: Network) -> list[str]:
    """Say what keeps its weights, whether these are random ones, and how many parameters are left to learn."""
    parts = [part for part in network.frozen if [*getattr(network, part).parameters()]]
    if not parts:
        return []
    random = [part for part in parts if not any(name.startswith(part) for name in network.settled)]
    which = "" if random == parts else f" the {' and '.join(random)}"
    weights = f",{which} of random weights" if random else ""
    but = nevertheless(config.trained, config.lora.rank)
    return [f"frozen: {' and '.join(parts)}{but}{weights}; {learned_share(network)}"]


def ended_early(config: Finetune, row: Mapping[str, Any], unit: str, steps: int, best: Best | None) -> list[str]:
    """Return a line if the training loss still falls at the last of the stage's ``steps``, whose metrics are ``row``.

    ``best``: the figure of validation, which has not risen since: then there is none; None: nothing is validated.
    """
    rows, losses = logged(config, unit)
    if not (fall := still_falling([*losses, row["loss"]])):
        return []
    if best is not None:
        metric, sign = best.compared, 1 if best.direction == "max" else -1
        validated = [row for row in rows if row["split"] == "val" and not math.isnan(row.get(metric, math.nan))]
        highest = max(validated, key=lambda row: (sign * row[metric], -row["step"]), default=None)
        if highest and highest["step"] <= validated[-1]["step"] - steps / 3:  # flat for the last third
            return []
    return [
        f"the training loss still falls, by {fall:.0%} over the last third of the steps: train longer "
        f"(epoch_factor={2 * config.epoch_factor:g}), or at a higher rate"
    ]


def settled(config: Finetune, unit: str) -> list[str]:
    """Return a line if the training loss fell no more over the last third of the steps, with its mean there."""
    _, losses = logged(config, unit)
    if len(losses) < 3 * LEAST or still_falling(losses):
        return []
    last = fmean(losses[-(len(losses) // 3) :])
    return [f"the training loss no longer falls clearly: it is {last:.4g} on average over the last third of the steps"]


def logged(config: Finetune, unit: str) -> tuple[list[dict[str, Any]], list[float]]:
    """Return the rows of metrics so far, and the training losses among them."""
    rows, _ = read_rows(Path(config.run) / "metrics.jsonl", f"{unit}_per_second")
    return rows, [row["loss"] for row in rows if row["split"] == "train"]
