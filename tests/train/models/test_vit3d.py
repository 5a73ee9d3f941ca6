"""Primus against its definition in plain torch: rotary positions, patches left out, published names and sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train.models.volumes import network, parameters

from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.network import Network, Tokens
from dira_scale.train.models.tensor_files import WeightsError
from dira_scale.train.models.volume.vit3d import Transformer, ViT3DEncoder

HEADS, REGISTERS = 2, 3
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": HEADS, "decoder_channels": "[16,8]"}
SIZE, GRID = (16, 24, 32), (2, 3, 4)
VISIBLE = torch.tensor([[0, 5, 7, 22], [3, 8, 9, 23]])  # of the grid's 24 patches


def drawn(size: tuple[int, ...] = SIZE, seed: int = 0, **keys: object) -> Network:
    """Return a small network in float64, with weights that all matter."""
    ours = network("vit3d", size, **SMALL | {"reg_tokens": REGISTERS} | keys).double()
    torch.manual_seed(seed)
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3)
    return ours


def volumes(size: Sequence[int] = SIZE) -> Tensor:
    return torch.rand(2, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Plain:
    """It computes from a state what is taught of a transformer, sample by sample and head by head. Rotations are
    products of complex numbers, and patches that are left out have a score of minus infinity."""

    def __init__(self, state: Mapping[str, Tensor], depth: int = 2, registers: int = REGISTERS) -> None:
        self.state, self.depth, self.registers = state, depth, registers

    def __call__(self, x: Tensor) -> Tensor:
        y = self.tokens(x)[:, self.registers :].transpose(1, 2).unflatten(2, [side // 8 for side in x.shape[2:]])
        for i in range(2):
            y = F.conv_transpose3d(y, *self._pair(f"decoder.stages.{i}.0"), stride=2)
            y = y - y.mean(1, keepdim=True)
            y = y / (y.square().mean(1, keepdim=True) + 1e-6).sqrt()
            weight, bias = (each.view(1, -1, 1, 1, 1) for each in self._pair(f"decoder.stages.{i}.1"))
            y = F.gelu(weight * y + bias)
        return F.conv_transpose3d(y, *self._pair("head"), stride=2)

    def tokens(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return [b, r + n, dim]; patches that are not ``seen``, bool [b, n], are seen by none."""
        y = F.conv3d(x, *self._pair("encoder.embed"), stride=8)
        grid = y.shape[2:]
        y = (y + self.state["encoder.transformer.pos_embed"]).flatten(2).transpose(1, 2)
        if self.registers:
            y = torch.cat([self.state["encoder.transformer.register_tokens"].expand(len(y), -1, -1), y], 1)
        hidden = torch.zeros(y.shape[:2], dtype=torch.bool)
        if seen is not None:
            hidden[:, self.registers :] = ~seen
        for i in range(self.depth):
            block = f"encoder.transformer.blocks.{i}"
            z = self._attention(f"{block}.attn", self._norm(f"{block}.norm1", y), grid, hidden)
            y = y + self.state[f"{block}.gamma_1"] * z
            z = self._norm(f"{block}.norm2", y)
            gate, value = (self._linear(f"{block}.mlp.fc1_{name}", z) for name in "gx")
            z = self._linear(f"{block}.mlp.fc2", self._norm(f"{block}.mlp.norm", gate * gate.sigmoid() * value))
            y = y + self.state[f"{block}.gamma_2"] * z
        return self._norm("encoder.transformer.norm", y)

    def _attention(self, name: str, x: Tensor, grid: Sequence[int], hidden: Tensor) -> Tensor:
        q, k, v = (self._linear(f"{name}.{part}_proj", x).chunk(HEADS, -1) for part in "qkv")
        heads = []
        for query, key, value in zip(q, k, v, strict=True):
            query, key = (self._turned(each, grid) for each in (query, key))
            scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
            heads.append(scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1) @ value)
        return self._linear(f"{name}.proj", self._norm(f"{name}.norm", torch.cat(heads, -1)))

    def _turned(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """6 m channels are 3 m complex ones, m for each axis: the j-th turns by position · 10000^(-j / m)."""
        m = x.shape[-1] // 6
        places = torch.cartesian_prod(*(torch.arange(n) for n in grid))
        angles = places[:, :, None] * 1 / 10000 ** (torch.arange(m) / m)  # float32, as theirs
        turns = torch.complex(angles.cos(), angles.sin()).flatten(1)
        patches = torch.view_as_complex(x[:, self.registers :].unflatten(-1, (-1, 2)).contiguous())
        turned = torch.view_as_real(patches * turns).flatten(2)
        return torch.cat([x[:, : self.registers], turned], 1)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *self._pair(name))


@pytest.mark.parametrize("registers", [0, REGISTERS])
def test_it_computes_what_is_defined(registers: int) -> None:
    ours = drawn(reg_tokens=registers)
    torch.testing.assert_close(ours(volumes()), Plain(ours.state_dict(), registers=registers)(volumes()))


