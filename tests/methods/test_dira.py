"""DiRA on MoCo: which parts run and train in which stage, and the restoration loss against its formula."""

from types import SimpleNamespace

import pytest
import torch

from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError
from dira_scale.methods.dira import DiRA
from dira_scale.methods.moco import MoCo
from dira_scale.methods.restoration import RESTORATION_LOSSES
from dira_scale.models.encoder import build_encoder
from dira_scale.models.unet import UNet


@pytest.fixture
def dira():
    torch.manual_seed(0)
    encoder = build_encoder("test_resnet")
    base = MoCo(encoder, ViewSpec(size=64), dim=8, queue=16)
    return DiRA(base, UNet(encoder, (16, 16, 8, 8, 8))).train()


def forward(method, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean, distorted = (tuple(torch.rand(4, 1, 64, 64, generator=generator) for _ in range(2)) for _ in range(2))
    return method(clean, distorted, SimpleNamespace(step=0)), clean, distorted


def trained(method):
    return {
        name.split(".")[0] if name[:4] != "base" else name.split(".")[1]
        for name, p in method.named_parameters()
        if p.requires_grad
    }


def test_restoration_loss_is_the_mean_squared_difference():
    torch.manual_seed(0)
    restored, target = torch.rand(3, 1, 5, 5, dtype=torch.float64, requires_grad=True), torch.rand(3, 1, 5, 5)
    loss = RESTORATION_LOSSES["mse"](restored, target)
    loss.backward()
    assert loss.item() == pytest.approx(((restored - target) ** 2).sum().item() / 75, rel=1e-6)
    torch.testing.assert_close(restored.grad, (2 * (restored - target) / 75).detach(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("terms", "losses", "parts"),
    [
        (["di"], {"di"}, {"encoder", "projector"}),
        (["di", "re"], {"di", "re"}, {"encoder", "projector", "decoder", "head"}),
        (["di", "re", "ad"], {"di", "re"}, {"encoder", "projector", "decoder", "head"}),
        (["re"], {"re"}, {"encoder", "decoder", "head"}),
        (["di", "ad"], {"di"}, {"encoder", "projector", "decoder", "head"}),
    ],
)
def test_a_stage_computes_and_trains_its_terms(dira, terms, losses, parts):
    dira.enter_stage(["di", "re", "ad"])
    dira.enter_stage(terms)
    assert trained(dira) == parts
    result, _, _ = forward(dira)
    assert set(result.losses) == losses
    assert (result.restored is None) == (terms == ["di"]) == (result.target is None)
    total = sum(dira.weights[name] * loss for name, loss in result.losses.items())
    if "ad" in terms:
        total = total + result.restored.mean()
    total.backward()
    for name, parameter in dira.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_the_decoder_rests_while_only_discrimination_is_trained(dira, monkeypatch):
    monkeypatch.setattr(dira.decoder, "forward", lambda features: pytest.fail("the decoder ran"))
    dira.enter_stage(["di"])
    forward(dira)


def test_keys_cost_no_decoder_and_one_pass_feeds_both_heads(dira):
    assert not any("decoder" in name for name, _ in dira.base.named_parameters())
    passes = []
    dira.encoder.register_forward_hook(lambda *_: passes.append("query"))
    dira.base.key_encoder.register_forward_hook(lambda *_: passes.append("key"))
    dira.decoder.register_forward_hook(lambda *_: passes.append("decoder"))
    forward(dira)
    assert passes == ["query", "key", "decoder"]


def test_first_view_is_restored_towards_its_clean_self(dira):
    dira.eval()
    result, clean, distorted = forward(dira)
    expected = torch.sigmoid(dira.head(dira.decoder(dira.encoder(distorted[0]))))
    torch.testing.assert_close(result.restored, expected)
    assert torch.equal(result.target, clean[0])
    torch.testing.assert_close(result.losses["re"], ((expected - clean[0]) ** 2).mean())
    base = dira.base(clean, distorted, SimpleNamespace(step=0))
    torch.testing.assert_close(result.losses["di"], base.losses["di"])


def test_default_weights_are_the_papers(dira):
    assert dira.weights == {"di": 1, "re": 10, "ad": 0.001}
    with pytest.raises(UserError, match=r"method\.weights"):
        DiRA(dira.base, UNet(dira.base.encoder), weights={"di": 1, "rec": 2})


def test_unknown_stage_terms_are_refused(dira):
    with pytest.raises(UserError, match="stage term 'res'"):
        dira.enter_stage(["di", "res"])


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
