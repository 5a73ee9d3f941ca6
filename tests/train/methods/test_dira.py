"""DiRA: which parts run and train in which stage, its options, and the restoration loss against its formula."""

import math

import pytest
import torch
from train.methods.tiny import Facts
from train.methods.tiny import dira as build

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.momentum import rising


@pytest.fixture
def dira(request):
    return build(getattr(request, "param", "moco"))


def forward(method, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean, distorted = (tuple(torch.rand(4, 1, 64, 64, generator=generator) for _ in range(2)) for _ in range(2))
    return method(clean, distorted, Facts(step=0)), clean, distorted


def trained(method):
    return {
        name.split(".")[0] if name[:4] != "base" else name.split(".")[1]
        for name, p in method.named_parameters()
        if p.requires_grad
    }


@pytest.mark.parametrize(
    ("dira", "terms", "losses", "parts"),
    [
        ("moco", ["di"], {"di"}, {"encoder", "heads"}),
        ("simsiam", ["di", "re"], {"di", "re"}, {"encoder", "heads", "decoder", "head"}),
        ("barlow", ["di", "re", "ad"], {"di", "re"}, {"encoder", "heads", "decoder", "head"}),
        ("byol", ["re"], {"re"}, {"encoder", "decoder", "head"}),
        ("moco", ["ad"], set(), {"encoder", "decoder", "head"}),
        ("simsiam", ["re", "ad"], {"re"}, {"encoder", "decoder", "head"}),
        ("byol", ["di", "ad"], {"di"}, {"encoder", "heads", "decoder", "head"}),
        ("vicreg", ["di", "re"], {"di", "re"}, {"encoder", "heads", "decoder", "head"}),
        ("lejepa", ["di", "re"], {"di", "re"}, {"encoder", "heads", "decoder", "head"}),
    ],
    indirect=["dira"],
)
def test_a_stage_computes_and_trains_its_terms(dira, terms, losses, parts):
    dira.enter_stage(["di", "re", "ad"])
    dira.enter_stage(terms)
    heads = {"projector", "predictor"} & dict(dira.base.named_children()).keys()
    assert trained(dira) == (parts - {"heads"} | heads if "heads" in parts else parts)
    result, _, _ = forward(dira)
    assert set(result.losses) == losses
    assert (result.restored is None) == (terms == ["di"]) == (result.target is None)
    total = sum(dira.weights[name] * loss for name, loss in result.losses.items())
    if "ad" in terms:
        total = total + result.restored.mean()
    total.backward()
    for name, parameter in dira.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_keys_cost_no_decoder_and_one_pass_feeds_both_heads(dira):
    assert not any("decoder" in name for name, _ in dira.base.named_parameters())
    passes = []
    dira.encoder.register_forward_hook(lambda *_: passes.append("query"))
    dira.base.key_encoder.register_forward_hook(lambda *_: passes.append("key"))
    dira.decoder.register_forward_hook(lambda *_: passes.append("decoder"))
    forward(dira)
    assert passes == ["query", "key", "decoder"]


def test_queue_stands_still_where_discrimination_is_not_trained(dira):
    dira.enter_stage(["re"])
    before = dira.base.queue.clone()
    forward(dira)
    dira.after_step()
    assert torch.equal(dira.base.queue, before)


def test_names_in_a_checkpoint(dira):
    names = {name.split(".")[0] + "." + name.split(".")[1] for name in dira.state_dict()}
    assert {n for n in names if n.startswith("base")} == {
        "base.encoder", "base.projector", "base.key_encoder", "base.key_projector", "base.queue",
        "base.queue_age", "base.queue_pointer",
    }  # fmt: skip
    assert "base.encoder.model.conv1.0.weight" in dira.state_dict()
    assert {n.split(".")[0] for n in names} == {"base", "decoder", "head"}


@pytest.mark.parametrize("base", ["simsiam", "barlow", "byol", "vicreg", "lejepa"])
@pytest.mark.parametrize("terms", [["di", "re"], ["re"]])
def test_both_views_are_restored_and_their_losses_averaged(base, terms):
    dira = build(base, restore="both").eval()
    dira.enter_stage(terms)
    result, clean, distorted = forward(dira)
    expected = [torch.sigmoid(dira.head(dira.decoder(dira.encoder(view)))) for view in distorted]
    torch.testing.assert_close(result.restored, torch.cat(expected))
    assert torch.equal(result.target, torch.cat(clean))
    losses = [((view - target) ** 2).mean() for view, target in zip(expected, clean, strict=True)]
    torch.testing.assert_close(result.losses["re"], sum(losses) / 2)


def test_share_of_the_stage_reaches_the_base():
    dira = build("byol")
    dira.progress = 0.5
    dira.before_step()
    assert rising(dira.base.momentum, dira.base.progress) == pytest.approx(0.998)


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        ("moco", {"restore": "both"}, "restore: expected first, or a base of two views, such as SimSiam: MoCo learns"),
        ("simsiam", {"restoration": "mse2"}, "restoration: expected mse, l1 or mask; did you mean 'mse'?, got 'mse2'"),
        ("moco", {"weights": {"di": 1, "rec": 2}}, "weights: expected a number for each of di, re, ad, got {'di': 1, "),
        ("simsiam", {"weights": {"di": 1, "re": -1, "ad": 0}}, "weights.re: expected a number of at least 0, got -1"),
        ("simsiam", {"weights": {"di": 1, "re": math.inf, "ad": 0}}, "weights.re: expected a number of at least 0"),
        ("simsiam", {"weights": {"di": 1, "re": None, "ad": 0}}, "weights.re: expected a number, got None"),
    ],
)
def test_options_that_cannot_be_are_refused(base, options, message):
    with pytest.raises(ArgumentError) as raised:
        build(base, **options)
    assert str(raised.value).startswith(message)
