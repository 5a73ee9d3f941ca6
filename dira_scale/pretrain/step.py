"""A step of pretraining: a method's losses, with the adversary beside it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.data.batch import Batch
from dira_scale.data.distort import Distort, DistortVolumes, build
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.world import World
from dira_scale.engine import optim
from dira_scale.engine.task import StagePlan
from dira_scale.methods.adversary import Adversary
from dira_scale.methods.method import Method
from dira_scale.models import norm
from dira_scale.pretrain.config import Pretrain
from dira_scale.pretrain.monitors import Monitors
from dira_scale.pretrain.objective import Forward, Objective, PretrainLosses


@dataclass(frozen=True)
class DiscriminatorTraining:
    """The adversary: it learns to distinguish clean from restored patches, after each step of the generator."""

    module: Adversary
    optimizer: Optimizer
    name: str = "discriminator"

    def loss(self, carried: tuple[Tensor, ...] | None) -> Tensor | None:
        return None if carried is None else self.module.discriminator_loss(*carried)


class Pretraining:
    """A method's step with the adversary beside it (see :class:`dira_scale.engine.task.StepTask`).

    Args:
        method: unsharded, on the CPU.
        adversary: on the device.
        distort: makes the module that distorts the views.
    """

    def __init__(
        self,
        config: Pretrain,
        world: World,
        method: Method,
        adversary: Adversary,
        distort: Callable[[ViewSpec], Distort | DistortVolumes] = build,
    ) -> None:
        self.config, self.module, self.optim = config, method, config.optim
        judge = optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
        self.side_modules = [DiscriminatorTraining(adversary, judge)]
        self.objective = Objective(method.weights, adversary, method.views, world, distort, method.corrupted)
        self.monitors = Monitors(method.weights, adversary, config.parallel.accumulate)
        self.monitor_every = config.health.every

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        assert isinstance(module, Method)
        for part in (module, self.side_modules[0].module):
            norm.regroup(part, self.config.bn_groups(stage.batch), self.config.parallel.accumulate)
        module.enter_stage(stage.terms)
        return Forward(module)

    def losses(self, stage: StagePlan, model: nn.Module, micro: Batch) -> PretrainLosses:
        return self.objective(model, micro, stage.terms)

    def monitor(self, losses: PretrainLosses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        return self.monitors.measure(losses, scale, differentiable)

    def after_step(self, module: nn.Module) -> None:
        assert isinstance(module, Method)
        module.after_step()
