"""Encoders: timm's own features, its names, local weights, and what is refused."""

from functools import cache

import pytest
import timm
import tiny_swin
import torch
from timm.models.resnet import BasicBlock

from dira_scale.base.arguments import ArgumentError
from dira_scale.judge.evaluation.features import pooled, width
from dira_scale.train.engine.parallel import checkpoint_activations
from dira_scale.train.models.encoder import build_encoder, check_view, timm_names
from dira_scale.train.models.unet import UNet
from dira_scale.train.models.vit import PlainEncoder

# One of each kind: maps from 1/2 or from 1/4 on, channels last, windows, class and register tokens, final norm or not.
FAMILIES = [
    "test_resnet",
    "test_convnext",
    "test_efficientnet",
    "test_vit",
    "test_vit3",
    "test_maxvit",
    "regnetx_002",
    tiny_swin.NAME,
    "deit_tiny_distilled_patch16_224",
]


@cache
def built(name, size):
    return build_encoder(name, size=size)


def test_resnet50_has_the_papers_parameters_and_pyramid():
    """Counts and sizes, without arithmetic."""
    with torch.device("meta"):
        encoder = build_encoder("resnet50").eval()
    assert sum(p.numel() for p in encoder.parameters()) == 23_508_032
    assert encoder.channels == [3, 64, 256, 512, 1024, 2048]
    with torch.no_grad(), torch.device("meta"):
        features = encoder(torch.rand(1, 1, 224, 224))
    assert [f.shape[-1] for f in features] == [224, 112, 56, 28, 14, 7]
    assert [f.shape[1] for f in features] == encoder.channels


