"""Distillation of one teacher in plain PyTorch, convolutional networks both: the reference for our loop.

It takes weights, settings and images of the method that it is compared with, as benchmarks/plain.py.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain import optimizer
from dira_scale.pretrain.config import Pretrain
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort import Distort
from dira_scale.train.distributed.precision import choose
from dira_scale.train.methods.distil import Distil
from dira_scale.train.models.teacher import teachers_in


class PlainDistil:
    """A step: the teacher's pass, the student's, two projectors, two losses, one optimizer.

    Args:
        method: whose weights are copied; of images, its teacher sees views as large as the student's.
        device: where the images are.
    """

    def __init__(self, config: Pretrain, method: Distil, device: torch.device) -> None:
        self.weights, self.precision, self.device = dict(method.weights), choose(config.precision), device
        (teacher,) = teachers_in(method)
        self.mean, self.deviation = (
            torch.tensor(values, device=device).view(-1, 1, 1)
            for values in (teacher.input.mean, teacher.input.deviation)
        )
        layout: Any = {"memory_format": torch.channels_last}
        self.teacher = copy.deepcopy(teacher.encoder).to(device, **layout)
        self.student = copy.deepcopy(method.encoder).to(device, **layout)
        self.projectors = nn.ModuleDict({term: copy.deepcopy(heads[0]) for term, heads in method.heads.items()})
        self.projectors.to(device)
        self.sums = {term: torch.zeros(3, teacher.width, dtype=torch.float64, device=device) for term in self.weights}
        self.distort = Distort(method.views).to(device)
        self.optimizer = optimizer(config.optim.optimizer, [*self.student.parameters(), *self.projectors.parameters()])

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """One step on images that are float32 in [0, 1] on the device; its losses."""
        view = self.distort(batch.views[0], batch.distortions[0], False)  # a stage without restoration corrupts nothing
        with self.autocast():
            with torch.no_grad():
                taught = self.teacher((batch.views[0] - self.mean) / self.deviation)[-1]
            places = self.student(view)[-1]
            features = {"global": (places.mean((2, 3)), taught.mean((2, 3))), "dense": (rows(places), rows(taught))}
            predicted = {term: self.projectors[term](student) for term, (student, _) in features.items()}
        aims = {term: self.standardised(term, target.float()) for term, (_, target) in features.items()}
        losses = {term: 1 - F.cosine_similarity(predicted[term].float(), aims[term]).mean() for term in aims}
        smooth = F.smooth_l1_loss(predicted["dense"].float(), aims["dense"])
        losses["dense"] = 0.9 * losses["dense"] + 0.1 * smooth
        loss = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {f"loss/{name}": value.detach() for name, value in losses.items()} | {"loss": loss.detach()}

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def standardised(self, term: str, x: Tensor) -> Tensor:
        """By what has been seen before; as they are at first."""
        count, total, squares = self.sums[term].clone()
        exact = x.double()
        self.sums[term] += torch.stack([torch.full_like(total, len(x)), exact.sum(0), exact.square().sum(0)])
        mean = total / count.clamp(min=1)
        variance = torch.where(count > 1, squares / count.clamp(min=1) - mean.square(), 1.0)
        return (x - mean.float()) / variance.clamp(min=1e-3 * variance.mean()).sqrt().float()


def rows(maps: Tensor) -> Tensor:
    """[b, C, h, w] -> [b · h · w, C]."""
    return maps.movedim(1, 3).flatten(0, 2)
