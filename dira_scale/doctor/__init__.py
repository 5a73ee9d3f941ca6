"""``python -m dira_scale.doctor``: what this machine has and lacks, and the launch command to use."""

from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command("doctor", "show what this machine has and lacks")


def doctor(cfg: "DictConfig") -> None:
    """Inspect the machine and print the result in the form ``cfg.show``."""
    from dira_scale.doctor.survey import survey

    survey(cfg)


main = entry(COMMAND, doctor)
