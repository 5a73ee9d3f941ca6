"""``python -m dira_scale.finetune task=labels data.shards=OUT init=out/runs/demo run=out/runs/tuned``"""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "finetune", "train on labels, masks or numbers, from pretrained weights",
    look=("dira_scale.dataset.metrics.libraries:require_libraries", "dira_scale.train.data.precheck:check_present",
          "dira_scale.train.models.precheck:check_network"),
    processes=True, output="run", in_sweeps=True, gpu=True,
    execution=("run", "trust", "reach", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch",
               "data.loader", "data.helper", "data.cache", "data.cache_size", "watchdog", "tracker", "profile",
               "enough_steps"),
    blueprint="dira_scale.finetune.blueprint:FinetuneBlueprint", described=("stages", "model", "data.size", "task"),
    results="dira_scale.judge.evaluation.results:evaluated", compare="dira_scale.judge.evaluation.comparison:compared",
)  # fmt: skip

main = entry(COMMAND)