def test_random_initialisation_is_torchvisions():
    """Convolutions N(0, 2 / fan_out), BatchNorm 1 and 0, residual branches open."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet18")
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


# Full networks of kinds that others show too; tests/export/test_export.py has their features.
FULL = ("regnetx_002", "deit_tiny_distilled_patch16_224")
USUAL = [
    pytest.param(name, 96, marks=pytest.mark.system if name in (*FULL, "test_maxvit") else ()) for name in FAMILIES
]
# Where the size does more than make maps smaller: positions, windows, and pyramids that end at one pixel.
SMALLEST = [(name, 32) for name in ("test_resnet", "test_vit", "test_maxvit", tiny_swin.NAME)]


@pytest.mark.parametrize(("name", "size"), [*USUAL, *SMALLEST])
def test_every_family_gives_maps_that_a_decoder_takes_and_trains(name, size):
    """Maps at 1/2 ... 1/32, no random draws in training, a gradient for all that lies in front of the logits."""
    torch.manual_seed(0)
    encoder = built(name, size)
    unet = UNet(encoder, decoder_channels=(32, 16, 16, 8, 8)).train()
    images = torch.rand(2, 1, size, size)
    maps = encoder(images)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (count, size >> level, size >> level) for level, count in enumerate(encoder.channels)
    ]
    assert all(torch.equal(a, b) for a, b in zip(maps, encoder(images), strict=True))
    (unet(images).square().mean() + maps[-1].mean((2, 3)).square().sum()).backward()
    without = [key for key, parameter in unet.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", tiny_swin.NAME])
def test_checkpointed_activations_have_the_same_gradients(name):
    def gradients(recompute):
        torch.manual_seed(0)
        unet = UNet(build_encoder(name, size=64), decoder_channels=(16, 16, 8, 8, 8))
        torch.manual_seed(1)
        images, calls = torch.rand(2, 1, 64, 64), 0

        def count(*_):
            nonlocal calls
            calls += 1

        if recompute:
            checkpoint_activations(unet)
        for layer in unet.encoder.modules():
            if type(layer).__name__ == "Mlp":
                layer.fc1.register_forward_hook(count)  # the last layer of a block is not needed again
        unet(images).square().mean().backward()
        return {key: parameter.grad for key, parameter in unet.named_parameters()}, calls

    (once, calls), (twice, recomputed) = gradients(False), gradients(True)
    assert recomputed == 2 * calls > 0
    assert [key for key in once if not torch.equal(once[key], twice[key])] == []


SHORT = {"depth": 4}  # blocks: of published transformers, whose smallest have 12


@pytest.mark.parametrize(
    ("name", "prefix", "extra"),
    [("test_vit", 1, {}), ("test_vit2", 1, {}), ("vit_small_patch16_dinov3", 5, SHORT),
     ("vit_small_patch14_reg4_dinov2", 5, SHORT)],
)  # fmt: skip
def test_tokens_are_timms(name, prefix, extra):
    """Class token, registers and patches after the final norm, beside the maps; hooks see the images."""
    size = 112 if "14" in name else 96
    encoder = PlainEncoder(name, 3, {"img_size": size} | extra).eval()
    images, seen = torch.rand(2, 3, size, size), []
    encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        expected = encoder.model.forward_features(images)
        if isinstance(encoder.model.norm, torch.nn.Identity):
            expected = encoder.model.fc_norm(expected)
        maps, found, coarse = encoder(images), encoder.tokens(images), encoder.tokens(images, finer=False)
    assert torch.equal(coarse.patches, found.patches) and torch.equal(coarse.maps[-1], maps[-1])
    assert len(coarse.maps) == 3  # the image, nothing at 1/2, and the last
    classes = 0 if encoder.model.cls_token is None else 1
    assert len(seen) == 3 and all(map(torch.equal, maps, found.maps))
    assert (found.class_token is None) == (classes == 0) and found.registers.shape[1] == prefix - classes
    parts = [*([] if found.class_token is None else [found.class_token[:, None]]), found.registers, found.patches]
    torch.testing.assert_close(torch.cat(parts, 1), expected)
    if size == 96:  # of patches of 14 the last map is resampled
        torch.testing.assert_close(maps[-1].mean((2, 3)), expected[:, prefix:].mean(1))


@pytest.mark.parametrize(
    ("name", "arguments"), [("test_vit", {}), ("vit_small_patch16_dinov3", SHORT), ("test_vit", {"fc_norm": True})]
)
def test_class_tokens_of_the_last_blocks_are_the_blocks_own_outputs_normed(name, arguments):
    encoder = PlainEncoder(name, 1, {"img_size": 64} | arguments).eval()
    images, outputs, wanted = torch.rand(2, 1, 64, 64), [], ["class4", "class4+mean", "class"]
    for block in encoder.model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        tokens = encoder.tokens(images)
        norm = encoder.model.fc_norm if arguments.get("fc_norm") else encoder.model.norm
        expected = torch.cat([norm(output)[:, 0] for output in outputs[-4:]], 1)
    assert len(outputs) >= 4
    four, four_and_mean, last = pooled(encoder, images, wanted)
    torch.testing.assert_close(four, expected)
    assert torch.equal(four[:, -last.shape[1] :], last)
    assert torch.equal(four_and_mean, torch.cat([four, tokens.patches.mean(1)], 1))
    assert [width(encoder, layer) for layer in wanted] == [each.shape[1] for each in (four, four_and_mean, last)]


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256"])
def test_a_plain_transformer_takes_views_of_other_sizes(name):
    """As timm's with a dynamic size."""
    encoder = PlainEncoder(name, 3, {"img_size": 96} | SHORT).eval()
    theirs = timm.create_model(name, num_classes=0, dynamic_img_size=True, **encoder.arguments).eval()
    theirs.load_state_dict({key: value for key, value in encoder.model.state_dict().items() if "attn_pool" not in key})
    torch.nn.init.normal_(encoder.model.pos_embed)
    theirs.pos_embed = encoder.model.pos_embed
    for size in (32, 64, 96, 160):
        images = torch.rand(2, 3, size, size)
        found = encoder.tokens(images)
        expected = theirs.fc_norm(theirs.forward_features(images))
        torch.testing.assert_close(found.patches, expected[:, encoder.model.num_prefix_tokens :], rtol=1e-4, atol=1e-4)
        assert [m.shape[-1] for m in found.maps] == [size >> level for level in range(6)]
    assert "pos_embed" not in vars(encoder.model) and isinstance(encoder.model.pos_embed, torch.nn.Parameter)
    encoder.tokens(torch.rand(1, 1, 32, 32)).patches.square().sum().backward()
    assert encoder.model.pos_embed.grad.abs().sum() > 0


