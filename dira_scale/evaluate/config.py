"""The schema of ``configs/evaluate.yaml``: reading it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig

from dira_scale.config.schema import Schema, at_least, one_of, path_field, paths_field
from dira_scale.evaluation.config import SLIDING, WHOLE, require_finetuned, require_masks
from dira_scale.runs.description import Description


@dataclass
class EvaluationData(Schema):
    shards: str = path_field()
    split: str = MISSING
    workers: int | None = at_least(1, None)


@dataclass
class Evaluation(Schema):
    run: str = path_field()
    trust: list[str] = MISSING
    reach: Any = paths_field()
    out: str = path_field()
    data: EvaluationData = field(default_factory=EvaluationData)
    window: str | None = one_of(WHOLE, SLIDING, default=None)
    batch: int = at_least(1)


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Check ``runs``, by their names, before they have trained.

    Raises UserError for one that is not fine-tuned, or has no masks to look at through ``window``.
    """
    for name, run in runs.items():
        require_finetuned(name, run)
        require_masks(cfg.window, run.network.head == "pooled", ", ".join(run.output.names) or "labels")
