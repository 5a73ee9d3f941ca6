"""Warnings drawn from a run's own figures: lines for its terminal and its page."""

import math
from collections.abc import Sequence
from typing import Any

# Evenly spread embeddings have a std ratio of 1 and an effective rank of tens. The small experiments fell to 0.15 and 4
# at worst, in their first few hundred steps. Collapse ends near 0 (one embedding for all) or, where a final BatchNorm
# prevents that, near rank 1 (a line): SimSiam at too high a rate kept 0.5, with a rank from 2.5 down to 1.9.
COLLAPSED_STD, COLLAPSED_RANK = 0.1, 2.5
# Untrained networks map all radiographs to nearly one embedding, so the first tenth of a stage is not judged.
SETTLED = 0.1
# Bases that learn leave chance within the first epochs, if these have enough steps: `small` was at chance for all of
# 190 steps on 273 phantoms. Twice chance is beyond noise.
ENOUGH_STEPS, ABOVE_CHANCE = 500, 2.0
# Shares of images, in words.
RECOGNISED = {"top1": "other view is found", "accuracy": "class is right"}


def no_better_than_mean(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each stage in the ``rows`` of ``restoration.json`` that restores no better than by grey."""
    errors = {(row["stage"], row["restorer"]): row["mse"] for row in rows}
    return [
        f"stage {stage}: restored images have an error of {error:.4f}, and each one's own mean has {mean:.4f}: nothing "
        "of their content is restored: train longer, or at another rate"
        for (stage, restorer), error in errors.items()
        if restorer == "restored" and (mean := errors.get((stage, "mean"))) is not None and error >= mean
    ]


def worse_features(rows: Sequence[dict[str, Any]], held_out: float) -> dict[str, str]:
    """Return a line by stage, of each that ends with worse features than it began with.

    Worse: of the held-out images, fewer have their other view found (their class right) than at the end of the stage
    before, by more than two standard errors of the difference.

    Args:
        rows: of ``metrics.jsonl``.
        held_out: number of held-out images; 0 or infinite if unknown: then nothing can be said.
    """
    lines: dict[str, str] = {}
    if not 0 < held_out < math.inf:
        return lines
    for name in RECOGNISED:
        ends = {row["stage"]: row[name] for row in rows if row["split"] == "val" and row.get(name) is not None}
        for (before, began), (stage, ended) in zip(ends.items(), [*ends.items()][1:], strict=False):
            if began - ended > 2 * math.sqrt((began * (1 - began) + ended * (1 - ended)) / held_out):
                lines[stage] = (
                    f"stage {stage} ends with worse features than it began with: the {RECOGNISED[name]} for "
                    f"{100 * ended:.0f} % of the held-out images, after stage {before} for {100 * began:.0f} %: export "
                    f"stage={before}, or train with optim.span=run or a lower rate"
                )
    return lines
