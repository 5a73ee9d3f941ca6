"""Models Genesis: its loss and gradients against the network called by itself, of images and volumes."""

import pytest
import torch
from methods.masked import NETWORKS, built, masked, masked_batch

from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError

NODE = {"_target_": "ModelsGenesis"}


@pytest.mark.parametrize("network", ["resnet", "batch"])
def test_the_whole_clean_view_is_restored(network: str) -> None:
    model, size, block = NETWORKS[network]
    method = built(NODE, model, masked(size, block))
    (clean,), (view,), batch = masked_batch(method.views)
    terms = method((clean,), (view,), batch)
    terms.losses["re"].backward()
    ours = [parameter.grad.clone() for parameter in method.parameters()]
    method.zero_grad()
    expected = torch.sigmoid(method.head(method.decoder(method.encoder(view))))
    loss = ((expected - clean) ** 2).sum() / clean.numel()
    loss.backward()
    assert torch.equal(terms.target, clean) and torch.allclose(terms.restored, expected)
    torch.testing.assert_close(terms.losses, {"re": loss})
    torch.testing.assert_close(ours, [parameter.grad for parameter in method.parameters()])
    assert method.weights == {"re": 1.0} and len(terms.pyramids) == 1


def test_what_it_does_not_have_is_refused() -> None:
    model, size, block = NETWORKS["resnet"]
    with pytest.raises(UserError, match=r"views\.count=2: Models Genesis restores one view; use views\.count=1"):
        built(NODE, model, ViewSpec(size=size))
    with pytest.raises(UserError, match="term 'ad': ModelsGenesis has re"):
        built(NODE, model, masked(size, block)).enter_stage(["re", "ad"])
