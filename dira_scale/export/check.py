"""What `export` refuses of a run that has not trained yet, by its description."""

from collections.abc import Mapping

from omegaconf import DictConfig

from dira_scale.evaluation.fakes import fake_encoder
from dira_scale.export import formats
from dira_scale.runs.description import Description
from dira_scale.runs.reader import LATEST, check_stage


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Look at stage and formats. Raises UserError as `export` would."""
    for name, run in runs.items():
        check_stage(cfg.stage, run, name)
        decoder = run.trains_decoder(None if cfg.stage == LATEST else cfg.stage)
        encoder = fake_encoder(run.network.architecture, run.input.sides)
        for format in [cfg.formats] if isinstance(cfg.formats, str) else cfg.formats or []:
            formats.check(format, encoder, decoder, run.network.head == "pooled")
