"""``python -m dira_scale.brightness data.shards=OUT run=RUN``: a command of its own that trains, as small as one can be
(test_new_command.py): an encoder learns how bright an image was before its view was distorted."""

from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "brightness", "learn how bright images are", output="run", in_sweeps=True, gpu=True,
    execution=("run", "parallel", "log_every", "checkpoint", "data.workers", "watchdog", "tracker", "profile"),
    blueprint="dira_scale.brightness.blueprint:BrightnessBlueprint", described=("stages", "model", "data.size"),
    results="dira_scale.sweep.results:training", headline="[^/]*/train/loss",
)  # fmt: skip


def brightness(cfg: "DictConfig") -> int:
    """Train as configured, resuming from the run folder's state; return the exit code."""
    from dira_scale.brightness.blueprint import BrightnessBlueprint

    from dira_scale.training.trainer import Trainer

    return Trainer(BrightnessBlueprint(cfg)).run()


main = entry(COMMAND, brightness)
