"""``python -m dira_scale.probe run=RUN data.shards=OUT``: frozen features against random ones and raw pixels.

One process, on a GPU if there is one.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "probe", "test frozen features against random ones and raw pixels", output="out", in_sweeps=True, gpu=True,
    reads_run=True, execution=("data.workers", "trust", "reach"), check="dira_scale.probe.sources:check",
    results="dira_scale.sweep.results:probing", headline="auc/.*/mean$|r2/",
)  # fmt: skip


def probe(cfg: "DictConfig") -> None:
    """Print the table; write ``probe.json`` and ``probe.md`` to ``out``."""
    from dira_scale.data.present import check_present
    from dira_scale.runs.complete import config_file

    for run in [cfg.run] if isinstance(cfg.run, str) else cfg.run or []:
        config_file(Path(run))
    if cfg.data.shards is not None:
        check_present(cfg.data.shards)
    from dira_scale.probe.comparison import compare_and_show

    compare_and_show(cfg)


main = entry(COMMAND, probe)
