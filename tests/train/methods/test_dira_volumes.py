"""DiRA on volumes, around MoCo and SimSiam, and restoration of what a mask hides, beside the formulas."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from train.methods.masked import NETWORKS, built, masked, masked_batch, voxels

from dira_scale.train.losses.cosine import negative_cosine
from dira_scale.train.losses.info_nce import info_nce
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.methods.dira import DiRA

BASES: dict[str, dict[str, Any]] = {
    "moco": {"_target_": "MoCo", "dim": 8, "queue": 16},
    "simsiam": {"_target_": "SimSiam", "dim": 8, "bottleneck": 4},
}


def dira(base: str, network: str = "batch", groups: int = 1, **options: Any) -> DiRA:
    model, size, block = NETWORKS[network]
    node = {"_target_": "DiRA", "base": BASES[base]} | options
    method = built(node, model, masked(size, block, count=2), groups=groups)
    assert isinstance(method, DiRA)
    return method


@pytest.mark.parametrize("restoration", ["mse", "mask"])
@pytest.mark.parametrize("base", BASES)
def test_step_on_volumes_equals_the_formulas(base: str, restoration: str) -> None:
    """All three losses and the gradients of their weighted sum."""
    method, adversary = dira(base, restoration=restoration), Adversary(dimensions=3).double()
    clean, distorted, batch = masked_batch(method.views)
    method.enter_stage(["di", "re", "ad"])
    terms = method(tuple(clean), tuple(distorted), batch)
    losses = terms.losses | {"ad": adversary.generator_loss(terms.restored)}
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    ours = torch.autograd.grad(
        sum(method.weights[name] * loss for name, loss in losses.items()), list(trained.values())
    )

    first, second = (method.encoder(view) for view in distorted)
    z1 = method.base.projector(first[-1])
    if base == "moco":
        with torch.no_grad():
            key = F.normalize(method.base.key_projector(method.base.key_encoder(distorted[1])[-1]), dim=1)
        expected = {"di": info_nce(F.normalize(z1, dim=1), key, method.base.queue, 0.2)}
    else:
        z2 = method.base.projector(second[-1])
        p1, p2 = method.base.predictor(z1), method.base.predictor(z2)
        expected = {"di": (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2}
    restored = torch.sigmoid(method.head(method.decoder(first)))
    if restoration == "mask":
        hidden = voxels(batch.distortions[0].corruptions["mask"]["mask"], method.views.sides)
        expected["re"] = (restored - clean[0])[hidden].square().mean()
        restored = torch.where(hidden, restored, distorted[0])
    else:
        expected["re"] = (restored - clean[0]).square().mean()
    expected["ad"] = adversary.generator_loss(restored)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(terms.restored, restored)
    total = expected["di"] + 10 * expected["re"] + 0.001 * expected["ad"]
    theirs = torch.autograd.grad(total, list(trained.values()))
    for name, a, b in zip(trained, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=f"{name}: ".__add__)
