"""Distribution of a task's module over the processes: replicated or sharded."""

from dira_scale.train.engine.parallel.compiled import take_uncompiled
from dira_scale.train.engine.parallel.mesh import share, with_shard
from dira_scale.train.engine.parallel.model import GradientMeans, StageModel
from dira_scale.train.engine.parallel.recompute import blocks, checkpoint_activations, groups
from dira_scale.train.engine.parallel.strategy import Strategy, build
from dira_scale.train.engine.parallel.zero import refuse_layerwise
from dira_scale.train.models.cut import built

__all__ = [
    "GradientMeans",
    "StageModel",
    "Strategy",
    "blocks",
    "build",
    "built",
    "checkpoint_activations",
    "groups",
    "refuse_layerwise",
    "share",
    "take_uncompiled",
    "with_shard",
]
