"""Masked autoencoders and Models Genesis: losses by hand, sparse encoders in SparK's own way, and what stays hidden."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import BlurPool2d, EvoNorm2dS0, GlobalContext, GroupNormAct
from torch import Tensor, nn
from train.data.volumes import NONE
from train.methods.masked import NETWORKS, UNET, as_spark, built, mae, masked, masked_batch, voxels
from train.methods.tiny import Facts

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.train.data.distort import build as distortion
from dira_scale.train.data.distort.corruptions import BlockMask
from dira_scale.train.data.views import ViewSpec, draw
from dira_scale.train.engine.parallel.recompute import checkpoint_activations
from dira_scale.train.losses.restoration import block_moments, hidden_mean
from dira_scale.train.models import norm
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.sparse import Hidden, SparseGroupNorm, sparsify


def test_loss_is_the_mean_over_hidden_voxels_of_a_sample() -> None:
    """One of 4 and 2 of 4 are hidden: (9 + (1 + 25) / 2) / 2."""
    errors = torch.tensor([[9.0, 1e9, 1e9, 1e9], [1e9, 1.0, 25.0, 1e9]]).view(2, 1, 2, 2)
    hidden = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0]], dtype=torch.bool).view(2, 1, 2, 2)
    assert hidden_mean(errors, hidden) == (9 + 13) / 2


def test_blocks_are_normalised_as_the_authors_do() -> None:
    x = np.random.default_rng(0).random((2, 1, 8, 4, 6))
    mean, deviation = block_moments(torch.from_numpy(x), (2, 2, 2))
    for b, z, y, w in np.ndindex(2, 2, 2, 2):
        where = b, 0, slice(4 * z, 4 * z + 4), slice(2 * y, 2 * y + 2), slice(3 * w, 3 * w + 3)
        assert np.allclose(mean[where], x[where].mean())
        assert np.allclose(deviation[where], math.sqrt(x[where].var(ddof=1) + 1e-6))


@pytest.mark.parametrize(
    ("network", "masking", "norm_target"),
    [("resnet", "dense", False), ("batch", "dense", True), ("vit3d", "dense", False),
     *((network, "sparse", True) for network in NETWORKS if network != "vit3d")],
)  # fmt: skip
def test_step_equals_plain_references(network: str, masking: str, norm_target: bool) -> None:
    """Loss and all gradients: of the network called by itself, the sparse encoder in SparK's way, for each BatchNorm
    group by itself; running statistics are of what is visible."""
    method = mae(network, masking=masking, norm_target=norm_target)
    clean, distorted, batch = masked_batch(method.views)
    terms = method(tuple(clean), tuple(distorted), batch)
    terms.losses["re"].backward()
    ours = {name: parameter.grad for name, parameter in method.named_parameters()}

    model, size, _ = NETWORKS[network]
    plain = architecture(model).build_network(architecture(model).build_encoder(size)).double().train()
    parts = {part: getattr(method, part).state_dict() for part in ("encoder", "decoder", "head")}
    plain.load_state_dict({f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()})
    tokens = {level: token.detach().clone().requires_grad_() for level, token in getattr(method, "tokens", {}).items()}
    loss, blocks = 0, batch.distortions[0].corruptions["mask"]["mask"]
    for view, target, part in zip(*(x.chunk(2) for x in (distorted[0], clean[0], blocks)), strict=True):
        encoder = as_spark(plain.encoder, part) if masking == "sparse" else plain.encoder
        pyramid = encoder(view)
        for level, token in tokens.items():
            hidden = voxels(part, pyramid[int(level)].shape[2:])
            pyramid[int(level)] = pyramid[int(level)] + hidden * token.view(-1, *(1,) * (view.dim() - 2))
        hidden, target = voxels(part, view.shape[2:]), target.clone()
        if norm_target:
            mean, deviation = block_moments(target, tuple(part.shape[1:]))
            target = (target - mean) / deviation
        loss = loss + (plain.head(plain.decoder(pyramid)) - target)[hidden].square().mean() / 2
        for layer in plain.modules():
            layer._forward_hooks.clear()
    loss.backward()
    torch.testing.assert_close(terms.losses["re"], loss, rtol=1e-9, atol=0)
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    expected |= {f"tokens.{level}": token.grad for level, token in tokens.items()}
    assert ours.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-7, atol=1e-10 * float(scale), msg=f"{name}: ".__add__
        )


@pytest.mark.parametrize("loss", ["mse", "l1"])
@pytest.mark.parametrize("masking", ["drop", "token"])
def test_patches_that_are_left_out_are_told_by_tokens_in_their_places(masking: str, loss: str) -> None:
    """Loss and gradients of each sample by itself, its tokens put together one by one; a block has 8 patches."""
    method = mae("vit3d", masking=masking, loss=loss, norm_target=loss == "mse")
    for parameter in method.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3)
    (clean,), (view,), batch = masked_batch(method.views)
    method((clean,), (view,), batch).losses["re"].backward()
    ours = {name: parameter.grad.clone() for name, parameter in method.named_parameters()}
    method.zero_grad()
    hidden = batch.distortions[0].corruptions["mask"]["mask"]
    for x, target, part in zip(view.split(1), clean.split(1), hidden.split(1), strict=True):
        grid, blocks = (2, 4, 4), part.shape[1:]
        seen = [i for i, at in enumerate(np.ndindex(*grid)) if not part[0][tuple(n // 2 for n in at)]]
        where = torch.tensor([seen])
        if masking == "drop":
            given, transformer = iter(method.encoder(x, where)[-1].flatten(2)[0].T), method.filler.transformer
            token = method.filler.token
        else:
            embedded, transformer = method.encoder.embed(x).flatten(2)[0].T, method.encoder.transformer
            given, token = iter(embedded[seen]), method.token
        every = torch.stack([next(given) if i in seen else token for i in range(32)])
        tokens = transformer(every[None], grid)[:, -32:]
        predicted = method.head(method.decoder([x, tokens.transpose(1, 2).reshape(1, 24, *grid)]))
        if loss == "mse":
            mean, deviation = block_moments(target, tuple(blocks))
            target = (target - mean) / deviation
        errors = (predicted - target)[voxels(part, x.shape[2:])]
        (errors.square() if loss == "mse" else errors.abs()).mean().div(4).backward()
    assert ours.keys() == {name for name, _ in method.named_parameters()}
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-7, atol=1e-10, msg=f"{name}: ".__add__)


def test_running_statistics_are_of_visible_positions() -> None:
    method = mae("batch", groups=1, masking="sparse")
    clean, distorted, batch = masked_batch(method.views)
    method(tuple(clean), tuple(distorted), batch)
    norm.commit_statistics(method)
    first = method.encoder.levels[0][0]
    visible = ~voxels(batch.distortions[0].corruptions["mask"]["mask"], method.views.sides)[:, 0]
    seen = first.conv(distorted[0]).movedim(1, -1)[visible]
    torch.testing.assert_close(first.norm.running_mean, 0.1 * seen.mean(0))
    torch.testing.assert_close(first.norm.running_var, 0.9 + 0.1 * seen.var(0))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("network", "masking"),
    [*itertools.product(("resnet", "batch", "instance"), ("dense", "sparse")), ("vit3d", "drop"), ("vit3d", "token")],
)
def test_hidden_voxels_are_not_seen(network: str, masking: str, training: bool) -> None:
    """Other values there: the encoder's maps are the same bits. Of visible ones they are not."""
    method = mae(network, masking=masking).float().train(training)
    views, count, distort = method.views, np.arange(4), distortion(method.views)
    params = draw(views, 0, 0, count, count, 0, *(np.full(4, side) for side in views.sides))[1]
    clean = torch.rand(4, 1, *views.sides, generator=torch.Generator().manual_seed(0))
    hidden = voxels(params.corruptions["mask"]["mask"], views.sides)

    def maps(x: torch.Tensor) -> list[torch.Tensor]:
        pyramid: list[torch.Tensor] = method((clean,), (distort(x, params),), Facts(distortions=[params])).pyramids[0]
        return pyramid

    before = maps(clean)
    for other in (torch.where(hidden, 1 - clean, clean), torch.where(hidden, 0.0, clean)):
        assert all(torch.equal(a, b) for a, b in zip(before, maps(other), strict=True))
    assert not torch.equal(before[-1], maps(torch.where(hidden, clean, 1 - clean))[-1])


