"""What a made-up run's folder says of the run."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from dira_scale.runs.description import FILE, derived


def record(run: Path, config: DictConfig | dict[str, Any], verb: str = "pretrain") -> None:
    """Write the configuration, and the description that the task of ``verb`` makes of it."""
    content: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    (run / FILE).write_text(derived(verb, content).to_json())
