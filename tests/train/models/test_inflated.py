"""Vision transformers of images over volumes: what they compute of files of images, at first and on other sizes."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from train.models.test_dino_files import DIM, NETWORKS, assert_computes, authors, network, tokens, written
from train.models.volumes import network as volumes_network
from train.models.volumes import parameters

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.volume.inflated import InflatedEncoder, build_inflated

SIZE = (16, 32, 32)  # 2 x 4 x 4 patches
KINDS = ("DINOv2", "DINOv2 with registers", "DINOv3")


def inflated(kind: str, size: tuple[int, ...] = SIZE, channels: int = 3, patch: int = 8) -> InflatedEncoder:
    """It has the grid of the files' positions, and random ones along the depth."""
    name, own = NETWORKS[kind]
    torch.manual_seed(1)
    encoder = build_inflated(name, patch, size, channels, {**own, "img_size": 32}).eval()
    torch.nn.init.normal_(encoder.depth_embed)
    return encoder


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_have_the_tokens_of_images_at_several_depths(kind: str, tmp_path: Path) -> None:
    state, encoder, volumes = authors(kind), inflated(kind), torch.rand(2, 3, *SIZE)
    start = StartWeights(written(state, tmp_path), encoder)
    assert "encoder (DINO's names)" in str(start)
    assert_computes(encoder, tokens(state, volumes, encoder.depth_embed.detach()), volumes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thin_volume_has_its_images_tokens(kind: str, tmp_path: Path) -> None:
    """Positions along the depth start at 0; grey images are read by the sum of the channels' kernels."""
    path, images = written(authors(kind), tmp_path), torch.rand(2, 1, 32, 32)
    flat, encoder = network(kind), inflated(kind, (8, 32, 32), channels=1)
    torch.nn.init.zeros_(encoder.depth_embed)
    for each in (flat, encoder):
        StartWeights(path, each)
    with torch.no_grad():
        ours = flat.tokens(images)
    assert ours.class_token is not None and ours.registers is not None and ours.patches is not None
    expected = torch.cat([ours.class_token[:, None], ours.registers, ours.patches], 1)
    volumes = images[:, :, None].expand(-1, -1, 8, -1, -1)
    assert_computes(encoder, expected, volumes)
    with torch.no_grad():
        for theirs, each in zip(flat.class_tokens(images, 3), encoder.class_tokens(volumes, 3), strict=True):
            torch.testing.assert_close(each, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "aimv2_large_patch14_224",  # a norm behind the patches, no class token
        "deit_tiny_distilled_patch16_224",  # a second token before them
        "deit3_small_patch16_224",  # a class token without a position
        "eva02_tiny_patch14_224",  # learnt and rotary positions
        "vit_base_patch16_clip_224",  # a norm before the blocks
        "vit_base_patch16_siglip_224",  # pooled by attention
        "vit_medium_patch16_gap_256",  # pooled before its norm
        "vit_small_patch16_rope_mixed_224",  # rotary positions of each block
    ],
)
def test_each_kind_of_plain_transformer_computes_as_timms(name: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    flat, images = timm.create_model(name, num_classes=0, **arguments).eval(), torch.rand(2, 3, 32, 32)
    for parameter in flat.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_file(flat.state_dict(), tmp_path / "timm.safetensors")
    encoder = build_inflated(name, 8, (8, 32, 32), 3, arguments).eval()
    StartWeights(tmp_path / "timm.safetensors", encoder)
    with torch.no_grad():
        ours, theirs = encoder.tokens(images[:, :, None].expand(-1, -1, 8, -1, -1)), flat.forward_features(images)
        if isinstance(flat.norm, nn.Identity):
            theirs = flat.fc_norm(theirs)
    assert ours.registers is not None and ours.patches is not None
    first = [] if ours.class_token is None else [ours.class_token[:, None]]
    torch.testing.assert_close(torch.cat([*first, ours.registers, ours.patches], 1), theirs, rtol=1e-4, atol=1e-4)


def test_positions_are_not_shaken_in_training() -> None:
    """Processes would draw differently. timm's default of this name is to rescale them."""
    name, volumes = "vit_base_patch16_sapiens2", torch.rand(1, 3, *SIZE)
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_kv_heads": 1}
    for encoder, x in (
        (build_inflated(name, 8, SIZE, 3, arguments), volumes),
        (build_encoder(name, size=32, arguments=arguments), volumes[:, :, 0]),
    ):
        with torch.no_grad():
            first, second = (encoder.train()(x)[-1] for _ in range(2))
        assert torch.equal(first, second)


def test_kernels_of_another_side_see_the_resized_image(tmp_path: Path) -> None:
    """FlexiViT's resampling is exact where patches grow: each patch of 8 x 8 is resized to 16 x 16."""
    state, images = authors("DINOv2"), torch.rand(2, 3, 32, 32)
    encoder = inflated("DINOv2", (16, 64, 64), patch=16)
    torch.nn.init.zeros_(encoder.depth_embed)
    StartWeights(written(state, tmp_path), encoder)
    patches = images.unflatten(3, (4, 8)).unflatten(2, (4, 8)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    larger = F.interpolate(patches, (16, 16), mode="bicubic", antialias=True).view(2, 4, 4, 3, 16, 16)
    volumes = larger.permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 1, 64, 64).expand(-1, -1, 16, -1, -1)
    assert_computes(encoder, tokens(state, images), volumes)


def test_a_run_on_images_goes_on_in_volumes(tmp_path: Path) -> None:
    """Everything but the pyramid of our own network of images is loaded."""
    flat = network("DINOv2")
    for parameter in flat.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_file({f"encoder.{name}": value for name, value in flat.state_dict().items()}, tmp_path / "run.safetensors")
    encoder = inflated("DINOv2")
    assert "loaded" in str(StartWeights(tmp_path / "run.safetensors", encoder))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(
        encoder.model.patch_embed.proj(images[:, :, None].expand(-1, -1, 8, -1, -1))[:, :, 0],
        flat.model.patch_embed.proj(images),
        rtol=1e-4,
        atol=1e-5,
    )
    for name in ("blocks.3.mlp.fc2.weight", "pos_embed", "cls_token", "norm.bias"):
        assert torch.equal(encoder.model.state_dict()[name], flat.model.state_dict()[name])


@pytest.mark.parametrize("kind", KINDS)
def test_other_depths_are_between_those_that_were_learnt(kind: str, tmp_path: Path) -> None:
    """Also of a file, whose own positions along the depth are resized: [0, 1] over four planes."""
    encoder = inflated(kind)
    encoder.depth_embed.data = torch.tensor([[0.0], [1.0]]).expand(-1, DIM).clone()
    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, tmp_path / "own.safetensors")
    deeper = inflated(kind, (32, 32, 32))
    StartWeights(tmp_path / "own.safetensors", deeper)
    torch.testing.assert_close(deeper.depth_embed[:, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    volumes = torch.rand(2, 1, 32, 16, 24)  # of another plane, too
    with torch.no_grad():
        torch.testing.assert_close(encoder.tokens(volumes).patches, deeper.tokens(volumes).patches)


def test_hidden_patches_are_not_seen() -> None:
    encoder, fill = inflated("DINOv2 with registers"), torch.rand(DIM)
    volumes = torch.rand(2, 1, *SIZE)
    hidden = torch.rand(2, 32) < 0.5
    voxels = hidden.view(2, 1, 2, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)

    def patches(x: Tensor, fill: Tensor) -> Tensor:
        with torch.no_grad():
            found = encoder.tokens(x, hidden, fill).patches
        assert found is not None
        return found

    seen = patches(volumes, fill)
    assert torch.equal(patches(torch.where(voxels, torch.rand_like(volumes), volumes), fill), seen)
    assert not torch.allclose(patches(volumes, torch.rand(DIM)), seen)


def test_the_default_is_of_the_documented_size() -> None:
    with torch.device("meta"):
        network = volumes_network("inflated_vit", (96, 96, 96))
        assert network(torch.empty(1, 1, 96, 96, 96)).shape == (1, 1, 96, 96, 96)
    assert parameters(network) == 87_185_641


def test_arguments_that_timm_does_not_take_are_named() -> None:
    with pytest.raises(
        ArgumentError, match=r"^arguments: expected those of timm's 'vit_tiny_patch16_224' .*'nonsense'"
    ):
        build_inflated("vit_tiny_patch16_224", 8, SIZE, 1, {"nonsense": 3})


def test_a_kernel_of_dinos_is_resampled_once(tmp_path: Path) -> None:
    """Not first to the side that timm's name has, 14, which would lose most of it."""
    state = authors("DINOv2")
    name, own = NETWORKS["DINOv2"]
    encoder = build_inflated(name, 8, SIZE, 3, {key: value for key, value in own.items() if key != "patch_size"})
    StartWeights(written(state, tmp_path), encoder)
    kernel = encoder.model.patch_embed.proj.weight
    torch.testing.assert_close(kernel.sum(2), state["patch_embed.proj.weight"], rtol=1e-4, atol=1e-5)