def test_visible_voxels_teach_nothing_and_are_given_back() -> None:
    """Another target there: the same loss, the same gradients. The restored view has them as they were given."""
    method, seen = mae("batch"), []
    (clean,), (view,), batch = masked_batch(method.views)
    hidden = voxels(batch.distortions[0].corruptions["mask"]["mask"], method.views.sides)
    for target in (clean, torch.where(hidden, clean, 7.0)):
        method.zero_grad()
        terms = method((target,), (view,), batch)
        terms.losses["re"].backward()
        seen.append([terms.losses["re"].detach(), *(p.grad.clone() for p in method.parameters())])
        assert torch.equal(terms.restored[~hidden], view[~hidden])
        assert torch.allclose((terms.restored - target)[hidden].square().mean(), terms.losses["re"])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_normalised_predictions_are_shown_in_the_images_units() -> None:
    method = mae("batch", norm_target=True)
    (clean,), (view,), batch = masked_batch(method.views)
    terms = method((clean,), (view,), batch)
    blocks = batch.distortions[0].corruptions["mask"]["mask"]
    hidden, (_, deviation) = voxels(blocks, method.views.sides), block_moments(clean, tuple(blocks.shape[1:]))
    errors = ((terms.restored - clean) / deviation)[hidden].square()
    torch.testing.assert_close(errors.mean(), terms.losses["re"])


