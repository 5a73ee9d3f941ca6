"""``python -m dira_scale.words run=RUN data.shards=OUT out=FOLDER``: visual words of volumes or images, as a dataset.

One process, on a GPU if there is one.
"""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "words", "cut visual words out of volumes or images, as a dataset with labels",
    function="dira_scale.words.make:make",
    look=("dira_scale.train.runs.complete:check_runs", "dira_scale.train.data.precheck:check_present",
          "dira_scale.train.models.precheck:check_network"),
    output="out", in_sweeps=True, gpu=True, reads_run=True,
    parts=True, execution=("batch", "workers", "data.workers", "trust", "reach"),
    check="dira_scale.words.config:check",
)  # fmt: skip

main = entry(COMMAND)
