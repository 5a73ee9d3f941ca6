"""``python -m dira_scale.localize run=RUN data.shards=OUT out=FOLDER``: boxes from Grad-CAM against a dataset's boxes.

One process, on a GPU if there is one.
"""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "localize", "boxes of labels by Grad-CAM, and their accuracy",
    function="dira_scale.localize.make:make",
    look=("dira_scale.train.runs.complete:check_folder", "dira_scale.train.data.precheck:check_present",
          "dira_scale.dataset.metrics.libraries:require_libraries"),
    output="out", in_sweeps=True, gpu=True, reads_run=True,
    parts=True, execution=("data.workers", "trust", "reach"), check="dira_scale.localize.cases:check",
    results="dira_scale.localize.results:localizing", compare="dira_scale.localize.results:compared",
)  # fmt: skip

main = entry(COMMAND)
