"""``python -m dira_scale.predict run=RUN data.shards=OUT out=FOLDER``: probabilities of labels, numbers, or masks."""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "predict", "labels, masks or numbers of new images, by a fine-tuned run",
    function="dira_scale.predict.make:make",
    look=("dira_scale.train.runs.complete:check_folder", "dira_scale.train.data.precheck:check_present",
          "dira_scale.predict.config:require_format", "dira_scale.predict.config:check_images"),
    processes=True, output="out", in_sweeps=True, gpu=True, reads_run=True, parts=True,
    execution=("batch", "workers", "threads", "timeout", "trust", "reach"),
    check="dira_scale.predict.config:check",
)  # fmt: skip

main = entry(COMMAND)
