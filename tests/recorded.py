"""What a made-up run's folder says of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from dira_scale.finetune import description as finetune
from dira_scale.pretrain import description as pretrain
from dira_scale.train.runs.description import FILE, Description


def derived(command: str, config: Mapping[str, Any]) -> Description:
    """What ``command`` says of a run of this resolved configuration."""
    return {"pretrain": pretrain, "finetune": finetune}[command].describe(config)


def record(run: Path, config: DictConfig | dict[str, Any], command: str = "pretrain") -> None:
    """Write the configuration, and the description that ``command`` makes of it."""
    content: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    (run / FILE).write_text(derived(command, content).to_json())
