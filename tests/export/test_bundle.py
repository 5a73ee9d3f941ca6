"""A bundle of MONAI, run by MONAI, gives the masks that `predict` gives."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from predict.test_predict_command import conversion, oblique
from recorded import derived

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.export import main as export
from dira_scale.export.bundle import preprocessing, to_monai_bundle
from dira_scale.export.network import TrainedNetwork
from dira_scale.finetune import main as finetune
from dira_scale.predict import main as predict
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.volume.swinunetr import SwinEncoder

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


CODE = "__import__('pathlib').Path('PWN').touch()"
VOLUME = {"spacing": None, "clip": None, "range": [0, 500], "crop": "none", "irregular": "resample"}


def stranger(names: list[str], volume: dict[str, Any] = VOLUME, **changed: Any) -> TrainedNetwork:
    """A network of volumes of random weights whose run says this."""
    words = ["task=masks", "views=tune_volumes", "model=unet3d", "model.width=0.125", "data.size=[16,16,16]"]
    config: Any = OmegaConf.to_container(compose("finetune", [*words, "init=random", "data.shards=any", "run=any"]))
    config["task"]["classes"] = {name: number for number, name in enumerate(names, 1)}
    described = derived("finetune", config | {"facts": {}, "datasets": [{"hash": "0"}], "precision_used": "fp32"})
    model = architecture(config["model"])
    encoder = model.build_encoder((16, 16, 16))
    recipe = {"volume": volume, "modality": "MR"}
    about = {"network": "any", "size": [16, 16, 16], "stored": {}, "conversion": recipe, "evaluate": {}}
    return TrainedNetwork(described, encoder, model.build_network(encoder, len(names) + 1), about | changed)


def test_texts_of_a_run_stay_texts_in_every_property(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MONAI evaluates them: also those of honest classes, which begin with its signs for code."""
    workflow = pytest.importorskip("monai.bundle").ConfigWorkflow
    pytest.importorskip("ignite")
    monkeypatch.chdir(tmp_path)
    names = [f"${CODE}", "@x", "$5", "%inference.json", "@device", "a@#b", "%::run", "$@run", "C#", "cost $"]
    network = stranger(names, network=f"${CODE}", conversion={"volume": VOLUME, "modality": f"${CODE}"})
    for name, content in to_monai_bundle(network).files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    configs = tmp_path / "bundle" / "configs"
    files = [str(configs / name) for name in ("inference.json", "metadata.json")]
    made = workflow(
        config_file=files[0], meta_file=files[1], workflow_type="infer", bundle_root=str(tmp_path / "bundle")
    )
    made.initialize()
    assert not made.check_properties()
    for name in made.properties:
        with suppress(KeyError):  # MONAI asks for some that bundles may lack
            getattr(made, name)
    meta = made.parser.get_parsed_content("_meta_")
    assert not list(tmp_path.rglob("PWN"))
    signs = ["'%inference.json", "'@device", "a@ ::b", "'% ::run", "'$@run", "C::", "cost $"]  # MONAI reads # as ::
    assert [*made.channel_def.values()] == ["background", f"'${CODE}", "'@x", "'$5", *signs]
    assert meta["name"] == f"'${CODE}"
    built, exported = made.parser.get_parsed_content("network_def"), network.network
    assert exported is not None and built.state_dict().keys() == exported.state_dict().keys()


WRONG: list[dict[str, Any]] = [
    {"range": [f"${CODE}", 1]}, {"clip": {"_target_": "os.system", "command": "touch PWN"}}, {"spacing": ["@x", 1, 1]},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_numbers_of_a_dataset_are_numbers(wrong: dict[str, Any]) -> None:
    pytest.importorskip("monai")
    with pytest.raises(UserError, match=r"volume\."):
        to_monai_bundle(stranger(["a"], VOLUME | wrong))


def test_the_spacing_is_that_of_the_axes() -> None:
    """A run's is of z, y, x; ours lead to superior, posterior, left, and MONAI's network has NIfTI's x, y, z."""
    pytest.importorskip("monai")
    ours = stranger(["a"], VOLUME | {"spacing": [3, 2, 1]})
    theirs = replace(ours, encoder=SwinEncoder(12))
    for network, axes, sides in ((ours, "SPL", [3, 2, 1]), (theirs, "LPS", [1, 2, 3])):
        _, orientation, spacing, _ = preprocessing(network)
        assert (orientation["axcodes"], spacing["pixdim"]) == (axes, sides)


def test_settings_of_a_network_are_text_in_an_expression() -> None:
    """MONAI replaces references within texts of an expression, too."""
    pytest.importorskip("monai")
    network = stranger(["a"])
    network.run.network.architecture["norm"] = "@run 5%#"  # type: ignore[index]
    content = json.loads(to_monai_bundle(network).files["bundle/configs/inference.json"])
    given = content["network_def"].partition("(architecture(")[2].removesuffix("))")
    assert "@" not in given and "%" not in given and eval(given)["norm"] == "@run 5%#"
