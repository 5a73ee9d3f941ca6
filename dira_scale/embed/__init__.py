"""``python -m dira_scale.embed run=RUN data.shards=OUT out=FOLDER``: features of a dataset, once, as Parquet."""

from pathlib import Path
from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "embed", "compute features of a dataset once, as Parquet", output="out", in_sweeps=True, gpu=True, reads_run=True,
    parts=True, execution=("data.workers", "threads", "timeout", "trust", "reach"),
    check="dira_scale.evaluation.feature_source:check", results="dira_scale.evaluation.embeddings:about_rows",
)  # fmt: skip


def embed(cfg: "DictConfig") -> int:
    """Compute what ``out`` lacks; return the exit code."""
    from dira_scale.embed.compute import compute

    return compute(cfg)


def _look(cfg: "DictConfig") -> None:
    from dira_scale.data.present import check_present
    from dira_scale.runs.complete import config_file

    if cfg.run:
        config_file(Path(cfg.run))
    check_present(cfg.data.shards)


main = entry(COMMAND, embed, _look)
