"""``python -m dira_scale.evaluate run=RUN data.shards=OTHER out=FOLDER``: figures of a fine-tuned run on any dataset.

One process, on a GPU if there is one.
"""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "evaluate", "figures of a fine-tuned run on any labelled dataset",
    function="dira_scale.evaluate.make:make",
    look=("dira_scale.train.runs.complete:check_folder", "dira_scale.train.data.precheck:check_present",
          "dira_scale.dataset.metrics.libraries:require_libraries"),
    output="out", in_sweeps=True, gpu=True, reads_run=True,
    execution=("batch", "data.workers", "trust", "reach"), check="dira_scale.judge.evaluation.config:check",
    results="dira_scale.judge.evaluation.results:evaluated",
    compare="dira_scale.judge.evaluation.comparison:compared_evaluations",
)  # fmt: skip

main = entry(COMMAND)