def test_views_of_another_size_that_a_network_does_not_take():
    check_view(build_encoder("test_resnet", 3, 64), 96)
    check_view(build_encoder("test_vit", 3, 64), 32)
    for name, size, arguments, message in (
        ("test_resnet", 48, {}, "^size: expected 32: test_resnet does not take these views"),
        ("eva02_tiny_patch14_224", 448, SHORT, "^size: expected that of the first crops, or a network of several"),
    ):
        with pytest.raises(ArgumentError, match=message):
            check_view(build_encoder(name, 3, 64 if size < 64 else 224, arguments=arguments), size)


@pytest.mark.parametrize(
    ("patch", "channels"),
    [(8, [3, 0, 96, 192, 192, 192]), (14, [3, 0, 48, 96, 192, 192]), (32, [3, 0, 24, 48, 96, 192])],
)
def test_patch_sizes(patch, channels):
    name, extra = ("eva02_tiny_patch14_224", {}) if patch == 14 else ("vit_tiny_patch16_224", {"patch_size": patch})
    encoder = PlainEncoder(name, 3, {"img_size": 224} | extra | SHORT)
    assert encoder.channels == channels
    with torch.no_grad():
        maps = encoder.eval()(torch.rand(1, 1, 224, 224))
    assert [tuple(m.shape[1:]) for m in maps] == [(c, 224 >> i, 224 >> i) for i, c in enumerate(channels)]


def test_maps_are_of_each_quarter_of_the_blocks():
    """The quarters of six blocks end within a block, which counts."""
    encoder = build_encoder("test_vit", size=64)
    for fed, blocks in zip(encoder(torch.rand(1, 3, 64, 64))[2:], (2, 3, 5, 6), strict=True):
        reached = torch.autograd.grad(
            fed.sum(), [block.norm1.weight for block in encoder.model.blocks], retain_graph=True, allow_unused=True
        )
        assert [gradient is not None for gradient in reached] == [number < blocks for number in range(6)]


def test_zero_initialised_residual_branches():
    """Then a block starts as its shortcut: the last BatchNorm's weights are 0, and only those."""
    last = [m for m in build_encoder("resnet18", zero_init_residual=True).modules() if isinstance(m, BasicBlock)]
    assert len(last) == 8 and all((m.bn2.weight == 0).all() and (m.bn1.weight == 1).all() for m in last)
    with pytest.raises(ArgumentError, match=r"^zero_init_residual: expected false: test_vit has no BatchNorm"):
        build_encoder("test_vit", zero_init_residual=True)


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.system if name in FULL else ()) for name in FAMILIES), "hiera_tiny_224"],
)
def test_names_are_timms(name):
    """Each entry of the pyramid has its own of timm's, with the same shape."""
    encoder = built(name, 96)
    names = timm_names(encoder)
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=0, **encoder.arguments).state_dict()
    assert len(set(names.values())) == len(names)
    state = encoder.state_dict()
    assert all(state[ours].shape == whole[theirs].shape for ours, theirs in names.items())
    assert {key for key in state if key not in names} == {key for key in state if key.startswith("pyramid.")}


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet81", 224, "encoder: expected a backbone of timm .* did you mean 'resnet"),
        ("levit_128s", 224, "encoder: .* levit_128s has no feature pyramid"),
        pytest.param("inception_v3", 224, "encoder: .* inception_v3 has no feature pyramid", marks=pytest.mark.system),
        ("resnet18", 33, "size: expected 32 or 64: resnet18 has no feature pyramid down to 1/32"),
        ("eva02_tiny_patch14_224", 96, "encoder: .* do not divide into patches of 14"),
    ],
)
def test_unusable_backbones_are_refused(name, size, expected):
    with pytest.raises(ArgumentError, match=f"^{expected}"):
        build_encoder(name, size=size)