def test_patches_that_are_left_out_are_as_masked_ones() -> None:
    ours = drawn()
    seen = torch.zeros(2, 24, dtype=torch.bool).scatter(1, VISIBLE, True)
    every = Plain(ours.state_dict()).tokens(volumes(), seen)
    tokens = Tokens(*ours.encoder(volumes(), VISIBLE, with_tokens=True))
    expected = torch.stack([tokens[:REGISTERS] for tokens in every])
    torch.testing.assert_close(tokens.registers, expected)
    expected = torch.stack([sample[REGISTERS + at] for sample, at in zip(every, VISIBLE, strict=True)])
    torch.testing.assert_close(tokens.patches, expected)
    assert tokens.maps[-1].shape == (2, 24, 4, 1, 1)


def test_with_a_token_in_their_places_all_patches_are_there() -> None:
    ours, token = drawn(), torch.rand(24, dtype=torch.float64)
    embedded = ours.encoder.embed(volumes())
    hidden = torch.ones(2, 24, dtype=torch.bool).scatter(1, VISIBLE, False)
    embedded = torch.where(hidden.unflatten(1, GRID)[:, None], token.view(1, -1, 1, 1, 1), embedded)
    tokens = ours.encoder.transformer(embedded.flatten(2).transpose(1, 2), GRID)[:, REGISTERS:]
    found = ours.encoder.tokens(volumes(), hidden, token)
    torch.testing.assert_close(found.patches, tokens)
    torch.testing.assert_close(found.maps[-1].flatten(2).transpose(1, 2), tokens)


