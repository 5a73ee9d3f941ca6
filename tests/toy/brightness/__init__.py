"""``python -m dira_scale.brightness data.shards=OUT run=RUN``: a command of its own that trains, as small as one can be
(test_new_command.py): an encoder learns how bright an image was before its view was distorted."""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "brightness", "learn how bright images are", output="run", in_sweeps=True, gpu=True,
    look=("dira_scale.train.data.precheck:check_present",), processes=True,
    execution=("run", "parallel", "log_every", "checkpoint", "data.workers", "watchdog", "tracker", "profile"),
    blueprint="dira_scale.brightness.blueprint:BrightnessBlueprint", described=("stages", "model", "data.size"),
    results="dira_scale.sweep.results:training",
)  # fmt: skip

main = entry(COMMAND)
