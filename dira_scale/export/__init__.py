"""``python -m dira_scale.export run=RUN``: a run's weights as files for other libraries, with a model card.

Needs no GPU.
"""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "export", "write weights that plain timm and smp load",
    function="dira_scale.export.make:make",
    look=("dira_scale.train.runs.complete:check_runs",),
    output="out", in_sweeps=True, reads_run=True, check="dira_scale.export.make:check",
)  # fmt: skip

main = entry(COMMAND)
