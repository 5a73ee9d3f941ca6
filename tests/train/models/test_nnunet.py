"""Exported weights in nnU-Net itself, by its commands and its trainers, against our networks.

``DIRA_SCALE_NNUNET_PYTHON`` names the Python of an environment with nnU-Net's master of 13 July 2026 or later, from
https://github.com/MIC-DKFZ/nnUNet: no release has ``nnUNetv2_train_pretrained``. Checked on every road: where each
tensor lands, what the network computes, and that training moves it; on those of ``nnUNetv2_train_pretrained`` the loss
of a batch by ours, and 50 steps from our weights and from none.
"""

import copy
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from train.models.test_vit3d import published
from train.models.test_volume_formats import trained

from dira_scale.export.formats import FORMATS
from dira_scale.export.network import TrainedNetwork
from dira_scale.judge.tasks import masks
from dira_scale.judge.tasks.task import identity

VARIABLE = "DIRA_SCALE_NNUNET_PYTHON"
HAS_MASTER = "import nnunetv2.experiment_planning.like_nnssl"
SIDE, FLAT = 32, (16, 24, 32)  # no side of the second is another's
FEATURES, BLOCKS = [32, 64, 128, 256, 320], [1, 3, 4, 6, 6]  # of ResEnc-L; a cube of SIDE gets the first four stages
PRETRAINED = ("nnssl", "nnssl_primus")
ROADS = ("weights", "weights_primus", "dynamic", *PRETRAINED)


def networks() -> dict[str, TrainedNetwork]:
    cube, long = 3 * (SIDE,), (SIDE, SIDE, 2 * SIDE)
    return {
        "resenc": trained("resenc_l", size=cube, features=str(FEATURES[:4]), blocks=str(BLOCKS[:4])),
        "deep": trained("resenc_l", size=long, features=str(FEATURES), blocks=str(BLOCKS)),
        "narrow": trained("resenc_l", size=cube, features="[8,16,32]", blocks="[1,2,1]"),
        "primus": trained("vit3d", size=FLAT, embed_dim=396, depth=12, num_heads=6),
    }


