"""What `evaluate` refuses of a run that has not trained yet, by its description."""

from collections.abc import Mapping

from omegaconf import DictConfig

from dira_scale.evaluation.config import require_finetuned, require_masks
from dira_scale.runs.description import Description


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Raises UserError for a run that is not fine-tuned, or has no masks to look at through ``window``.

    ``runs``: the one that it reads, by its name.
    """
    for name, run in runs.items():
        require_finetuned(name, run)
        require_masks(cfg.window, run.network.head == "pooled", ", ".join(run.output.names) or "labels")
