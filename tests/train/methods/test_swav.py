"""SwAV on one process: its loss beside lightly's in float64, its prototypes, and its queue."""

from types import SimpleNamespace

import pytest
import torch
from lightly.loss import SwaVLoss
from torch.nn.functional import normalize
from train.methods.tiny import assert_same_loss

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.engine.config import Optim
from dira_scale.train.engine.optim import stage_optimizer
from dira_scale.train.engine.parallel import refuse_layerwise
from dira_scale.train.methods.swav import SwAV
from dira_scale.train.models import norm
from dira_scale.train.models.encoder import build_encoder

CROPS = ViewSpec(size=64, crops=({"count": 2}, {"size": 32, "count": 3}))


def method(encoder="test_convnext", views=CROPS, **settings):
    torch.manual_seed(0)
    built = SwAV(build_encoder(encoder, size=64), views, **{"prototypes": 12, "dim": 5, "hidden": 9} | settings)
    return norm.convert(built, 1).double().train()


def images(seed=1, views=CROPS, count=4):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(count, 1, *each.sides, generator=generator, dtype=torch.float64) for each in views.each)


def forward(model, crops):
    return model(crops, crops, SimpleNamespace(step=0))


def embeddings(model, crops):
    """[V, b, dim], of a network without BatchNorm; the projector's is over all views."""
    x = torch.cat([model.encoder.tokens(crop).maps[-1].mean((2, 3)) for crop in crops])
    first, scale, _, last = model.projector.layers
    x = x @ first.weight.T
    x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * scale.weight + scale.bias
    return normalize(x.relu() @ last.weight.T + last.bias, dim=1).view(len(crops), -1, 5)


def lightlys(model, crops, queue=None):
    logits = [*embeddings(model, crops) @ model.prototypes.T]
    kept = None if queue is None else [*queue @ model.prototypes.T]
    (loss,) = SwaVLoss(model.temperature, 3, model.epsilon)(logits[:2], logits[2:], kept)
    return loss


@pytest.mark.parametrize("views", [CROPS, ViewSpec(size=64)], ids=["crops", "two views"])
def test_the_loss_and_its_gradient_are_lightlys(views):
    model, crops = method(views=views, temperature=0.2, epsilon=0.1), images(views=views)
    terms = forward(model, crops)
    assert_same_loss(model, terms.losses["di"], lightlys(model, crops))
    for loss in (terms.losses["di"], sum(maps[-1].sum() for maps in terms.pyramids)):  # as health monitors
        assert all(slope.any() for slope in torch.autograd.grad(loss, terms.features, retain_graph=True))
    together, alone = terms.pyramids, model.pyramids(crops[:2], None)
    torch.testing.assert_close([maps[-1] for maps in alone], [maps[-1] for maps in together])


def test_the_queue_is_of_the_last_batches_and_counts_once_it_is_full():
    """It begins at a share of the stage; a run that stops in between goes on with the same losses."""
    model, last = method(queue=8, queue_start=0.5), []
    for step in range(5):
        model.progress = step / 4
        crops, full = images(step), len(last) == 2
        loss = forward(model, crops).losses["di"]
        assert_same_loss(model, loss, lightlys(model, crops, torch.cat(last, 1) if full else None))
        if full:
            assert not torch.isclose(loss, lightlys(model, crops))
        z = embeddings(model, crops)[:2].detach()
        last = [z, *last][:2] if step >= 2 else last
        model.after_step()
        torch.testing.assert_close(model.queue[:, : 4 * len(last)], torch.cat(last, 1) if last else model.queue[:, :0])
        resumed = method(queue=8, queue_start=0.5)
        resumed.load_state_dict(model.state_dict())
        model = resumed
    assert len(last) == 2
    model.queue_start = 2.0  # in evaluation a batch is alone
    alone = forward(model.eval(), images(9)).losses["di"]
    model.queue_start = 0.0
    torch.testing.assert_close(forward(model, images(9)).losses["di"], alone, rtol=0, atol=0)


def test_prototypes_are_of_unit_length_after_each_step_and_trained_after_the_first():
    model = method(frozen=0.1)
    optimizer = {"_target_": "torch.optim.SGD", "lr": 5.0}
    config = Optim(optimizer=optimizer, one_dimensional={}, fixed_rate=[], schedule="constant")
    groups = stage_optimizer(config, model, 8).param_groups
    frozen = {id(p): group["frozen"] for group in groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if frozen[id(p)]} == {"prototypes"}
    assert frozen[id(model.prototypes)] == 0.1
    forward(model, images()).losses["di"].backward()
    with torch.no_grad():
        model.prototypes -= 5 * model.prototypes.grad
    moved = model.prototypes.detach().clone()
    model.after_step()
    lengths = moved.square().sum(1, keepdim=True).sqrt()
    assert (lengths - 1).abs().max() > 1e-3
    torch.testing.assert_close(model.prototypes.detach(), moved / lengths)


def test_what_it_cannot_train_is_refused():
    with pytest.raises(ArgumentError, match=r"^views: expected 2 global"):
        method(views=ViewSpec(size=64, crops=({"count": 1}, {"size": 32, "count": 2})))
    with pytest.raises(ArgumentError, match=r"^accumulate: expected 1: SwAV compares"):
        method().check(batch=8, accumulate=2)
    method(queue=16).check(batch=8, accumulate=1)
    with pytest.raises(ArgumentError, match=r"^queue: expected a multiple of the batch of 6, such as 18, or null, got"):
        method(queue=16).check(batch=6, accumulate=1)
    with pytest.raises(UserError, match=r"^SwAV sets parameters after each step, and ZeRO trains copies"):
        refuse_layerwise(torch.optim.SGD([torch.zeros(1)]), method())
