"""docs/examples/: the script of FOMO26's containers, and the backbone for kaiko-ai's eva, called as they will be."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from dira_scale import api

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SHORT = {"data.workers": 1, "precision": "fp32", "parallel.threads": 1, "optim.optimizer.lr": 0.01}
OF_VOLUMES = {"data.size": [16, 24, 24], "data.batch": 4, "model": "unet3d", "model.width": 0.125}
OF_VOLUMES |= {"model.norm": "instance"}
TESTED = (10, 11)  # cases
# By the flags of fomo26/container_templates, container_validator/tasks.py (d442af2): those of each task's case.
STROKE = ("flair", "dwi", "adc", "swi", "t2s")


def case(folder: Path, number: int, sequences: tuple[str, ...]) -> None:
    """A head of noise in LPS, of 24 x 26 x 18 voxels, in every second a bright lesion; DWI on a coarser grid."""
    random = np.random.default_rng(number)
    folder.mkdir(parents=True)
    affine, x = np.diag([-1.0, -1.1, 2.5, 1]), np.stack(np.indices((24, 26, 18)), -1) - (8 + number % 5, 13, 9)
    lesion = (x**2).sum(-1) < 25 * (number % 2)
    for n, name in enumerate(sequences):
        values = (random.integers(100, 200, lesion.shape) + (400 + 50 * n) * lesion).astype(np.int16)
        step = 2 if name == "dwi" else 1
        own = affine @ np.diag([step, step, 1, 1])
        own[:3, 3] = affine[:3, :3] @ (np.array([step - 1, step - 1, 0]) / 2)
        nib.save(nib.Nifti1Image(values[::step, ::step], own), folder / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(lesion.astype(np.uint8), affine), folder / "lesion.nii.gz")


def archive(folder: Path, sequences: tuple[str, ...]) -> Path:
    """Twelve cases, with swi or t2s of those that have both, the last two to test on; ages grow with their numbers."""
    rows = ["file,patient,split,infarct,age"]
    for number in range(12):
        left_out = ("swi", "t2s")[number % 2]
        case(folder / f"sub_{number}", number, tuple(name for name in sequences if name != left_out))
        split = "train" if number < 8 else "val" if number < 10 else "test"
        rows.append(f"sub_{number},p{number},{split},{number % 2},{30 + number}.5")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def sharded(archive: Path, out: Path, sequences: tuple[str, ...]) -> Path:
    settings = {"recipe.images": archive, "recipe.labels": archive / "labels.csv", "recipe.columns.split": "split"}
    settings |= {"recipe.sequences": {name: f"{name}.nii.gz" for name in sequences}, "recipe.mask": "lesion.nii.gz"}
    labels = {"recipe.label_columns": ["infarct", "age"], "recipe.secret": False, "workers": 1}
    return api.shard(out, "sequences", settings | labels).root


def called(trained: Path, inputs: dict[str, Path], output: Path, code: int = 0) -> str:
    """As in the container, but for its file system: from elsewhere, and without a home to write to."""
    words = [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    script = [sys.executable, EXAMPLES / "fomo26" / "predict.py", *words, "--output", output]
    environment = os.environ | {"TRAINED": str(trained), "HOME": "/proc", "PYTHONPATH": str(EXAMPLES.parents[1])}
    environment.pop("DIRA_SCALE_HASH_KEY", None)
    done = subprocess.run(script, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr


def numbers(run: Path, out: Path, shards: Path) -> list[float]:
    with (api.predict(run, out, shards) / "predictions.csv").open() as file:
        return [float(row[1]) for row in [*csv.reader(file)][1:]]


@pytest.fixture(scope="module")
def stroke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Path]]]:
    """A dataset of task 1 and 2, and the files of its cases to test on, by their flags."""
    folder = tmp_path_factory.mktemp("stroke")
    images = archive(folder / "images", STROKE)
    cases = {f"sub_{n}": {p.name[:-7]: p for p in (images / f"sub_{n}").glob("[!l]*")} for n in TESTED}
    assert [sorted({"swi", "t2s"} & given.keys()) for given in cases.values()] == [["t2s"], ["swi"]]
    return sharded(images, folder / "shards", STROKE), cases


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_fomo26s_probabilities(stroke: tuple[Path, dict[str, dict[str, Path]]], tmp_path: Path) -> None:
    """Tasks 1 and 5: what is written is what `predict` has of the same cases as a dataset."""
    (shards, cases), run = stroke, tmp_path / "run"
    words = {"channels": 5, "task.labels": ["infarct"], "validate.best": "loss", "stages.finetune.epochs": 2}
    api.finetune(run, shards, "labels", "random", settings=SHORT | OF_VOLUMES | words)
    exported = api.export(run, {"formats": ["plain"]})
    written = [tmp_path / "output" / f"{name}.txt" for name in cases]
    for given, output in zip(cases.values(), written, strict=True):
        called(exported, given, output)
    ours = [float(output.read_text()) for output in written]
    assert sorted(ours) == pytest.approx(sorted(numbers(run, tmp_path / "of_dataset", shards)), abs=1e-5)
    assert all(0 <= value <= 1 for value in ours) and ours[0] != ours[1]
    error = called(exported, {"t1": cases["sub_10"]["flair"]}, written[0], code=1)
    assert "predict.py: recipe.sequences.flair=flair.nii.gz matches nothing" in error


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_fomo26s_masks(stroke: tuple[Path, dict[str, dict[str, Path]]], tmp_path: Path) -> None:
    """Tasks 2 and 4: the masks that `predict` writes of the same cases as a dataset, on FLAIR's grid; of .nii, too."""
    (shards, cases), run = stroke, tmp_path / "run"
    words = {"channels": 5, "stages.finetune.epochs": 12}
    api.finetune(run, shards, "masks", "random", settings=SHORT | OF_VOLUMES | words)
    exported = api.export(run, {"formats": ["plain"]})
    masks = [nib.load(path) for path in (api.predict(run, tmp_path / "of_dataset", shards) / "masks").iterdir()]
    expected = [np.asarray(nib.as_closest_canonical(mask).dataobj) for mask in masks]
    assert max(mask.max() for mask in expected) == 1
    for name, given in cases.items():
        plain, flair = tmp_path / "flair.nii", nib.load(given["flair"])
        nib.save(flair, plain)
        called(exported, given | {"flair": plain}, tmp_path / f"{name}.nii.gz")
        written = nib.load(tmp_path / f"{name}.nii.gz")
        assert written.shape == flair.shape and written.get_data_dtype() == np.uint8
        np.testing.assert_allclose(written.affine, flair.affine)
        mask = np.asarray(nib.as_closest_canonical(written).dataobj)
        expected = [other for other in expected if not np.array_equal(other, mask)]
        assert set(np.unique(mask)) <= {0, 1}
    assert not expected


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_fomo26s_numbers_and_features(tmp_path: Path) -> None:
    """Tasks 3, 6 and 7: the numbers of `predict`, and the features of `embed`, of the same cases as a dataset."""
    images = archive(tmp_path / "images", ("t1",))
    shards, run = sharded(images, tmp_path / "shards", ("t1",)), tmp_path / "run"
    words = {"task.labels": ["age"], "stages.finetune.epochs": 1}
    api.finetune(run, shards, "regression", "random", settings=SHORT | OF_VOLUMES | words)
    exported = api.export(run, {"formats": ["plain"]})
    for n in TESTED:
        called(exported, {"t1": images / f"sub_{n}" / "t1.nii.gz"}, tmp_path / f"{n}.txt")
        called(run, {"input": images / f"sub_{n}" / "t1.nii.gz"}, tmp_path / f"{n}.npy")
    ages = [float((tmp_path / f"{n}.txt").read_text()) for n in TESTED]
    assert sorted(ages) == pytest.approx(sorted(numbers(run, tmp_path / "ages", shards)), abs=1e-3)
    folder = api.embed(tmp_path / "embedded", shards, {"run": run, "data.split": "test"})
    vectors, theirs = np.stack([np.load(tmp_path / f"{n}.npy") for n in TESTED]), api.Embeddings.open(folder).values
    assert vectors.dtype == np.float32 and vectors.shape == theirs.shape
    np.testing.assert_allclose(np.sort(vectors, 0), np.sort(theirs, 0), atol=1e-5)


