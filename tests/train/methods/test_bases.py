"""What holds for every base of DiRA that compares two views, on one process."""

import pytest
import torch
from train.methods.tiny import SETTINGS, Tiny, forward, method, views

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods.barlow import BarlowTwins
from dira_scale.train.methods.byol import BYOL
from dira_scale.train.methods.lejepa import LeJEPA
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.methods.simsiam import SimSiam
from dira_scale.train.methods.vicreg import VICReg
from dira_scale.train.models import norm

KINDS = pytest.mark.parametrize("kind", SETTINGS)


@KINDS
def test_evaluation_changes_nothing(kind):
    model = method(kind).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    forward(model, views())
    norm.commit_statistics(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@KINDS
def test_a_stage_freezes_what_it_does_not_train(kind):
    model = method(kind)
    heads = [head for name in ("projector", "predictor") if (head := getattr(model, name, None))]
    model.enter_stage([])
    assert not any(p.requires_grad for head in heads for p in head.parameters())
    assert all(p.requires_grad for p in model.encoder.parameters())
    model.enter_stage(["di"])
    assert all(p.requires_grad for head in heads for p in head.parameters())
    with pytest.raises(ArgumentError, match=r"^terms: .* did you mean 'di'"):
        model.enter_stage(["dis"])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MoCo, {"queue": 0}),
        (MoCo, {"temperature": 0}),
        (MoCo, {"momentum": 1.5}),
        (MoCo, {"dim": 0}),
        (MoCo, {"shuffle": "block"}),
        (SimSiam, {"dim": 0}),
        (SimSiam, {"bottleneck": 0}),
        (BarlowTwins, {"dim": 0}),
        (BarlowTwins, {"off_diagonal": -1}),
        (BarlowTwins, {"scale": 0}),
        (BYOL, {"hidden": 0}),
        (BYOL, {"momentum": 1.1}),
        (VICReg, {"dim": 0}),
        (VICReg, {"variance": -1}),
        (LeJEPA, {"sigreg": 1.5}),
        (LeJEPA, {"slices": 0}),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings):
    (name,) = settings
    with pytest.raises(ArgumentError, match=f"^{name}: expected"):
        method(kind, **settings)


@KINDS
def test_one_view_is_refused(kind):
    with pytest.raises(ArgumentError, match=r"^views\.count: expected 2: |^views: expected 2 global"):
        kind(Tiny(), ViewSpec(count=1, size=64))