def test_attention_knows_differences_of_positions_only() -> None:
    """Learnt positions are zero: the same patches elsewhere are the same tokens, otherwise arranged they are not."""
    torch.manual_seed(0)
    transformer = Transformer(24, 2, HEADS, (4, 4, 4)).double()
    nn.init.zeros_(transformer.pos_embed)
    for block in transformer.blocks:
        nn.init.uniform_(block.gamma_1, 1, 2)
        nn.init.normal_(block.attn.q_proj.weight)
    places = torch.tensor([[0, 0, 0], [0, 1, 2], [1, 2, 0], [2, 1, 1]])
    content = torch.randn(1, 4, 24, dtype=torch.float64)

    def tokens(places: Tensor) -> Tensor:
        at = (places * torch.tensor([16, 4, 1])).sum(1)[None]
        patches = torch.zeros(1, 64, 24, dtype=torch.float64).scatter(1, at[..., None].expand(-1, -1, 24), content)
        result: Tensor = transformer(patches, (4, 4, 4), at)
        return result

    for shift in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]):
        torch.testing.assert_close(tokens(places + torch.tensor(shift)), tokens(places), rtol=0, atol=1e-5)  # float32
    assert (tokens(places[:, [1, 0, 2]]) - tokens(places)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("keys", "count", "encoder"),
    [
        ({"embed_dim": 396, "depth": 12, "num_heads": 6}, 26_268_285, 26_061_156),
        ({"embed_dim": 792, "depth": 12, "num_heads": 12}, 97_958_065, 97_285_320),
        ({}, 151_786_529, 150_997_536),
        ({"embed_dim": 1056, "depth": 24, "num_heads": 16}, 331_823_761, 330_725_472),
    ],
)
def test_sizes_are_the_published_ones(
    keys: dict[str, object], count: int, encoder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S, B, M and L for one class at 160³, as dynamic_network_architectures' ``Primus`` counts with timm 1.0.22."""
    for name in ("trunc_normal_", "uniform_", "kaiming_uniform_"):  # slow where there are no values
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    with torch.device("meta"):
        full = network("vit3d", (160, 160, 160), **keys)
    assert (parameters(full), parameters(full.encoder)) == (count, encoder)
    if keys:
        return
    with torch.device("meta"):
        pyramid = full.encoder(torch.empty(1, 1, 160, 160, 160))
        assert full(torch.empty(1, 1, 96, 160, 96)).shape == (1, 1, 96, 160, 96)
    assert [tuple(level.shape[1:]) for level in pyramid] == [
        (1, 160, 160, 160),
        (full.encoder.channels[-1], 20, 20, 20),
    ]


def test_learnt_positions_are_resampled_for_another_size() -> None:
    ours, other = drawn(), drawn((32, 16, 40))
    state = ours.state_dict()
    stretched = F.interpolate(state["encoder.transformer.pos_embed"][None], size=(4, 2, 5), mode="trilinear")[0]
    other.load_state_dict(state | {"encoder.transformer.pos_embed": stretched})
    torch.testing.assert_close(ours(volumes((32, 16, 40))), other(volumes((32, 16, 40))))
    assert isinstance(other.encoder, ViT3DEncoder) and not other.encoder.fixed_size
    loaded = drawn((32, 16, 40), seed=1)
    StartWeights(Path("run"), loaded.encoder, tensors=state).fill(loaded)
    torch.testing.assert_close(loaded(volumes((32, 16, 40))), other(volumes((32, 16, 40))))


def published(ours: Network) -> dict[str, Tensor]:
    """Return the state under the names of dynamic_network_architectures' ``Primus``, its positions row by row."""
    renamed = {}
    for name, tensor in ours.state_dict().items():
        if name.endswith("pos_embed"):
            tensor = tensor.flatten(1).T[None].contiguous()
        for mine, theirs in (
            ("encoder.embed.", "down_projection.proj."),
            ("encoder.transformer.", "eva."),
            ("decoder.stages.", "up_projection.decode."),
            ("head.", "up_projection.decode.2."),
        ):
            name = name.replace(mine, theirs)
        renamed[name] = tensor
    return renamed


def written(tensors: Mapping[str, Tensor], folder: Path) -> Path:
    torch.save({"network_weights": dict(tensors), "current_epoch": 1000}, path := folder / "checkpoint_final.pth")
    return path


def test_published_files_are_loaded(tmp_path: Path) -> None:
    """Their cube of positions may be another one, and of as many patches as a grid that is none."""
    theirs, ours = drawn((32,) * 3, reg_tokens=0), drawn((32,) * 3, 1, reg_tokens=0)
    larger, flat = drawn(reg_tokens=0), drawn((16, 32, 64), reg_tokens=0)
    path = written(published(theirs), tmp_path)
    for each in (ours, larger, flat):
        weights = StartWeights(path, each.encoder)
        weights.fill(each)
        assert "encoder (our own or Primus' names behind 'network_weights." in str(weights)
        assert str(weights).endswith("decoder, head loaded")
    torch.testing.assert_close(ours(volumes((32,) * 3)), theirs(volumes((32,) * 3)))
    positions = theirs.encoder.transformer.pos_embed[None]
    for each, grid in ((larger, GRID), (flat, (2, 4, 8))):
        expected = F.interpolate(positions, size=grid, mode="trilinear")[0]
        torch.testing.assert_close(each.encoder.transformer.pos_embed, expected)


@pytest.mark.parametrize("registers", [0, REGISTERS])
def test_published_positions_whose_places_are_unknown_are_refused(tmp_path: Path, registers: int) -> None:
    """They are of no cube nor this grid's number, or of register tokens, too: 24 and 3 are 27, a cube's number."""
    theirs, ours = drawn((24, 8, 64), reg_tokens=registers), drawn(reg_tokens=registers)
    path = written(published(theirs) | {"eva.pos_embed": torch.zeros(1, 24 + registers, 24)}, tmp_path)
    if not registers:
        path = written(published(theirs), tmp_path)
        same = drawn((24, 8, 64), 1, reg_tokens=0)
        StartWeights(path, same.encoder).fill(same)
        torch.testing.assert_close(same(volumes((24, 8, 64))), theirs(volumes((24, 8, 64))))
        path = written(published(drawn((8, 8, 40), reg_tokens=0)), tmp_path)
    with pytest.raises(WeightsError, match="learnt positions are read of a cube of patches, or of the views' size"):
        StartWeights(path, ours.encoder)


def test_of_masked_autoencoders_with_a_filler_the_encoder_is_loaded(tmp_path: Path) -> None:
    """nnssl's sees a volume [w, h, d] as patches (h w d), as if its first two axes had changed places."""
    size, grid = (24,) * 3, (3, 3, 3)
    theirs = drawn(size, reg_tokens=0)
    run = {f"method.{name}": tensor for name, tensor in theirs.state_dict().items()}
    more = {"mask_token": torch.zeros(1, 1, 24), "decoder.pos_embed": torch.zeros(1, 27, 24)}
    path = written(published(theirs) | more | {"decoder.blocks.0.norm1.weight": torch.zeros(24)}, tmp_path)
    embedded = theirs.encoder.embed(volumes(size))
    exchanged = theirs.encoder.transformer(embedded.transpose(2, 3).flatten(2).transpose(1, 2), grid)
    exchanged = exchanged.transpose(1, 2).unflatten(2, grid).transpose(2, 3)
    for file, tensors, expected in (
        (path, None, exchanged),
        (Path("run"), run | {"method.filler.token": torch.zeros(24)}, theirs.encoder(volumes(size))[-1]),
    ):
        ours = drawn(size, 1, reg_tokens=0)
        others = [*map(torch.clone, [*ours.decoder.parameters(), *ours.head.parameters()])]
        weights = StartWeights(file, ours.encoder, tensors)
        weights.fill(ours)
        assert str(weights).endswith("; decoder and head were trained behind a masked autoencoder's blocks")
        torch.testing.assert_close(ours.encoder(volumes(size))[-1], expected)
        assert all(map(torch.equal, others, [*ours.decoder.parameters(), *ours.head.parameters()]))
