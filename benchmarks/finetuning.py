"""`finetune` without shards, and its step in plain PyTorch: its network, losses and optimizer, nothing else.

The reference takes network, settings and images of the task that it is compared with: no NaN guard, BatchNorm groups,
accumulation, metrics rows or processes.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmarks import synthetic
from benchmarks.plain import optimizer
from dira_scale.config.compose import compose
from dira_scale.data.batch import IGNORE, Batch
from dira_scale.data.distort import Distort
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.world import World
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.task import FinetuneTask
from dira_scale.models import norm
from dira_scale.tasks.supervision import Supervision
from dira_scale.training.schedule import stage_plans

LABELS = [f"label{i}" for i in range(14)]  # as many as ChestX-ray14 has
ALONE = (
    "data.shards=none", "data.val_split=null", "data.test_split=null", "stages.finetune.epochs=1",
    "stages.finetune.patience=null", f"checkpoint.every={synthetic.NEVER}",
)  # fmt: skip


def configuration(*overrides: str) -> tuple[DictConfig, Finetune]:
    """As ``synthetic.configuration``: ``task=labels`` unless the overrides choose ``task=masks``."""
    labels = [] if "task=masks" in overrides else [f"task.labels=[{','.join(LABELS)}]"]
    composed = compose("finetune", [*ALONE, *labels, *overrides])
    config: Any = OmegaConf.to_object(composed)
    return composed, config


def network(config: Finetune, supervision: Supervision) -> nn.Module:
    """With torch's own BatchNorm, drawn from the seed."""
    torch.manual_seed(config.seed)
    return supervision.network(config.model, config.model.build_encoder(config.data.size))


def task(
    config: Finetune, world: World, supervision: Supervision, drawn: nn.Module, images: synthetic.SyntheticImages
) -> FinetuneTask:
    """Fine-tuning on ``images`` in the place of its data."""
    converted, stages = norm.convert(copy.deepcopy(drawn)), stage_plans(config, images.steps_per_epoch)
    return FinetuneTask(config, world, converted, supervision, stages, images)  # type: ignore[arg-type]


def batch(views: ViewSpec, count: int, step: int, device: torch.device) -> Batch:
    """Noise with labels and masks; a function of ``step``."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 2, (count, len(LABELS)), generator=generator).float().to(device)
    mask = torch.randint(0, 2, (count, 1, *views.sides), generator=generator, dtype=torch.int16).to(device)
    return replace(synthetic.batch(views, count, step, device), labels=labels, mask=mask)


class PlainFinetune:
    """A step on labels, or on masks of one structure.

    Args:
        drawn: whose weights are copied.
        world: of one process; the images are on its device.
    """

    def __init__(self, config: Finetune, views: ViewSpec, drawn: nn.Module, world: World) -> None:
        self.world, self.terms = world, config.stages["finetune"].terms
        self.network = copy.deepcopy(drawn).to(world.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.distort = Distort(views).to(world.device)
        self.optimizer = optimizer(config.optim.optimizer, list(self.network.parameters()))

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """One step on images that are float32 in [0, 1] on the device; its losses."""
        image = self.distort(batch.views[0], batch.distortions[0])
        with self.world.autocast():
            logits = self.network(image).float()
        losses = self.of_labels(logits, batch) if logits.dim() == 2 else self.of_masks(logits, batch)
        losses = {f"loss/{name}": losses[name] for name in self.terms}
        loss = torch.stack([*losses.values()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {name: value.detach() for name, value in (losses | {"loss": loss}).items()}

    def of_labels(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None
        return {"ce": F.binary_cross_entropy_with_logits(logits, batch.labels)}

    def of_masks(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert batch.mask is not None
        mask = self.distort.turned_mask(batch.mask[:, 0], batch.distortions[0])
        known, truth, logits = mask != IGNORE, (mask > 0).float(), logits[:, 0]
        probability, truth = torch.sigmoid(logits) * known, truth * known
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        dice = (2 * (probability * truth).sum() + 1) / ((probability + truth).sum() + 1)
        return {"dice": 1 - dice, "ce": (losses * known).sum() / known.sum()}
