"""Shared by the methods that compare two views of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data.views import ViewSpec
from dira_scale.distributed.collectives import Gathering, rank
from dira_scale.errors import UserError
from dira_scale.losses.float32 import at_least_float32
from dira_scale.methods.method import Terms


def check_pair(method: str, views: ViewSpec) -> None:
    """Raise ``UserError`` unless ``method`` gets two views, of one size."""
    if views.count != 2:
        raise UserError(f"views.count={views.count}: {method} needs 2 views")
    if not views.one_size:
        raise UserError(f"views.crops: {method} needs two views of one size; leave the sizes out")


def check_accumulation(method: str, accumulate: int) -> None:
    """Raise ``UserError`` if ``method``, whose loss is of the whole batch, gets it in micro-batches."""
    if accumulate > 1:
        raise UserError(
            f"parallel.accumulate={accumulate}: {method} compares the images of the whole batch and cannot accumulate "
            "it; use parallel.accumulate=1 with more processes or a smaller data.batch"
        )


def check_range(method: str, **settings: tuple[float, bool]) -> None:
    """Raise ``UserError``, naming ``method`` and the setting, where one of the ``settings`` (value, whether it may be
    that) is out of its range."""
    for name, (value, valid) in settings.items():
        if not valid:
            raise UserError(f"{method}'s {name}: {value} is out of range")


@torch.no_grad()
def note_matches(terms: Terms, first: Tensor, second: Tensor, training: bool) -> None:
    """Add to the monitors ``top1``: how often an image's first view, of [b, dim] embeddings, is nearest (by cosine) to
    its own second view in the whole batch, in training of all processes; ``chance``: the expected value of guessing."""
    first, second = (F.normalize(at_least_float32(x), dim=1) for x in (first, second))
    if not training:
        terms.monitors |= top1(first, second, 0)
        return
    everyones, start = Gathering(second), rank() * len(first)
    terms.deferred.append(lambda: top1(first, everyones.wait(), start))


@torch.no_grad()
def top1(queries: Tensor, keys: Tensor, start: int) -> dict[str, Tensor]:
    """How often query i is nearest to key ``start + i`` among ``keys``, all of unit length."""
    expected = torch.arange(start, start + len(queries), device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        hits = (queries @ keys.T).argmax(dim=1) == expected
    return {"top1": hits.float().mean(), "chance": torch.full((), 1 / len(keys), device=queries.device)}
