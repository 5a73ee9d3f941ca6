"""A run folder as others find it: its configuration, and the checkpoint of a stage. No GPU, no process group."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from dira_scale.errors import UserError, nearest
from dira_scale.runs import checkpoint

LATEST = "latest"  # the value of ``stage`` for the newest checkpoint instead of a best one


@dataclass(frozen=True)
class Trained:
    """A run folder and its resolved configuration."""

    folder: Path
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Trained":
        """Raises ``UserError`` where ``folder`` is no run's."""
        path = folder / "config.yaml"
        if not path.is_file():
            raise UserError(f"run={folder}: no run folder there, {path.name} is missing; give one that pretrain wrote")
        return cls(folder, yaml.safe_load(path.read_text()))

    @property
    def stages(self) -> dict[str, Any]:
        """The stages that the run trains, in their order."""
        return {name: node for name, node in self.config["stages"].items() if node["epochs"] > 0}

    def load(self, stage: str | None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        """Tensors and state of the best checkpoint of ``stage``, and the stage that it is of.

        ``stage``: None is the last one that has a best checkpoint, ``latest`` the newest checkpoint.

        Raises ``UserError`` where there is no such stage or checkpoint, or it is damaged.
        """
        tensors, state = checkpoint.load(self._checkpoint(stage))
        return tensors, state, list(self.stages)[min(state["stage"], len(self.stages) - 1)]

    def _checkpoint(self, stage: str | None) -> Path:
        if stage == LATEST:
            return checkpoint.latest(self.folder)
        if stage is not None and stage not in self.stages:
            have = f"{', '.join(self.stages)}{nearest(stage, [*self.stages, LATEST])}"
            raise UserError(f"stage={stage}: {self.folder} has {have}")
        best = checkpoint.stages_with_best(self.folder)
        if stage is None and not best:
            raise UserError(f"run={self.folder}: no stage has a best checkpoint yet; stage={LATEST} takes the newest")
        return checkpoint.best(self.folder, stage or best[-1])


def start_tensors(path: Path) -> dict[str, Tensor] | None:
    """What ``model.weights`` names where it is a run folder: the best weights of the last stage that has such, else the
    newest. None where it is no folder."""
    if not path.is_dir():
        return None
    stages = checkpoint.stages_with_best(path)
    return checkpoint.load(checkpoint.best(path, stages[-1]) if stages else checkpoint.latest(path))[0]
