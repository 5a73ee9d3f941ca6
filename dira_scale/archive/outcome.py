"""What a conversion tells at its end: counts, what was refused and why, and the command to go on with."""

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dira_scale.archive.finish import Outcome
from dira_scale.archive.following import batch_of, experiment_for, pretraining
from dira_scale.archive.sample import FILLED
from dira_scale.archive.slices import EMPTY
from dira_scale.data.epochs import smaller_batch
from dira_scale.data.manifest import DatasetInfo
from dira_scale.errors import counted
from dira_scale.machine.console import Console

REFUSED = 0.1  # share of refused images from which a conversion ends with a warning
MOST = 0.5  # share from which training on what is left is not proposed
REASONS = 10  # shown


def print_outcome(console: Console, out: Path, outcome: Outcome, seconds: float) -> None:
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
    if _refused(outcome) < MOST and (command := pretraining(out, outcome.info)):
        console.print(f"next: {command}")


def _refused(outcome: Outcome) -> float:
    """The share of the inputs that were refused; slices that show nothing do not count."""
    count = outcome.info.quarantined - outcome.reasons[EMPTY]
    return count / max(1, count + sum(outcome.info.counts.values()))


def _warnings(outcome: Outcome) -> Iterator[str]:
    """What should be looked at before training: many refused images, an empty split."""
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
    images, batch = info.counts.get("train", 0), batch_of(experiment_for(info))
    if info.dims == 2 and 0 < images < batch:
        yield (f"{counted(images, 'image')} in the split 'train', fewer than a batch of {batch}: too few to learn "
               f"from; data.batch={smaller_batch(images)} only tries whether all works")  # fmt: skip
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
