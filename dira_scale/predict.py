"""``python -m dira_scale.predict run=RUN data.shards=OUT out=FOLDER``: probabilities of labels, or masks.

One process, on a GPU if there is one. torch is imported inside the function: a typing mistake is named within a second.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import run_verb
from dira_scale.data.present import check_present
from dira_scale.errors import UserError


def predict(cfg: DictConfig) -> None:
    """Write tables or masks of a dataset's split, or of a folder's images, to ``out``."""
    if not Path(cfg.run).is_dir():
        raise UserError(f"run={cfg.run} is not a folder: name a fine-tuned run, or its export")
    if cfg.data.shards is not None:
        check_present(cfg.data.shards)
    from dira_scale.prediction.predict import predict as carry_out

    config: Any = OmegaConf.to_object(cfg)
    carry_out(config)


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("predict", predict, argv)


if __name__ == "__main__":
    raise SystemExit(main())
