"""What `probe` refuses of a run that has not trained yet, by its description."""

from collections.abc import Mapping

from omegaconf import DictConfig

from dira_scale.evaluation.encoders import levels
from dira_scale.evaluation.fakes import fake_encoder
from dira_scale.probe.sources import compared_network
from dira_scale.runs.description import Description
from dira_scale.runs.reader import check_stage


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Look at stage, encoder, size and levels. ``runs``: those that it reads, by their names.

    Raises UserError as `probe` would.
    """
    if cfg.embeddings is not None:
        return  # are read when they are there
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
    model, size = compared_network(cfg, [*runs.values()])
    levels(cfg.layer, fake_encoder(vars(model), size))
