"""What `embed` refuses of a run that has not trained yet, by its description."""

from collections.abc import Mapping

from omegaconf import DictConfig

from dira_scale.evaluation.encoders import levels
from dira_scale.evaluation.fakes import fake_encoder
from dira_scale.evaluation.feature_source import architecture_of, asked_input
from dira_scale.runs.description import Description
from dira_scale.runs.reader import check_stage


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Look at stage, size, encoder and level. Raises UserError as `embed` would."""
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
    read = next(iter(runs.values()), None)
    input = asked_input(cfg, read)
    model, sides = (read.network.architecture, read.input.sides) if read else (vars(architecture_of(cfg)), input.sides)
    levels(cfg.layer, fake_encoder(model, sides))