# What eva's core needs beside our packages, jsonargparse as in its lock file; its extras are for its own data.
EVA = ["kaiko-eva==0.4.5", "lightning==2.6.6", "jsonargparse==4.31.0", "pandas==3.1.1", "python-dateutil==2.9.0.post0",
       "six==1.17.0", "loguru==0.7.3", "toolz==1.1.0", "tenacity==9.1.4"]  # fmt: skip
FEATURES = """
import os, sys
import torch
from backbone import DiraScale
from dira_scale import api

images = torch.stack([image for image, _ in api.LabelledImages(os.environ["SHARDS"], "test")])
with torch.inference_mode():
    features, (maps,) = DiraScale(os.environ["RUN"])(images), DiraScale(os.environ["RUN"], maps=True)(images)
torch.testing.assert_close(maps.mean((2, 3)), features)
torch.save(features, "features.pt")
"""


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_eva_itself_trains_a_head_on_the_backbone(tmp_path: Path) -> None:
    """In an environment with eva; on features that are those of `embed`. Bright images are another class than dark."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site"), *EVA]
    if subprocess.run(install).returncode:
        pytest.skip(f"pip installs no {', '.join(EVA)}")
    images, random = tmp_path / "images", np.random.default_rng(0)
    images.mkdir()
    rows = ["file,patient,split,kind"]
    for n in range(60):
        pixels = random.integers(0, 100, (32, 32)) + 120 * (n % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(images / f"{n}.png")
        split, kind = ("train", "train", "train", "val", "test")[n // 2 % 5], ("dark", "bright")[n % 2]
        rows.append(f"{n}.png,p{n},{split},{kind}")
    (images / "labels.csv").write_text("\n".join(rows))
    settings = {"recipe.images": images, "recipe.labels": images / "labels.csv", "recipe.columns.split": "split"}
    settings |= {"recipe.class_columns": {"kind": ["dark", "bright"]}, "recipe.secret": False, "workers": 1}
    shards = api.shard(tmp_path / "shards", "folder", settings).root
    words: dict[str, Any] = {"data.size": 32, "model.encoder": "test_resnet", "model.decoder_channels": [8] * 5}
    words |= {"stages.finetune.epochs": 1, "normalise": "imagenet"}
    run = tmp_path / "run"
    api.finetune(run, shards, "labels", "random", settings=SHORT | words)
    exported = api.export(run, {"formats": ["timm"]})
    encoder = api.encoder(exported)
    roots = (tmp_path / "site", EXAMPLES / "eva", EXAMPLES.parents[1])
    environment = os.environ | {"PYTHONPATH": ":".join(map(str, roots)), "RUN": str(exported), "SHARDS": str(shards)}
    environment |= {"WIDTH": str(encoder.channels[-1]), "CLASSES": "2", "SIZE": "32", "EPOCHS": "5", "LOGS": "logs"}
    subprocess.run([sys.executable, "-c", FEATURES], cwd=tmp_path, env=environment, check=True)
    folder = api.embed(tmp_path / "embedded", shards, {"run": run, "data.split": "test"})
    theirs = (embedded := api.Embeddings.open(folder)).values
    np.testing.assert_allclose(torch.load(tmp_path / "features.pt").numpy(), theirs, atol=1e-4)
    eva = [sys.executable, "-m", "eva", "fit", "--config", EXAMPLES / "eva" / "linear.yaml"]
    subprocess.run(eva, cwd=tmp_path, env=environment | {"CUDA_VISIBLE_DEVICES": ""}, check=True)
    (results,), (best,) = (tmp_path.glob(f"logs/*/{name}") for name in ("results.json", "run_0/checkpoints/best.ckpt"))
    head = torch.load(best, weights_only=True)["state_dict"]
    logits = torch.from_numpy(theirs) @ head["head.weight"].T + head["head.bias"]
    kinds = torch.from_numpy(embedded.labels(np.arange(len(theirs)))[:, 0]).long()
    (test,) = json.loads(results.read_text())["metrics"]["test"]
    loss = torch.nn.functional.cross_entropy(logits, kinds).item()
    assert test["test/AverageLoss"]["mean"] == pytest.approx(loss, abs=1e-3)
    assert test["test/MulticlassAccuracy"]["mean"] == pytest.approx((logits.argmax(1) == kinds).float().mean().item())