def test_recomputed_layers_see_the_same() -> None:
    gradients = []
    for recomputed in (False, True):
        method = mae("batch", masking="sparse")
        if recomputed:
            checkpoint_activations(method)
        clean, distorted, batch = masked_batch(method.views)
        method(tuple(clean), tuple(distorted), batch).losses["re"].backward()
        gradients.append([parameter.grad for parameter in method.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


class Blurred(nn.Sequential):
    """An encoder whose maps are halved as timm's blurred ResNets do."""

    name = "blurred"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, super().forward(x)]


def test_constants_of_hidden_positions_are_not_blurred_into_visible_ones() -> None:
    encoder: Any = Blurred(constant := nn.Conv2d(1, 4, 1), BlurPool2d(4))
    nn.init.ones_(constant.bias)
    sparsify(encoder, (16, 16), (2, 2)).blocks = torch.tensor([[[True, False], [False, False]]])
    _, blurred = encoder(torch.zeros(1, 1, 16, 16))
    # [1, 2, 1] / 4 of columns 7 to 9, and of rows -1 to 1 by reflection: column 7 is hidden
    torch.testing.assert_close(blurred[0, 0, 0, 4:], torch.tensor([0.75, 1, 1, 1]))


def test_a_group_norm_keeps_its_activation() -> None:
    norm, hidden = GroupNormAct(8, num_groups=2), Hidden()
    hidden.blocks = torch.zeros(2, 1, 1, dtype=torch.bool)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(SparseGroupNorm(norm, hidden)(x), norm(x))


@pytest.mark.parametrize("layer", [GlobalContext(8), EvoNorm2dS0(8)])
def test_layers_of_all_positions_cannot_be_sparse(layer: nn.Module) -> None:
    encoder: Any = Blurred(layer)
    with pytest.raises(ArgumentError, match=r"^masking: expected dense: blurred mixes all positions \((Glob|Evo)"):
        sparsify(encoder, (16, 16), (2, 2))


def test_what_a_transformer_cannot_leave_out_is_refused() -> None:
    size, images = NETWORKS["vit3d"][1], UNET | {"encoder": "test_vit"}
    with pytest.raises(UserError, match=r"^method\.masking=sparse: .*: test_vit mixes all positions \(Attention\)$"):
        built({"_target_": "MAE", "masking": "sparse"}, images, masked(160, 32), groups=1)
    for settings, block, message in (
        ({"masking": "token"}, 4, r"^views\.corruptions\.mask\.block: expected a multiple of 8, the patch of vit3d$"),
        ({"masking": "sparse"}, 8, r"^method\.masking=sparse: expected dense: vit3d mixes all positions \(EvaAtt"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            built({"_target_": "MAE"} | settings, NETWORKS["vit3d"][0], masked(size, block))


PLAIN = ViewSpec(count=1, size=64)
REFUSED = [
    (PLAIN, {}, "views.corruptions.mask: expected a mask, as configs/views/mae.yaml has: these views hide nothing"),
    (ViewSpec(count=1, size=(8, 8, 8), **NONE), {}, "views.corruptions.mask: expected a mask, as configs/views/mae3d"),
    (masked(64, 32, count=2), {}, "views.count=2: expected 1: MAE"),
    (masked(64, 32), {"masking": "spare"}, "method.masking=spare: expected dense, sparse, drop or token; did you mean "
     "'sparse'?"),
    (masked(64, 16), {"masking": "sparse"}, "method.masking=sparse: expected dense, or blocks whose sides are "
     "multiples of 32, a voxel of test_resnet's coarsest map"),
    (replace(masked(64, 32), corruptions={"mask": BlockMask(32, 0.5), "more": BlockMask(8, 0.5)}), {},
     "views.corruptions: expected mask last: more after it would change what is hidden"),
    (replace(masked(64, 32), target_flip="released"), {}, "views.target_flip=released: expected with_input"),
    (masked(64, 32), {"blocks": 0}, "method.blocks=0: expected a whole number of at least 1"),
    (masked(64, 32), {"masking": "token"}, "method.masking=token: expected dense: test_resnet cannot leave patches"),
    (masked((8, 16, 16), 8), {"masking": "drop"}, "method.masking=drop: expected dense, or the network vit3d: unet3d "),
]  # fmt: skip


@pytest.mark.parametrize(("views", "settings", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_a_line(views: ViewSpec, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        model = NETWORKS["resnet" if views.dimensions == 2 else "batch"][0]
        built({"_target_": "MAE"} | settings, model, views)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


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
    with pytest.raises(UserError, match=r"^views\.count=2: expected 1: Models Genesis"):
        built(NODE, model, ViewSpec(size=size))
    with pytest.raises(ArgumentError, match=r"^terms: expected terms of ModelsGenesis, which has re, got .'re', 'ad'"):
        built(NODE, model, masked(size, block)).enter_stage(["re", "ad"])
