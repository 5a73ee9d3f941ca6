"""``python -m dira_scale.embed run=RUN data.shards=OUT out=FOLDER``: features of a dataset, once, as Parquet."""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "embed", "compute features of a dataset once, as Parquet",
    function="dira_scale.embed.compute:compute",
    look=("dira_scale.train.runs.complete:check_runs", "dira_scale.train.data.precheck:check_present",
          "dira_scale.train.models.precheck:check_network"),
    processes=True, output="out", in_sweeps=True, gpu=True, reads_run=True, parts=True, slices=True,
    execution=("data.workers", "threads", "timeout", "trust", "reach"),
    check="dira_scale.judge.evaluation.feature_source:check",
    results="dira_scale.judge.evaluation.embeddings:about_rows",
)  # fmt: skip

main = entry(COMMAND)
