"""What `localize` refuses of a run that has not trained yet, by its description."""

from collections.abc import Mapping

from omegaconf import DictConfig

from dira_scale.errors import UserError
from dira_scale.evaluation.config import require_finetuned
from dira_scale.localize.cases import check_labels
from dira_scale.runs.description import Description


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Raises UserError for a run that is not of labels, or has not learned ``labels``; as `localize` would.

    ``runs``: the one that it reads, by its name.
    """
    for name, run in runs.items():
        require_finetuned(name, run)
        if run.network.head != "pooled" or run.output.activation is None:
            raise UserError(not_of_labels(name, run.trained))
        if run.output.names:  # not known yet where all labels of a dataset are learned
            check_labels(cfg.labels, run.output.names, "the run")


def not_of_labels(run: str, trained: str) -> str:
    """Why a run that is ``trained`` otherwise is refused."""
    return f"run={run} was {trained}: localize asks where labels are seen; name a run that learned labels"
