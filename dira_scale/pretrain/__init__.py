"""``python -m dira_scale.pretrain experiment=phantom data.shards=OUT run=out/runs/demo``"""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "pretrain", "self-supervised pretraining",
    look=("dira_scale.train.data.precheck:check_present", "dira_scale.train.models.precheck:check_network"),
    processes=True, output="run", in_sweeps=True, gpu=True,
    execution=("run", "trust", "reach", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch",
               "data.loader", "data.helper", "data.cache", "data.cache_size", "validate.pictures",
               "validate.restored", "health", "watchdog", "tracker", "profile", "enough_steps"),
    blueprint="dira_scale.pretrain.blueprint:PretrainBlueprint", described=("stages", "model", "data.size"),
    results="dira_scale.sweep.results:training",
)  # fmt: skip

main = entry(COMMAND)
