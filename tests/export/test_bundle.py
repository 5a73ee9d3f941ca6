"""A bundle of MONAI, run by MONAI, gives the masks that `predict` gives."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from predict.test_predict_command import conversion, oblique

from dira_scale.export import main as export
from dira_scale.finetune import main as finetune
from dira_scale.predict import main as predict

SHAPES = {"a.nii.gz": (31, 18, 40), "b.nii.gz": (30, 17, 36), "c.nii.gz": (33, 19, 41)}
TUNED = [
    "init=random", "task=masks", "views=tune_volumes", "data.batch=2", "data.pad=true", "data.workers=1",
    "precision=fp32",
    "log_every=1", "parallel.threads=1", "validate.batch=4", "stages.finetune.epochs=2",
]  # fmt: skip
CLASSES = "task.classes={half: 1, rest: 2}"


@pytest.mark.system
@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        ("unet3d", [16, 16, 24], [CLASSES, "model.width=0.125"]),
        ("swinunetr", [32, 32, 64], ["task.classes={ball: [1, 2]}", "model.feature_size=12"]),
    ],
)
def test_monai_runs_it_on_files(model: str, size: list[int], words: list[str], tmp_path: Path) -> None:
    monai_bundle = pytest.importorskip("monai.bundle")
    pytest.importorskip("ignite")
    folder, run, masks, out = (tmp_path / name for name in ("nifti", "run", "masks", "out"))
    folder.mkdir(), masks.mkdir()
    for name, shape in SHAPES.items():
        source = oblique(folder / name, shape, 0.3)
        ball = (np.asarray(source.dataobj) > 200).astype(np.uint8) * (1 + (np.indices(shape)[0] > shape[0] // 2))
        nibabel.save(nibabel.Nifti1Image(ball.astype(np.uint8), source.affine), masks / name)
    recipe = {"columns.mask": "mask", "volume.range": [-200, 500]}
    dataset = conversion(folder, tmp_path / "shards", kind="volumes", modality="MR", **recipe)
    words = [f"model={model}", f"data.size={size}", *words, f"data.shards={dataset.root}", f"run={run}"]
    assert finetune([*TUNED, *words]) == 0
    assert export([f"run={run}", "formats=monai_bundle"]) == 0
    assert predict([f"run={run}", f"images={folder}", f"out={out}", "names=source", "probabilities=true"]) == 0
    bundle = run / "export" / "bundle"
    files = {"config_file": "inference.json", "meta_file": "metadata.json"}
    configs = {argument: str(bundle / "configs" / name) for argument, name in files.items()}
    monai_bundle.verify_net_in_out("network_def", device="cpu", **configs)
    written = tmp_path / "written"
    monai_bundle.run(**configs, bundle_root=str(bundle), dataset_dir=str(folder), output_dir=str(written))
    for name in SHAPES:
        theirs, ours = nibabel.load(written / name.replace(".nii", "_seg.nii")), nibabel.load(out / "masks" / name)
        np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)
        chances = np.asarray(nibabel.load(out / "probabilities" / name).dataobj)
        chances = chances if chances.shape[-1] > 1 else np.concatenate([chances, 1 - chances], -1)
        sure = np.diff(np.sort(chances, -1)[..., -2:], axis=-1)[..., 0] > 1e-4
        np.testing.assert_array_equal(np.asarray(theirs.dataobj)[sure], np.asarray(ours.dataobj)[sure])
        assert sure.mean() > 0.99 and len(np.unique(np.asarray(ours.dataobj))) > 1
    assert (bundle / "LICENSE").read_text() and (bundle / "docs/README.md").read_text().startswith("---")
    about = json.loads((bundle / "configs/metadata.json").read_text())
    assert ("dira_scale" in about["required_packages_version"]) == (model == "unet3d")
    assert torch.load(bundle / "models/model.pt", weights_only=True)
