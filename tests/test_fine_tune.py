"""The blocks of docs/how-to/own_loop.md are run: loading is strict, and the loss falls."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from recorded import derived
from safetensors.torch import load_file
from torch import nn

from dira_scale import api
from dira_scale.base.config.compose import compose
from dira_scale.export.formats import to_monai, to_smp, to_timm
from dira_scale.export.network import TrainedNetwork
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.unet import UNet

ROOT = Path(__file__).parents[1]
CHANNELS = (256, 128, 64, 32, 16)
TIMM, MASKS, SMP, MONAI, LOOP = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "own_loop.md").read_text(), re.DOTALL
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of noise: a bright square, whose mask is known, left (label 1) or right."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    rows = ["file,patient,left,mask"]
    for i in range(48):
        image, mask = generator.integers(0, 100, (32, 32), dtype=np.uint8), np.zeros((32, 32), np.uint8)
        mask[8:24, 2:14] = 255
        mask = mask if i % 2 else mask[:, ::-1]
        Image.fromarray(np.where(mask > 0, image + 120, image).astype(np.uint8)).save(folder / f"{i}.png")
        Image.fromarray(np.ascontiguousarray(mask)).save(folder / f"{i}.mask.png")
        rows.append(f"{i}.png,p{i},{i % 2},{i}.mask.png")
    (folder / "labels.csv").write_text("\n".join(rows))
    keys = {"recipe.images": folder, "recipe.labels": folder / "labels.csv", "recipe.columns.mask": "mask"}
    out = tmp_path_factory.mktemp("shards") / "mine"
    return api.shard(out, recipe="folder", settings=keys | {"workers": 1}).root


def exported(folder: Path, name: str) -> None:
    """What ``export`` writes, of a network with random weights."""
    torch.manual_seed(0)
    words = ["experiment=small", "data.shards=any", "data.size=32", f"model.encoder={name}"]
    config: Any = OmegaConf.to_container(compose("pretrain", [*words, f"model.decoder_channels={list(CHANNELS)}"]))
    encoder = build_encoder(name, size=32)
    network = TrainedNetwork(derived("pretrain", config), encoder, UNet(encoder, CHANNELS))
    for write in {"test_resnet": (to_timm,), "resnet18": (to_smp,), "resnet50": (to_monai,)}[name]:
        for file, content in write(network).files.items():
            (folder / file).write_bytes(content)


@pytest.mark.parametrize(
    ("code", "name", "file"),
    [
        (TIMM.replace("resnet18", "test_resnet"), "test_resnet", "encoder.safetensors"),
        pytest.param(MASKS + SMP + LOOP, "resnet18", "unet.safetensors", marks=pytest.mark.system),
        # 15 s: a ResNet-50, as MONAI has no smaller network that ours fit into.
        pytest.param(MASKS + MONAI + LOOP, "resnet50", "monai_unet.safetensors", marks=pytest.mark.system),
    ],
    ids=["timm", "smp", "monai"],
)
def test_every_tensor_is_loaded_and_the_loss_falls(code, name, file, shards, tmp_path, monkeypatch, capsys) -> None:
    exported(tmp_path, name)
    loaded = []

    def load(module: nn.Module, state: dict, *args: object, **keys: object) -> object:
        result = plain(module, state, *args, **keys)
        loaded.append({entry: tensor.clone() for entry, tensor in module.state_dict().items()})
        return result

    plain = nn.Module.load_state_dict
    monkeypatch.setattr(nn.Module, "load_state_dict", load)
    code = code.replace("out/runs/mine/export", str(tmp_path)).replace("out/shards/mine", str(shards))
    torch.manual_seed(0)
    exec(code.replace("size=64", "size=32").replace('"train", 64', '"train", 32'), {"__name__": "block"})
    (state,), content = loaded, load_file(tmp_path / file)
    assert state.keys() == content.keys()
    assert all(torch.equal(state[entry], content[entry]) for entry in content)
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", capsys.readouterr().out)]
    assert len(losses) == 10 and losses[-1] < 0.8 * losses[0], losses
