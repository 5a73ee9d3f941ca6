"""DINOv2 in plain PyTorch, as one would write it today with timm: the reference for our loop on a transformer.

It takes weights, settings and images of the method that it is compared with, and nothing from the training package, as
benchmarks/plain.py. As in the authors' code (github.com/facebookresearch/dinov2), hidden patches alone go through the
patches' heads, and published constants of Sinkhorn-Knopp are not cancelled. A Gram anchor as the method has it.
"""

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain import optimizer
from dira_scale.pretrain.config import Pretrain
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort import build as build_distort
from dira_scale.train.distributed.precision import choose
from dira_scale.train.methods.dinov2 import DINOv2
from dira_scale.train.models.pyramid import TimmEncoder


class Network(nn.Module):
    """timm's transformer, which takes crops of any size, and the two heads, with the weights of ``method``."""

    def __init__(self, method: DINOv2) -> None:
        super().__init__()
        encoder = method.encoder
        assert isinstance(encoder, TimmEncoder), "timm's transformers alone"
        self.backbone: Any = timm.create_model(encoder.name, num_classes=0, dynamic_img_size=True, **encoder.arguments)
        self.backbone.load_state_dict(encoder.model.state_dict())
        self.head, self.patch_head = copy.deepcopy(method.head), copy.deepcopy(method.patch_head or method.head)
        self.mask_token = nn.Parameter(method.mask_token.detach().clone())

    def forward(self, crops: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class tokens [n, dim] and patch tokens [n, patches, dim] of ``crops`` [n, 1, *size]."""
        x = self.backbone.patch_embed(crops.expand(-1, 3, -1, -1))
        if hidden is not None:
            x = torch.where(hidden[..., None], self.mask_token.to(x.dtype), x)
        x = self.backbone.norm(self.backbone.blocks(self.backbone._pos_embed(x)))
        return x[:, 0], x[:, self.backbone.num_prefix_tokens :]


class PlainDINOv2:
    """A step: two passes of the student, one of the teacher, three losses, one optimizer, a moving average.

    Args:
        method: whose weights are copied; with two heads, at its stage's beginning.
        device: where the images are.
    """

    def __init__(self, config: Pretrain, method: DINOv2, device: torch.device) -> None:
        self.weights, self.precision, self.device = dict(method.weights), choose(config.precision), device
        self.student_temperature, self.teacher_temperature = method.student_temperature, method.temperature
        self.momentum, self.clip = method.momentum, config.optim.clip
        self.student = Network(method).to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.anchor = copy.deepcopy(self.teacher) if method.anchor else None
        self.seen = len(method.views.each) - method.repeating  # the anchor alone sees the others
        self.distorts = [build_distort(entry).to(device) for entry in method.views.entries for _ in range(entry.count)]
        parameters = list(self.student.parameters())
        self.optimizer = optimizer(config.optim.optimizer, parameters)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """One step on images that are float32 in [0, 1] on the device; its losses."""
        of_views = zip(self.distorts, batch.views, batch.distortions, strict=True)
        crops = [distort(view, given) for distort, view, given in of_views]
        shown, mask = torch.cat(crops[:2]), torch.cat([g.corruptions["mask"]["mask"] for g in batch.distortions[:2]])
        where = mask.flatten(1).nonzero(as_tuple=True)
        with self.autocast():
            with torch.no_grad():
                classes, patches = self.teacher(shown)
                _, logits = self.teacher.head(classes)
                _, patch_logits = self.teacher.patch_head(patches[where])
                targets, patch_targets = self.balanced(logits).chunk(2), self.balanced(patch_logits)
            classes, patches = self.student(shown, mask)
            local, _ = self.student(torch.cat(crops[2 : self.seen]))
            _, logits = self.student.head(torch.cat([classes, local]))
            _, patch_logits = self.student.patch_head(patches[where])
        seen = [self.log_softmax(view) for view in logits.chunk(self.seen)]
        pairs = [-(t * s).sum(1).mean() for i, t in enumerate(targets) for j, s in enumerate(seen) if i != j]
        share = 1 / mask.flatten(1).sum(1)[where[0]]
        losses = {
            "di": torch.stack(pairs).mean(),
            "ibot": -((patch_targets * self.log_softmax(patch_logits)).sum(1) * share).sum() / len(mask),
            "koleo": torch.stack([koleo(view.float()) for view in classes.chunk(2)]).sum(),
        }
        if self.anchor:
            with self.autocast(), torch.no_grad():
                _, held_to = self.anchor(torch.cat(crops[self.seen :]))
            losses["gram"] = gram(patches.float(), held_to.float())
        loss = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.student.parameters(), self.clip)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_([*self.teacher.parameters()], [*self.student.parameters()], 1 - self.momentum)
        return {f"loss/{name}": value.detach() for name, value in losses.items()} | {"loss": loss.detach()}

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def log_softmax(self, logits: Tensor) -> Tensor:
        return F.log_softmax(logits.float() / self.student_temperature, dim=1)

    def balanced(self, logits: Tensor) -> Tensor:
        """The teacher's probabilities [n, K] by Sinkhorn-Knopp."""
        q = (logits.float() / self.teacher_temperature).exp().T
        q /= q.sum()
        for _ in range(3):
            q /= q.sum(1, keepdim=True) * len(q)
            q /= q.sum(0, keepdim=True) * q.shape[1]
        return (q * q.shape[1]).T


def koleo(features: Tensor) -> Tensor:
    x = F.normalize(features, dim=1, eps=1e-8)
    nearest = (x @ x.T).fill_diagonal_(-1).argmax(1).detach()
    return -(F.pairwise_distance(x, x[nearest], eps=1e-8) + 1e-8).log().mean()


def gram(patches: Tensor, held_to: Tensor) -> Tensor:
    """Return the Gram loss of patches [b, n, dim] and the same of larger crops, both of square grids."""
    grid, larger = (math.isqrt(each.shape[1]) for each in (patches, held_to))
    maps = held_to.mT.unflatten(2, (larger, larger))
    held_to = F.interpolate(maps, (grid, grid), mode="bicubic").flatten(2).mT
    x, y = F.normalize(patches, dim=2), F.normalize(held_to, dim=2)
    return (x @ x.mT - y @ y.mT).square().mean()
