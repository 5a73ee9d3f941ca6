"""Exported weights in nnU-Net itself, by its commands and its trainers, against our networks.

``DIRA_SCALE_NNUNET_CODE`` names a checkout of https://github.com/MIC-DKFZ/nnUNet, its master of 13 July 2026 or later:
no release has ``nnUNetv2_plan_like_dynamic``. Its packages that we lack are installed in a folder, with an older timm
than ours. Checked on every road: where each tensor lands, what the network computes, and that a training step moves it.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from train.models.test_volume_formats import trained

from dira_scale.export.formats import FORMATS
from dira_scale.export.network import TrainedNetwork

PACKAGES = [
    "dynamic-network-architectures==0.4.4", "timm==1.0.22", "einops==0.8.2", "batchgenerators==0.25.5",
    "batchgeneratorsv2==0.3.6", "acvl-utils==0.2.6", "connected-components-3d==4.1.1", "seaborn==0.13.2",
]  # fmt: skip
SIDE, FLAT = 32, (16, 24, 32)  # no side of the second is another's
FEATURES, BLOCKS = [32, 64, 128, 256, 320], [1, 3, 4, 6, 6]  # of ResEnc-L; a cube of SIDE gets the first four stages
ROADS = ("weights", "weights_primus", "dynamic", "nnssl", "nnssl_primus")


def networks() -> dict[str, TrainedNetwork]:
    cube, long = 3 * (SIDE,), (SIDE, SIDE, 2 * SIDE)
    return {
        "resenc": trained("resenc_l", size=cube, features=str(FEATURES[:4]), blocks=str(BLOCKS[:4])),
        "deep": trained("resenc_l", size=long, features=str(FEATURES), blocks=str(BLOCKS)),
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
    code = Path(os.environ.get("DIRA_SCALE_NNUNET_CODE", "."))
    if not (code / "nnunetv2" / "experiment_planning" / "like_nnssl.py").is_file():
        pytest.skip("DIRA_SCALE_NNUNET_CODE names no checkout of https://github.com/MIC-DKFZ/nnUNet's master")
    folder = tmp_path_factory.mktemp("nnunet")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site"), *PACKAGES]
    if subprocess.run(install, timeout=600).returncode:
        pytest.skip(f"pip installs no {', '.join(PACKAGES)}")
    write_dataset(folder / "nnUNet_raw" / "Dataset001_Ball")
    exported = networks()
    for kind, network in exported.items():
        (folder / kind).mkdir()
        for name, content in FORMATS["nnunet"](network).files.items():
            (folder / kind / name).write_bytes(content)
    torch.save(torch.rand(2, 1, *3 * (SIDE,)), folder / "cube.pt")
    torch.save(torch.rand(2, 1, *FLAT), folder / "flat.pt")
    environment = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment |= {"PYTHONPATH": f"{folder / 'site'}:{code.absolute()}"}
    command = [sys.executable, str(Path(__file__).with_name("nnunet_roads.py")), str(folder)]
    subprocess.run(command, env=os.environ | environment, cwd=folder, check=True, timeout=3000)
    return folder, exported


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("road", ROADS)
def test_every_tensor_lands_where_it_belongs(road: str, entered: tuple[Path, dict[str, TrainedNetwork]]) -> None:
    folder, exported = entered
    kind = {"weights": "resenc", "nnssl": "resenc", "dynamic": "deep"}.get(road, "primus")
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
