"""What holds for every base of DiRA that compares two views, on one process."""

import pytest
import torch
from train.methods.tiny import SETTINGS, Tiny, forward, method, views

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.views import ViewSpec
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


@KINDS
def test_one_view_is_refused(kind):
    with pytest.raises(ArgumentError, match=r"^views\.count: expected 2: |^views: expected 2 global"):
        kind(Tiny(), ViewSpec(count=1, size=64))
