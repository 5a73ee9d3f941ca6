"""``python -m dira_scale.export run=RUN``: a run's weights as files for other libraries, with a model card.

Needs no GPU.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "export", "write weights that plain timm and smp load", output="out", in_sweeps=True, reads_run=True,
    check="dira_scale.export.make:check",
)  # fmt: skip


def export(cfg: "DictConfig") -> None:
    """Write the files of ``formats`` and the card ``README.md`` to ``out``; remove other formats' files there."""
    from dira_scale.runs.complete import config_file

    config_file(Path(cfg.run))
    from dira_scale.export.make import make

    make(cfg)


main = entry(COMMAND, export)
