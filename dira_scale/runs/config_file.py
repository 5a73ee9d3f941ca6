"""What makes a folder a run, asked before torch is imported, which takes seconds."""

from pathlib import Path

from dira_scale.errors import UserError


def config_file(folder: Path) -> Path:
    """The configuration of the run in ``folder``. Raises UserError if there is no run."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"run={folder} is not a run folder: {path.name} is missing; name one that pretrain wrote")
    return path
