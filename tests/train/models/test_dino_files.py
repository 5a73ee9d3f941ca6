"""Files of DINOv2 and DINOv3 in their authors' and transformers' layouts: made in miniature, loaded, and compared with
what the papers define, token for token, and with transformers' own networks."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor
from train.methods.test_dino import SETTINGS
from train.methods.test_dinov2 import spec

from dira_scale.train.methods.build import construct
from dira_scale.train.methods.dinov2 import DINOv2
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.network import Encoder
from dira_scale.train.models.pyramid import TimmEncoder
from dira_scale.train.models.tensor_files import WeightsError

DIM, HEADS, DEPTH, REGISTERS, SIDE = 16, 2, 4, 4, 32
V2 = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "patch_size": 8, "init_values": 0.1}
V3 = {**V2, "init_values": 1e-5}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "DINOv2": ("vit_small_patch14_dinov2", V2),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", V2),
    "DINOv2's giant": ("vit_giant_patch14_dinov2", {**V2, "mlp_ratio": 6}),
    "DINOv3": ("vit_small_patch16_dinov3", V3),
    "DINOv3 with biases": ("vit_small_patch16_dinov3_qkvb", V3),
    "DINOv3's plus": ("vit_small_plus_patch16_dinov3", V3),
}


def network(kind: str, size: int = SIDE, **arguments: Any) -> TimmEncoder:
    name, own = NETWORKS[kind]
    return build_encoder(name, size=size, arguments={**own, **arguments}).eval()


def authors(kind: str, grid: int = SIDE // 8) -> dict[str, Tensor]:
    """Return a state of random weights with the names and shapes of the authors' code."""
    torch.manual_seed(0)
    hidden = {"DINOv2's giant": 48, "DINOv3's plus": 64}.get(kind, 4 * DIM)
    gates = {"DINOv2's giant": {"mlp.w12": (2 * hidden, DIM), "mlp.w3": (DIM, hidden)},
             "DINOv3's plus": {"mlp.w1": (hidden, DIM), "mlp.w2": (hidden, DIM), "mlp.w3": (DIM, hidden)}}  # fmt: skip
    linear = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM)}
    linear |= gates.get(kind, {"mlp.fc1": (hidden, DIM), "mlp.fc2": (DIM, hidden)})
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, DIM), "mask_token": (1, DIM)}
    shapes |= {"patch_embed.proj.weight": (DIM, 3, 8, 8), "patch_embed.proj.bias": (DIM,)}
    if "v3" in kind:
        shapes |= {"storage_tokens": (1, REGISTERS, DIM), "rope_embed.periods": (DIM // HEADS // 4,)}
    else:
        shapes |= {"pos_embed": (1, 1 + grid**2, DIM)}
        shapes |= {"register_tokens": (1, REGISTERS, DIM)} if "registers" in kind else {}
    for i in range(DEPTH):
        parts = {f"{part}.weight": shape for part, shape in linear.items()}
        parts |= {f"{part}.bias": shape[:1] for part, shape in linear.items()}
        parts |= {f"norm{n}.{each}": (DIM,) for n in (1, 2) for each in ("weight", "bias")}
        parts |= {f"ls{n}.gamma": (DIM,) for n in (1, 2)}
        shapes |= {f"blocks.{i}.{part}": shape for part, shape in parts.items()}
    shapes |= {"norm.weight": (DIM,), "norm.bias": (DIM,)}
    state = {name: torch.randn(shape) * (0.5 if len(shape) < 4 else 0.1) for name, shape in shapes.items()}
    for name in [name for name in state if "v3" in kind and name.endswith("qkv.bias")]:
        used = torch.tensor([1.0, 0.0, 1.0]) if "biases" in kind else torch.zeros(3)  # keys have none
        state[name] *= used.repeat_interleave(DIM)
        state[f"{name}_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(DIM)
    return state


def tokens(state: Mapping[str, Tensor], images: Tensor, along: Tensor | None = None) -> Tensor:
    """Return [b, 1 + r + n, dim]: what the authors' code computes of a state of theirs. Of volumes, it is to compute
    as if they were images whose patches lie at several depths, for each of which ``along`` [depths, dim] is added."""
    v3 = "storage_tokens" in state
    eps = 1e-5 if v3 else 1e-6
    cut = images.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))  # [b, c, …, rows, 8, columns, 8]
    cut = cut if along is None else cut.unflatten(2, (-1, 8)).mean(3)
    y = torch.einsum("bc...hiwj,ocij->bo...hw", cut, state["patch_embed.proj.weight"])
    (*depth, rows, columns), y = y.shape[2:], y.flatten(2).transpose(1, 2) + state["patch_embed.proj.bias"]
    grid, depths = (rows, columns), math.prod(depth)
    y = torch.cat([state["cls_token"].expand(len(y), -1, -1), y], 1)
    if not v3:
        y = y + torch.cat([state["pos_embed"][:, :1], state["pos_embed"][:, 1:].repeat(1, depths, 1)], 1)
    if along is not None:
        y[:, 1:] += along.repeat_interleave(rows * columns, 0)
    registers = state.get("storage_tokens", state.get("register_tokens", torch.empty(1, 0, DIM)))
    y = torch.cat([y[:, :1], registers.expand(len(y), -1, -1), y[:, 1:]], 1)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, [DIM], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def turned(x: Tensor) -> Tensor:
        """DINOv3's axial positions, from -1 to 1, of patches; the halves of a head's channels are complex numbers."""
        if not v3:
            return x
        at = [2 * (torch.arange(n) + 0.5) / n - 1 for n in grid]
        places = torch.stack(torch.meshgrid(*at, indexing="ij"), -1).flatten(0, 1)
        pairs = DIM // HEADS // 4
        angles = (2 * torch.pi * places[:, :, None] * 100.0 ** (-torch.arange(pairs) / pairs)).flatten(1)
        angles = angles.repeat(depths, 1)
        patches = torch.complex(*x[..., 1 + REGISTERS :, :].chunk(2, -1)) * torch.polar(torch.ones(()), angles)
        return torch.cat([x[..., : 1 + REGISTERS, :], torch.cat([patches.real, patches.imag], -1)], -2)

    for i in range(DEPTH):
        block = f"blocks.{i}"
        q, k, v = (
            linear(f"{block}.attn.qkv", norm(f"{block}.norm1", y)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        )
        scores = turned(q) @ turned(k).transpose(2, 3) / (DIM // HEADS) ** 0.5
        z = linear(f"{block}.attn.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y, z = (y := y + state[f"{block}.ls1.gamma"] * z), norm(f"{block}.norm2", y)
        if f"{block}.mlp.w12.weight" in state:
            gate, value = linear(f"{block}.mlp.w12", z).chunk(2, -1)
            z = linear(f"{block}.mlp.w3", F.silu(gate) * value)
        elif f"{block}.mlp.w1.weight" in state:
            z = linear(f"{block}.mlp.w3", F.silu(linear(f"{block}.mlp.w1", z)) * linear(f"{block}.mlp.w2", z))
        else:
            z = linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", z)))
        y = y + state[f"{block}.ls2.gamma"] * z
    return norm("norm", y)


def assert_computes(encoder: Encoder, expected: Tensor, images: Tensor) -> None:
    """Class token, registers and patches are those ``expected`` [b, 1 + r + n, dim]."""
    with torch.no_grad():
        ours = encoder.tokens(images)
    assert ours.class_token is not None and ours.registers is not None and ours.patches is not None
    joined = torch.cat([ours.class_token[:, None], ours.registers, ours.patches], 1)
    torch.testing.assert_close(joined, expected, rtol=1e-4, atol=1e-4)


def written(state: Mapping[str, Tensor], folder: Path) -> Path:
    torch.save(dict(state), path := folder / "weights.pth")
    return path


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_authors_files_give_their_tokens(kind: str, tmp_path: Path) -> None:
    state, encoder, images = authors(kind), network(kind), torch.rand(2, 3, SIDE, SIDE)
    start = StartWeights(written(state, tmp_path), encoder)
    assert_computes(encoder, tokens(state, images), images)
    assert "encoder (DINO's names) loaded" in str(start) and "mask_token" in str(start).partition("not used")[2]


def test_a_teacher_of_training_whose_blocks_lie_in_chunks_is_read(tmp_path: Path) -> None:
    state, encoder, images = (
        authors("DINOv2 with registers"),
        network("DINOv2 with registers"),
        torch.rand(2, 3, SIDE, SIDE),
    )
    chunk = re.compile(r"blocks\.([0-3])")
    chunked = {f"backbone.{chunk.sub(lambda m: f'blocks.{int(m[1]) // 2}.{m[1]}', name)}": tensor
               for name, tensor in state.items()}  # fmt: skip
    torch.save({"teacher": chunked | {"dino_head.mlp.0.weight": torch.zeros(4, DIM)}}, tmp_path / "teacher.pth")
    start = StartWeights(tmp_path / "teacher.pth", encoder)
    assert_computes(encoder, tokens(state, images), images)
    assert "behind 'teacher.backbone.'" in str(start) and "dino_head" in str(start)


def rad_dino(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state of DINOv2 as RAD-DINO's file has it, by transformers' names."""
    renamed = {}
    for name, tensor in state.items():
        for mine, theirs in (
            ("patch_embed.proj.", "embeddings.patch_embeddings.projection."), ("blocks.", "encoder.layer."),
            ("pos_embed", "embeddings.position_embeddings"), ("cls_token", "embeddings.cls_token"),
            ("mask_token", "embeddings.mask_token"), ("attn.proj.", "attention.output.dense."),
            ("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1"),
        ):  # fmt: skip
            name = name.replace(mine, theirs)
        name = f"layer{name}" if name.startswith("norm.") else name
        parts = (
            dict(zip(("query", "key", "value"), tensor.chunk(3), strict=True)) if "attn.qkv" in name else {"": tensor}
        )
        renamed |= {
            name.replace("attn.qkv", f"attention.attention.{part}"): each.clone() for part, each in parts.items()
        }
    return renamed


def test_rad_dinos_layout_gives_its_tokens(tmp_path: Path) -> None:
    state, encoder, images = authors("DINOv2"), network("DINOv2"), torch.rand(2, 3, SIDE, SIDE)
    save_file(rad_dino(state), tmp_path / "model.safetensors")
    start = StartWeights(tmp_path / "model.safetensors", encoder)
    assert_computes(encoder, tokens(state, images), images)
    assert "encoder (transformers' DINO names) loaded" in str(start)


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_transformers_writes_gives_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers (the extra deepspeed has it)")
    theirs = "DINOv3ViT" if "v3" in kind else "Dinov2WithRegisters" if "registers" in kind else "Dinov2"
    keys: dict[str, Any] = {"use_swiglu_ffn": True, "mlp_ratio": 4} if "giant" in kind else {"mlp_ratio": 4}
    if "v3" in kind:
        keys = {"num_register_tokens": REGISTERS, "intermediate_size": 64, "use_gated_mlp": "plus" in kind}
        keys |= {"hidden_act": "silu"} if "plus" in kind else {}
    config = getattr(transformers, f"{theirs}Config")(
        hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIDE, patch_size=8, **keys
    )
    torch.manual_seed(0)
    peer = getattr(transformers, f"{theirs}Model")(config).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            zero = "v3" in kind and "biases" not in kind and name.endswith(("q_proj.bias", "v_proj.bias"))
            torch.nn.init.normal_(parameter, std=0.0 if zero else 0.3)
    peer.save_pretrained(tmp_path)
    for size in (SIDE, 2 * SIDE):  # of the other it interpolates positions
        encoder, images = network(kind, size), torch.rand(2, 3, size, size)
        StartWeights(tmp_path / "model.safetensors", encoder)
        with torch.no_grad():
            assert_computes(encoder, peer(images).last_hidden_state, images)


@pytest.mark.parametrize("kind", ["DINOv2", "DINOv2 with registers"])
def test_positions_and_patches_are_resampled(kind: str, tmp_path: Path) -> None:
    """Patches of 8 as 16, FlexiViT's way: an image whose patches are twice as large has the same embeddings. Positions
    of 6 x 6 as 4 x 4, without that of the class token: as the authors' code interpolates them, which is timm's way with
    registers, and for a file that only timm's names tell."""
    state, encoder = authors(kind, grid=6), network(kind, size=64, patch_size=16)
    StartWeights(written(state, tmp_path), encoder)
    small = torch.rand(2, 3, SIDE, SIDE)
    large = F.interpolate(
        small.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2),
        16,
        mode="bicubic",
        antialias=True,
    )
    large = large.unflatten(0, (2, 4, 4)).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 64, 64)
    timms = resample_abs_pos_embed(state["pos_embed"], [4, 4], num_prefix_tokens=1)
    position = timms if "registers" in kind else dinos(state["pos_embed"], 4)
    assert_computes(encoder, tokens(state | {"pos_embed": position}, small), large)
    encoder = build_encoder(NETWORKS["DINOv2"][0], size=64, arguments={**V2, "patch_size": 16}).eval()
    if kind == "DINOv2":  # by timm's names alone, without a mask token
        StartWeights(written({k: v for k, v in state.items() if k != "mask_token"}, tmp_path), encoder)
        assert_computes(encoder, tokens(state | {"pos_embed": timms}, small), large)


def dinos(embedding: Tensor, side: int) -> Tensor:
    """``interpolate_pos_encoding`` of DINO and DINOv2, of a square and for one."""
    before = math.isqrt(embedding.shape[1] - 1)
    plane = embedding[:, 1:].mT.unflatten(2, (before, before))
    moved = F.interpolate(plane, scale_factor=((side + 0.1) / before,) * 2, mode="bicubic")
    return torch.cat([embedding[:, :1], moved.flatten(2).mT], 1)


@pytest.mark.parametrize(("before", "side"), [(8, 4), (4, 8), (12, 8)])
def test_views_of_another_size_have_the_positions_of_dinos_code(before: int, side: int, tmp_path: Path) -> None:
    """A file, and its network, of ``before`` patches a side; views of ``side``, as local crops are."""
    state, (name, arguments) = authors("DINOv2", before), NETWORKS["DINOv2"]
    encoder = build_encoder(name, size=8 * before, arguments=arguments, positions="dino").eval()
    StartWeights(written(state, tmp_path), encoder)
    images = torch.rand(2, 3, 8 * side, 8 * side)
    expected = tokens(state | {"pos_embed": dinos(state["pos_embed"], side)}, images)
    with torch.no_grad():
        torch.testing.assert_close(encoder.tokens(images).patches, expected[:, 1:], rtol=1e-4, atol=1e-5)
        other = build_encoder(name, size=8 * before, arguments=arguments).eval()
        StartWeights(written(state, tmp_path), other)
        assert (other.tokens(images).patches - expected[:, 1:]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("file", "kind", "message"),
    [
        ("DINOv2 with registers", "DINOv2", "has 4 register tokens, vit_small_patch14_dinov2 has 0; load it into"),
        ("DINOv2", "DINOv2 with registers", "has 0 register tokens, vit_small_patch14_reg4_dinov2 has 4"),
        ("DINOv3 with biases", "DINOv3", "has biases of queries and values; load it into the encoder .*_qkvb"),
        ("DINOv2 with registers", "DINOv3 with biases", "is of another network .* no entry 'pos_embed'"),
        ("DINOv3", "DINOv2 with registers", "'reg_token' is missing"),
        ("DINOv3's plus", "DINOv3", "'blocks.0.mlp.fc1.weight' is missing"),
    ],
)  # fmt: skip
def test_files_of_other_networks_are_refused(file: str, kind: str, message: str, tmp_path: Path) -> None:
    path = written(authors(file), tmp_path)
    with pytest.raises(WeightsError, match=rf"^{path}: .*{message}") as raised:
        StartWeights(path, network(kind))
    assert len(str(raised.value).splitlines()) == 1


def test_timms_file_with_registers_is_not_taken_for_one_without(tmp_path: Path) -> None:
    path = tmp_path / "timm.safetensors"
    save_file(network("DINOv2 with registers").model.state_dict(), path)
    with pytest.raises(WeightsError, match="has no entry 'reg_token'"):
        StartWeights(path, network("DINOv2"))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    state, key = rad_dino(authors("DINOv2")), "encoder.layer.0.attention.attention.key.weight"
    refused = "is of another network than vit_small_patch14_dinov2, or damaged"
    with pytest.raises(WeightsError, match=refused):
        StartWeights(written(state | {key: torch.zeros(3, 5)}, tmp_path), network("DINOv2"))
    del state[key]
    with pytest.raises(WeightsError, match=rf"{refused} \('blocks.0.attn.k.weight'\)"):
        StartWeights(written(state, tmp_path), network("DINOv2"))


def test_a_mask_token_of_others_makes_no_file_of_dinos(tmp_path: Path) -> None:
    """A masked autoencoder's decoder has one."""
    encoder = network("DINOv2")
    state = encoder.model.state_dict() | {"mask_token": torch.zeros(1, 1, 8)}
    assert "encoder (timm or torchvision names)" in str(StartWeights(written(state, tmp_path), encoder))


def test_patches_are_of_a_size_whose_resampling_fits_into_memory(tmp_path: Path) -> None:
    state = authors("DINOv2") | {"patch_embed.proj.weight": torch.zeros(DIM, 3, 65, 65)}
    with pytest.raises(WeightsError, match="has patches of more than 64 pixels"):
        StartWeights(written(state, tmp_path), network("DINOv2"))
    del state["mask_token"]
    with pytest.raises(WeightsError, match=r"'patch_embed.proj.weight' has shape \(16, 3, 65, 65\)"):
        StartWeights(written(state, tmp_path), network("DINOv2"))


def test_weights_by_timms_name_say_how_they_are_fetched() -> None:
    name = "vit_small_patch14_dinov2.lvd142m"
    with pytest.raises(WeightsError, match=rf"^{name}: no such file; .* hf://timm/{name}$"):
        StartWeights(Path(name), network("DINOv2"))


@pytest.mark.parametrize("layout", [dict, rad_dino])
def test_dinov2_starts_student_teacher_and_mask_token(layout: Any, tmp_path: Path) -> None:
    state = authors("DINOv2", grid=8)
    path = written(layout(state), tmp_path)
    name, arguments = NETWORKS["DINOv2"]
    model = OmegaConf.create({"_target_": "TimmUNet", "encoder": name, "decoder_channels": [8] * 5, "bn_groups": 1,
                              "zero_init_residual": False, "arguments": {**arguments, "patch_size": 16},
                              "weights": str(path)})  # fmt: skip
    method = construct({"_target_": "DINOv2", **SETTINGS}, model, spec())
    assert isinstance(method, DINOv2)
    torch.testing.assert_close(method.mask_token.data, state["mask_token"][0], rtol=0, atol=0)
    for encoder in (method.encoder, method.teacher):
        for i in range(DEPTH):
            block = encoder.state_dict()[f"model.blocks.{i}.attn.qkv.weight"]
            torch.testing.assert_close(block, state[f"blocks.{i}.attn.qkv.weight"], rtol=0, atol=0)
    assert method.start is not None and "mask token loaded; " in method.start.summary
    assert method.start.summary.endswith("licence: unknown")
