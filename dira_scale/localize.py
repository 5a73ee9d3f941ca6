"""``python -m dira_scale.localize run=RUN data.shards=OUT out=FOLDER``: boxes from Grad-CAM against a dataset's boxes.

One process, on a GPU if there is one. torch is imported inside the function: a typing mistake is named within a second.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import run_verb
from dira_scale.data.present import check_present
from dira_scale.errors import UserError
from dira_scale.metrics.libraries import require_libraries


def localize(cfg: DictConfig) -> None:
    """Write the accuracy per label, a row for each box and pictures to ``out``."""
    if not Path(cfg.run).is_dir():
        raise UserError(f"run={cfg.run} is not a folder: name a run that was fine-tuned on labels, or its export")
    check_present(cfg.data.shards)
    require_libraries()
    from dira_scale.localization.localize import localize as carry_out

    config: Any = OmegaConf.to_object(cfg)
    carry_out(config)


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("localize", localize, argv)


if __name__ == "__main__":
    raise SystemExit(main())
