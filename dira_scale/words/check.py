"""What `words` refuses without data: an encoder of images."""

from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

from dira_scale.errors import UserError
from dira_scale.runs.description import Description


def check(cfg: DictConfig, runs: Mapping[str, Description]) -> None:
    """Raises UserError for settings or a run that `words` would refuse. ``runs``: the one that it reads, by name."""
    OmegaConf.to_object(cfg)
    for name, run in runs.items():
        check_dimensions(f"run={name}", run.network.name, run.network.dimensions)


def check_dimensions(key: str, name: str, dimensions: int) -> None:
    """Raises UserError for an encoder, named by ``key``, that is not of volumes."""
    if dimensions != 3:
        raise UserError(f"{key}: {name} is an encoder of images; name one of volumes")
