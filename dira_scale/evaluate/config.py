"""The schema of ``configs/evaluate.yaml``: reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from omegaconf import DictConfig

from dira_scale.config.schema import at_least, one_of
from dira_scale.evaluation.config import SLIDING, WHOLE, LookedAt, OfRun, require_finetuned, require_masks
from dira_scale.runs.description import Description


@dataclass
class Evaluation(OfRun):
    data: LookedAt = field(default_factory=LookedAt)
    window: str | None = one_of(WHOLE, SLIDING, default=None)
    batch: int = at_least(1)


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Check ``runs``, by their names, before they have trained.

    Raises UserError for one that is not fine-tuned, or has no masks to look at through ``window``.
    """
    for name, run in runs.items():
        require_finetuned(name, run)
        require_masks(cfg.window, run.network.head == "pooled", ", ".join(run.output.names) or "labels")
