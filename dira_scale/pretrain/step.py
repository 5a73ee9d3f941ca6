"""A step of pretraining: a method's losses, with the adversary beside it, and what monitors say of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.base.errors import UserError
from dira_scale.base.machine.graphs import launch
from dira_scale.dataset.metrics.ssim import WINDOW, ssim
from dira_scale.pretrain.config import Pretrain
from dira_scale.pretrain.objective import Forward, Objective, PretrainLosses
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort import Distort, DistortVolumes, build
from dira_scale.train.data.views import Views
from dira_scale.train.distributed.collectives import rank, reduce_mean, reduce_sum, world
from dira_scale.train.distributed.config import AUTO
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim
from dira_scale.train.engine.config import depths_of
from dira_scale.train.engine.task import StagePlan
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.methods.method import Method, Terms
from dira_scale.train.models import norm
from dira_scale.train.models.dino_files import MASK_TOKEN
from dira_scale.train.models.heads import global_average

IMAGES = 512  # of the global batch at most: limits the eigenvalue problem and the table of distances


class Monitors:
    """Measures the last of a training step's ``accumulate`` micro-batches, over all processes."""

    def __init__(self, weights: Mapping[str, float], adversary: Adversary, accumulate: int = 1) -> None:
        self.weights, self.adversary, self.accumulate = weights, adversary, accumulate

    def measure(self, losses: PretrainLosses, scale: float = 1.0, gradients: bool = True) -> dict[str, Tensor]:
        """0-dim values by name, before the backward pass of ``losses``. Collective.

        Args:
            scale: fp16's loss scale, against underflow of gradients; divided out of the values.
            gradients: also measure the terms' gradient norms, which differentiates the losses once more.
        """
        outputs = losses.outputs
        measured: dict[str, Tensor] = {}
        with torch.autocast(losses.total.device.type, enabled=False):
            measured |= self._gradient_norms(losses.terms, outputs.features, scale) if gradients else {}
            with torch.no_grad():
                measured |= self._spread(outputs, outputs.features) | self._restoration(outputs)
                if "ad" in losses.terms:
                    measured["discriminator"] = self.adversary.accuracy(*losses.carried)
        return {f"health/{name}": value.detach() for name, value in measured.items()}

    def _gradient_norms(
        self, losses: Mapping[str, Tensor], features: tuple[Tensor, ...], scale: float
    ) -> dict[str, Tensor]:
        """The gradient norm of each weighted term for the global batch, however it is split over processes and
        micro-batches."""
        terms = [term for term in self.weights if features and term in losses]
        if not terms:
            return {}
        weighted = [self.weights[term] * losses[term] for term in terms]
        squares = [_squared_gradient(loss, features, scale) for loss in weighted]
        # Each of n parts averages its loss over its own images: its share of the global gradient is 1/n.
        norms = (reduce_mean(torch.stack(squares)) / (world() * self.accumulate)).sqrt()
        return {f"gradient/{term}": norm for term, norm in zip(terms, norms.unbind(), strict=True)}

    def _spread(self, terms: Terms, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Spread of features and embeddings; nothing for a single image."""
        measured: dict[str, Tensor] = {}
        pooled = [_first(global_average(view.detach().float())) for view in features[:1]]
        views = [_first(view.float()) for view in terms.embeddings]
        if pooled and len(pooled[0]) > 1:
            measured |= {"features_std": std_ratio(pooled[0]), "features_rank": effective_rank(pooled[0])}
        if views and len(views[0]) > 1:
            measured |= {"std": std_ratio(views[0]), "rank": effective_rank(views[0])}
            measured["uniformity"] = torch.stack([uniformity(view) for view in views]).mean()
            if len(views) == 2:
                measured["alignment"] = alignment(*views)
        return measured

    def _restoration(self, terms: Terms) -> dict[str, Tensor]:
        if terms.restored is None or terms.target is None:
            return {}
        # Each channel is an image of its own.
        restored, target = (part.float().flatten(0, 1)[:, None] for part in (terms.restored, terms.target))
        errors = (restored - target).square().flatten(1).mean(1)
        measured = {"psnr": -10 * errors.clamp(min=1e-10).log10()}
        if min(target.shape[2:]) >= WINDOW:
            measured["ssim"] = ssim(restored, target)
        some = errors > 0  # of views from which a mask hides nothing, and of lacking channels, there is nothing to say
        sums = [values.where(some, 0.0).sum() for values in measured.values()]
        *sums, count = reduce_sum(torch.stack([*sums, some.sum().to(errors)]))  # processes have as many as were drawn
        return {name: value / count.clamp(min=1) for name, value in zip(measured, sums, strict=True)}


def std_ratio(x: Tensor) -> Tensor:
    """Standard deviation of x / |x| over the images, averaged over dimensions, in units of 1/sqrt(dim); x is [n, dim].

    1 if directions are spread evenly, 0 if all are equal: SimSiam's monitor (Chen and He, CVPR 2021, sec. 4.1).
    """
    return F.normalize(x.float(), dim=1).std(dim=0).mean() * x.shape[1] ** 0.5


def effective_rank(x: Tensor) -> Tensor:
    """exp of the entropy of the singular values normalised by their sum, from 1 to min(n, dim); x is [n, dim].

    Roy and Vetterli (EUSIPCO 2007); RankMe (Garrido et al., ICML 2023). Not centred, as there: equal rows have rank 1.
    """
    x = x.double().nan_to_num(0.0, 0.0, 0.0)  # the NaN guard reports these; the eigenvalues would raise
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    values = gram.new_empty(len(gram))
    launch(lambda: values.copy_(torch.linalg.eigvalsh(gram)))  # the host asks whether it has found them
    singular = values.clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(x.dtype).tiny)
    return torch.special.entr(shares).sum().exp().float()


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of an image's two views, both [n, dim], on the unit sphere (Wang and Isola, ICML 2020)."""
    return (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(dim=1).mean()


def uniformity(x: Tensor) -> Tensor:
    """log of the mean of exp(-2 |x - y|^2) over pairs of images, on the unit sphere; x is [n, dim].

    0 if all are equal, down to about -4 if they fill the sphere (Wang and Isola, ICML 2020, eq. 3, t = 2).
    """
    x = F.normalize(x.float(), dim=1)
    squared = (2 - 2 * (x @ x.T)).clamp(min=0)
    pairs = torch.ones_like(squared, dtype=torch.bool).triu(diagonal=1)
    return (-2 * squared).exp().masked_fill(~pairs, 0.0).sum().div(pairs.sum().clamp(min=1)).log()


def _first(x: Tensor) -> Tensor:
    """The first IMAGES rows of all processes' ``x`` [b, dim]; no process receives more than these."""
    # The same operations for any number (slices of all rows would be none): the planner compares batches by moments.
    count = min(world() * len(x), IMAGES)
    start = min(rank() * len(x), count)
    local = min(len(x), count - start)
    rows = x.new_zeros(count, x.shape[1])
    rows.narrow(0, start, local).copy_(x.narrow(0, 0, local))
    return reduce_sum(rows)


def _squared_gradient(loss: Tensor, features: tuple[Tensor, ...], scale: float) -> Tensor:
    """|d loss / d features|^2 over all views; 0 if the loss does not depend on them."""
    if not loss.requires_grad:
        return torch.zeros_like(loss)
    gradients = torch.autograd.grad(loss * scale, features, retain_graph=True, allow_unused=True)
    squares = [(gradient.float() / scale).square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum() if squares else torch.zeros_like(loss)


def freeze_blocks(method: Method, count: int) -> None:
    """Keep the weights of the first ``count`` blocks of the encoder, and of all before them but what weights of images
    may not have: a method's mask token, positions along the depth.

    Raises UserError for more blocks than there are.
    """
    parameters = dict(method.named_parameters())
    depths, blocks = depths_of([*parameters])
    if count > blocks:
        raise UserError(f"frozen_blocks={count}: the encoder has {blocks} blocks; name as many, or fewer")
    for name, depth in depths.items():
        if count and depth <= count and not name.endswith((MASK_TOKEN, "depth_embed")):
            parameters[name].requires_grad_(False)


@dataclass(frozen=True)
class DiscriminatorTraining:
    """The adversary: it learns to distinguish clean from restored patches, after each step of the generator."""

    module: Adversary
    optimizer: Optimizer
    name: str = "discriminator"

    def loss(self, carried: tuple[Tensor, ...] | None) -> Tensor | None:
        return None if carried is None else self.module.discriminator_loss(*carried)


class Pretraining:
    """A method's step with the adversary beside it (see :class:`dira_scale.train.engine.task.StepTask`).

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
        distort: Callable[[Views], Distort | DistortVolumes] = build,
    ) -> None:
        self.config, self.module, self.optim = config, method, config.optim
        if adversary.precision == AUTO:
            adversary.precision = "bf16" if world.device.type == "cuda" and world.precision == "bf16" else "fp32"
        judge = optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
        self.side_modules = [DiscriminatorTraining(adversary, judge)]
        self.objective = Objective(
            method.weights, adversary, method.views, world, distort, method.corrupted, method.hides,
            [method.views.resized(stage.size) for stage in config.stages.values() if stage.epochs and stage.size],
        )  # fmt: skip
        self.monitors = Monitors(method.weights, adversary, config.parallel.accumulate)
        self.monitor_every = config.health.every

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        assert isinstance(module, Method)
        for part in (module, self.side_modules[0].module):
            norm.regroup(part, self.config.bn_groups(stage.batch), self.config.parallel.accumulate)
        module.enter_stage(stage.terms)
        freeze_blocks(module, self.config.frozen_blocks)
        module.steps = stage.steps
        return Forward(module)

    def losses(self, stage: StagePlan, model: nn.Module, micro: Batch) -> PretrainLosses:
        return self.objective(model, micro, stage.terms)

    def monitor(self, losses: PretrainLosses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        return self.monitors.measure(losses, scale, differentiable)

    def after_step(self, module: nn.Module) -> None:
        assert isinstance(module, Method)
        module.after_step()