def write_dataset(folder: Path) -> None:
    """Five balls with a core, which are one region: one output, as our head has."""
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": [1, 2]}, "regions_class_order": [1]}
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(about | {"numTraining": 5, "file_ending": ".nii.gz"}))
    away = ((np.indices(3 * (SIDE,)) - SIDE / 2) ** 2).sum(0)
    for case in range(5):
        labels = (away < (6 + case) ** 2).astype(np.uint8) + (away < 9)
        image = np.random.default_rng(case).normal(size=away.shape) + labels
        for name, array in ((f"imagesTr/{case}_0000", image.astype(np.float32)), (f"labelsTr/{case}", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, TrainedNetwork]]:
    """What ``nnunet_roads.py`` has found."""
    python = os.environ.get(VARIABLE)
    if python is None:
        pytest.skip(f"{VARIABLE} names no Python with https://github.com/MIC-DKFZ/nnUNet's master")
    subprocess.run([python, "-c", HAS_MASTER], check=True, timeout=300)
    folder = tmp_path_factory.mktemp("nnunet")
    write_dataset(folder / "nnUNet_raw" / "Dataset001_Ball")
    exported = networks()
    for kind, network in exported.items():
        (folder / kind).mkdir()
        for name, content in FORMATS["nnunet"](network).files.items():
            (folder / kind / name).write_bytes(content)
    torch.save(torch.rand(2, 1, *3 * (SIDE,)), folder / "cube.pt")
    torch.save(torch.rand(2, 1, *FLAT), folder / "flat.pt")
    environment = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    command = [python, str(Path(__file__).with_name("nnunet_roads.py")), str(folder)]
    subprocess.run(command, env=os.environ | environment, cwd=folder, check=True, timeout=3000)
    return folder, exported


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("road", ROADS)
def test_every_tensor_lands_where_it_belongs(road: str, entered: tuple[Path, dict[str, TrainedNetwork]]) -> None:
    folder, exported = entered
    kind = {"weights": "resenc", "nnssl": "narrow", "dynamic": "deep"}.get(road, "primus")
    network = exported[kind].network
    assert network is not None
    found: dict[str, Any] = torch.load(folder / f"{road}.pt")
    stored = torch.load(folder / kind / "checkpoint_final.pth", weights_only=True)["network_weights"]
    state = found["state"]
    left = {name for name in state if name not in stored or not torch.equal(state[name], stored[name])}
    image = torch.load(folder / ("flat.pt" if kind == "primus" else "cube.pt"))
    decoder = {n for n in state if n.startswith(("decoder.", "up_projection.")) and ".encoder." not in n}
    if road == "dynamic":
        # Kernels of one slice get the mean of three; in ours the other two are zero.
        thin = {name for name in left - decoder if state[name].shape[2:] == (1, 3, 3)}
        assert thin and all(torch.equal(state[name], stored[name].mean(2, keepdim=True)) for name in thin)
        left, ours = left - thin, network.state_dict()
        for name in thin & ours.keys():
            ours[name] = torch.zeros_like(ours[name]).index_copy_(2, torch.tensor([1]), state[name])
        network.load_state_dict(ours)
    expected = {"weights": {name for name in decoder if ".seg_layers." in name}, "weights_primus": set()}
    assert left == expected.get(road, decoder)
    print(f"{road}: {len(state) - len(left)} of {len(state)} tensors are ours; loss {found['loss']:.4f}")  # with -s
    with torch.inference_mode():
        if kind == "primus":
            outputs = [network.encoder.tokens(image).patches, network(image)]
        else:
            maps = network.encoder(image)
            outputs = [*maps[1:5], network.decoder(maps)]
    compared = len(outputs) - (not road.startswith("weights"))  # others have a new decoder
    for theirs, mine in zip(found["computed"][:compared], outputs[:compared], strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4)
    assert math.isfinite(found["loss"]) and found["moved"]


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("road", PRETRAINED)
def test_their_loss_is_ours_and_fifty_steps_go_on(
    road: str, entered: tuple[Path, dict[str, TrainedNetwork]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a batch of theirs is what our network, with all of their tensors, and our loss find. Ours has their
    Dice of each image by itself and their smoothing, and is 1 more, for theirs is -Dice."""
    folder, exported = entered
    monkeypatch.setattr(masks, "SMOOTH", 1e-5)
    kept = exported["primus" if road.endswith("primus") else "narrow"].network
    for end in ("", "_scratch"):
        found, network = torch.load(folder / f"{road}{end}.pt"), copy.deepcopy(kept)
        state, (images, targets) = found["state"], found["batch"]
        with torch.no_grad():
            if road.endswith("primus"):
                positions = state.pop("eva.pos_embed")[0].T
                network.encoder.transformer.pos_embed.copy_(positions.view_as(network.encoder.transformer.pos_embed))
                tensors = published(network)
            else:
                last = f"decoder.seg_layers.{len(network.decoder.stages) - 1}."
                tensors = {name.replace("head.", last): tensor for name, tensor in network.state_dict().items()}
            for name, tensor in tensors.items():
                if name in state:
                    tensor.copy_(state[name])  # in place: it is our network's
            assert [name for name in tensors if name not in state] == ["eva.pos_embed"] * road.endswith("primus")
            logits = network(images)
            one = masks.ONE, identity
            each = zip(logits[:, None], targets.long(), strict=True)
            dice = torch.stack([masks.dice_and_cross_entropy(*pair, *one)["dice"] for pair in each]).mean()
            ours = float(dice + masks.dice_and_cross_entropy(logits, targets[:, 0].long(), *one)["ce"])
        theirs, losses = found["loss"] + 1, found["losses"]
        trained_to = f"{1 + losses[0]:.3f} at first, {1 + sum(losses[-10:]) / 10:.3f} of the last ten"
        print(f"{road}{end}: loss {theirs:.6f}, ours {ours:.6f}; in training {trained_to}")  # with -s
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert len(losses) == 50 and all(map(math.isfinite, losses)) and found["moved"]
