"""``python -m dira_scale.embed run=RUN data.shards=OUT out=FOLDER``: features of a dataset, once, as Parquet.

torch is imported inside the functions: a typing mistake is named within a second.
"""

import os
from pathlib import Path

from omegaconf import DictConfig

from dira_scale.config.compose import check_words, run_verb


def embed(cfg: DictConfig) -> int:
    """Compute what ``out`` lacks; returns the exit code."""
    from dira_scale.evaluation.embedding.compute import compute

    return compute(cfg)


def _look(cfg: DictConfig) -> None:
    if any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
        return  # what only one of several processes lacks is told when they have met: the others would wait for it
    from dira_scale.data.present import check_present
    from dira_scale.runs.complete import config_file

    if cfg.run:
        config_file(Path(cfg.run))
    check_present(cfg.data.shards)


def main(argv: list[str] | None = None) -> int:
    """The verb; each of several processes exits through here."""
    if code := check_words("embed", argv, _look):
        return code
    from dira_scale.distributed.processes import leave

    return leave(lambda: run_verb("embed", embed, argv))


if __name__ == "__main__":
    raise SystemExit(main())
