"""Shared by the methods that compare two views of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data.views import ViewSpec
from dira_scale.distributed.collectives import gather, rank
from dira_scale.errors import UserError


def check_pair(method: str, views: ViewSpec) -> None:
    """Raise ``UserError`` unless ``method`` gets two views."""
    if views.count != 2:
        raise UserError(f"views.count={views.count}: {method} needs 2 views")


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or still in float64: autocast's half precision is too coarse for a loss."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """D(p, z) = -p·z / (|p| |z|), mean over b, both [b, dim]; no gradient to ``target``. fp32 even under autocast."""
    with torch.autocast(prediction.device.type, enabled=False):
        p, z = at_least_float32(prediction), at_least_float32(target.detach())
        return -F.cosine_similarity(p, z, dim=1).mean()


@torch.no_grad()
def matches(first: Tensor, second: Tensor, training: bool) -> dict[str, Tensor]:
    """``top1``: how often an image's first view, of [b, dim] embeddings, is nearest (by cosine) to its own second view
    in the whole batch, in training of all processes; ``chance``: the expected value of guessing."""
    first, second = (F.normalize(at_least_float32(x), dim=1) for x in (first, second))
    return top1(first, gather(second), rank() * len(first)) if training else top1(first, second, 0)


def top1(queries: Tensor, keys: Tensor, start: int) -> dict[str, Tensor]:
    """How often query i is nearest to key ``start + i`` among ``keys``, all of unit length."""
    expected = torch.arange(start, start + len(queries), device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        hits = (queries @ keys.T).argmax(dim=1) == expected
    return {"top1": hits.float().mean(), "chance": torch.full((), 1 / len(keys), device=queries.device)}
