"""``python -m dira_scale.predict run=RUN data.shards=OUT out=FOLDER``: probabilities of labels, numbers, or masks.

One process, on a GPU if there is one.
"""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "predict", "labels, masks or numbers of new images, by a fine-tuned run",
    function="dira_scale.predict.make:make",
    look=("dira_scale.runs.complete:check_folder", "dira_scale.data.present:check_present"),
    output="out", gpu=True, reads_run=True, execution=("batch", "workers", "trust", "reach"),
)  # fmt: skip

main = entry(COMMAND)
