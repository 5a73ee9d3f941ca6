"""``python -m dira_scale.probe run=RUN data.shards=OUT``: frozen features against random ones and raw pixels.

One process, on a GPU if there is one.
"""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "probe", "test frozen features against random ones and raw pixels",
    function="dira_scale.probe.comparison:compare_and_show",
    look=("dira_scale.train.runs.complete:check_runs", "dira_scale.train.data.precheck:check_present",
          "dira_scale.train.models.precheck:check_network"),
    output="out", in_sweeps=True, gpu=True, reads_run=True,
    execution=("data.workers", "trust", "reach"), check="dira_scale.probe.sources:check",
    results="dira_scale.sweep.results:probing",
)  # fmt: skip

main = entry(COMMAND)
