"""Shared by the methods that compare two views of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import Gathering, rank
from dira_scale.train.losses.float32 import at_least_float32
from dira_scale.train.methods.method import Terms


def check_pair(method: str, views: ViewSpec) -> None:
    """Raise ArgumentError unless ``method`` gets two views, of one size."""
    if views.count != 2:
        raise ArgumentError("views.count", views.count, f"2: {method} compares two views")
    if not views.one_size:
        raise ArgumentError("views.crops", UNSHOWN, f"crops of one size: {method} compares two views of it")


def check_accumulation(method: str, accumulate: int) -> None:
    """Raise ArgumentError if ``method``, whose loss is of the whole batch, gets it in micro-batches."""
    if accumulate > 1:
        reason = f"{method} compares the images of the whole batch; use more processes or a smaller batch"
        raise ArgumentError("accumulate", accumulate, f"1: {reason}")


@torch.no_grad()
def note_matches(terms: Terms, first: Tensor, second: Tensor, training: bool) -> Terms:
    """Return ``terms`` with the views' ``embeddings`` [b, dim] and, in the monitors, ``top1``: how often an image's
    first is nearest (by cosine) to its second in the whole batch, in training of all processes; ``chance``: the
    expected value of guessing."""
    terms.embeddings = first.detach(), second.detach()
    first, second = (F.normalize(at_least_float32(x), dim=1) for x in (first, second))
    if training:
        all_second, start = Gathering(second), rank() * len(first)
        terms.deferred.append(lambda: top1(first, all_second.wait(), start))
    else:
        terms.monitors |= top1(first, second, 0)
    return terms


@torch.no_grad()
def top1(queries: Tensor, keys: Tensor, start: int) -> dict[str, Tensor]:
    """Return how often query i is nearest to key ``start + i`` of ``keys``, and by chance; all of unit length."""
    expected = torch.arange(start, start + len(queries), device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        hits = (queries @ keys.T).argmax(dim=1) == expected
    return {"top1": hits.float().mean(), "chance": torch.full((), 1 / len(keys), device=queries.device)}
