"""``python -m dira_scale.toy number=N out=FOLDER``: a command of its own, as small as one can be
(test_new_command.py)."""

from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "toy", "the square of a number", output="out", in_sweeps=True, execution=("workers",),
    check="dira_scale.toy.work:check", results="dira_scale.toy.work:results", headline="square",
)  # fmt: skip


def toy(cfg: "DictConfig") -> None:
    """Write the square of ``number``."""
    from dira_scale.toy.work import write_square

    write_square(cfg)


main = entry(COMMAND, toy)
