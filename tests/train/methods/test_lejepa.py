"""LeJEPA on one process: its loss against algorithm 2 of the paper in float64, of two views and of several crops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from train.methods.tiny import assert_same_loss

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.sigreg import epps_pulley
from dira_scale.train.methods.lejepa import LeJEPA, directions
from dira_scale.train.models import norm
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.heads import global_average

CROPS = ViewSpec(size=64, crops=({"count": 2}, {"size": 32, "count": 3}))


def method(encoder="test_vit", views=CROPS, groups=1, **settings):
    torch.manual_seed(0)
    network = build_encoder(encoder, size=64, arguments={"dynamic_img_size": False} if encoder == "test_vit" else {})
    built = LeJEPA(network, views, **{"dim": 5, "hidden": 9, "slices": 7} | settings)
    return norm.convert(built, groups).double().train()


def images(views=CROPS, count=4):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(count, 1, *each.sides, generator=generator, dtype=torch.float64) for each in views.each)


def forward(model, crops, step=3):
    return model(crops, crops, SimpleNamespace(step=step))


def embeddings(model, crops):
    """[V, b, dim], of a network without BatchNorm; the projector's is over all views."""
    features = []
    for crop in crops:
        tokens = model.encoder.tokens(crop)
        features.append(tokens.maps[-1].mean((2, 3)) if tokens.class_token is None else tokens.class_token)
    *hidden, last = model.projector.layers
    x = torch.cat(features)
    for linear, scale in zip(hidden[::3], hidden[1::3], strict=True):
        x = x @ linear.weight.T
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        x = (scale.weight * x + scale.bias).relu()
    return (x @ last.weight.T + last.bias).view(len(crops), -1, 5)


@pytest.mark.parametrize("encoder", ["test_vit", "test_convnext"])
@pytest.mark.parametrize("views", [CROPS, ViewSpec(size=64)], ids=["crops", "two views"])
def test_the_loss_and_its_gradient_are_the_formula(encoder, views):
    model, crops = method(encoder, views, sigreg=0.3), images(views)
    z = embeddings(model, crops)
    centre = (z[0] + z[1]) / 2
    prediction = sum(((view - centre) ** 2).mean() for view in z) / len(z)
    along = directions(5, 7, seed=3).double()
    statistic = sum(epps_pulley(view @ along).mean() for view in z) / len(z)
    terms, expected = forward(model, crops), 0.7 * prediction + 0.3 * statistic
    assert_same_loss(model, terms.losses["di"], expected)
    # What health monitors do, also of what a decoder makes of the maps.
    for loss in (terms.losses["di"], sum(maps[-1].sum() for maps in terms.pyramids)):
        assert all(slope.any() for slope in torch.autograd.grad(loss, terms.features, retain_graph=True))
    assert [global_average(x).shape for x in terms.features] == 2 * [(4, model.encoder.channels[-1])]
    assert len(terms.pyramids) == len(terms.embeddings) == 2
    torch.testing.assert_close(terms.embeddings, (z[0].detach(), z[1].detach()))


def test_a_stage_of_restoration_alone_has_the_same_maps():
    """BatchNorm's statistics are of both global views."""
    model, crops = method("test_resnet"), images()
    together, alone = forward(model, crops).pyramids, model.pyramids(crops[:2], None)
    torch.testing.assert_close([maps[-1] for maps in alone], [maps[-1] for maps in together])


def test_directions_are_the_steps():
    model, crops = method(sigreg=1.0), images()
    losses = [forward(model, crops, step).losses["di"].item() for step in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]


def test_a_group_has_all_views_of_its_samples():
    """So statistics depend neither on views' order in memory nor on how samples lie on processes."""
    model, crops = method(groups=2), images(count=8)
    whole = forward(model, crops).embeddings
    part = forward(method(), tuple(crop[:4] for crop in crops)).embeddings
    torch.testing.assert_close(tuple(each[:4] for each in whole), part)


def test_what_it_cannot_train_is_refused():
    with pytest.raises(ArgumentError, match=r"^views: expected 2 global crops of one size first, .* for LeJEPA"):
        method(views=ViewSpec(size=64, crops=({"count": 1}, {"size": 32, "count": 2})))
    with pytest.raises(ArgumentError, match=r"^accumulate: expected 1: LeJEPA compares"):
        method().check(batch=8, accumulate=2)


def test_directions_are_of_unit_length_evenly_spread_and_a_seeds():
    """With numpy's of the same number, projections on an axis have the same distribution."""
    first, again, other = (directions(8, 4096, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(4096))
    torch.testing.assert_close(first @ first.T / 4096, torch.eye(8) / 8, rtol=0, atol=0.01)
    peers = np.random.default_rng(0).standard_normal((8, 4096))
    peers /= np.linalg.norm(peers, axis=0)
    assert kstest(first.flatten().numpy(), peers.ravel()).pvalue > 0.01
    assert abs(np.corrcoef(first.flatten(), other.flatten())[0, 1]) < 0.02
    assert directions(5, 7, 0).shape == (5, 7)
