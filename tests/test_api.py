"""The commands as Python functions: what they return, how they fail. The blocks of docs/reference/api.md are run."""

import multiprocessing
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from api_page import PAGE, filled
from harness import TINY
from PIL import Image
from torch.utils.data import DataLoader
from train.data.volumes import make, random_volumes

from dira_scale import api
from dira_scale.dataset.manifest import ShardedDataset

FEW = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in TINY)}
FEW = {key: value for key, value in FEW.items() if key != "experiment"} | {"model.encoder": "test_resnet"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of noise, half of them bright, with a label that says which; both kinds in every split."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    rows = ["file,patient,bright,split"]
    for i in range(48):
        pixels = generator.integers(0, 100, (40 + i % 3, 48), dtype=np.uint8) + 100 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,p{i},{i % 2},{('train', 'train', 'train', 'val', 'test')[i // 2 % 5]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def sharded(images: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    out = tmp_path_factory.mktemp("shards") / "mine"
    keys = {"recipe.images": images, "recipe.labels": images / "labels.csv", "workers": 1}
    keys["recipe.columns.split"] = "split"
    return api.shard(out, recipe="folder", settings=keys)


def test_from_images_to_weights(sharded: ShardedDataset, tmp_path: Path) -> None:
    assert sharded.info.label_names == ["bright"] and sum(sharded.info.counts.values()) == 48
    run = api.pretrain(tmp_path / "run", sharded.root, settings=FEW | {"steps": 3})
    assert [row["step"] for row in run.rows() if row["split"] == "train"] == [1, 2, 3]
    assert run.status()["state"] == "done"
    settings = {"stage": "latest", "random_encoders": 1, "data.size": 32, "draws": 1, "fractions": [1.0]}
    table = api.probe(tmp_path / "run", sharded.root, settings)
    assert {figure["label"] for figure in table["figures"]} >= {"bright"}
    page = api.report(run.folder)
    assert page == run.folder / "report.html" and "<svg" in page.read_text()
    folder = api.export(tmp_path / "run", {"stage": "latest", "formats": ["timm"]})
    assert (folder / "README.md").is_file()
    image = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        ours, exported = (api.encoder(where)(image) for where in (run.folder, folder))
    assert all(map(torch.equal, ours, exported)) and len({*map(len, ours)}) == 1


def test_views_are_seen_before_training(
    sharded: ShardedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step gets the same views: bright images of noise stay bright, distorted as far as is asked for."""
    monkeypatch.chdir(tmp_path)
    clean, distorted = api.views(sharded.root, settings=FEW)
    assert [tuple(view.shape) for view in clean + distorted] == [(8, 1, 32, 32)] * 4
    means = torch.stack(clean).mean((2, 3, 4))
    assert torch.equal(means[0] > 0.4, means[1] > 0.4), "two crops are of different images"
    assert all(view.min() >= 0 and view.max() <= 1 for view in clean + distorted)
    assert not any(map(torch.equal, clean, distorted)) and not torch.equal(*clean)
    plain = {f"views.{name}.p": 0 for name in ("jitter", "blur", "cutout", "inverse_cutout", "shuffle")}
    same, undistorted = api.views(sharded.root, settings=FEW | plain)
    assert all(map(torch.equal, clean, same)) and all(map(torch.equal, same, undistorted))
    assert not torch.equal(api.views(sharded.root, settings=FEW | {"seed": 1})[0][0], clean[0])
    assert [*tmp_path.iterdir()] == []


def test_mistakes_raise_the_commands_message(sharded: ShardedDataset, tmp_path: Path) -> None:
    with pytest.raises(api.UserError, match=r"unknown key data\.bacth; did you mean 'data\.batch'"):
        api.pretrain(tmp_path / "run", sharded.root, settings={"data.bacth": 3})
    with pytest.raises(api.UserError, match=r"data\.split=trian"):
        api.pretrain(tmp_path / "run", sharded.root, settings=FEW | {"data.split": "trian"})
    with pytest.raises(api.UserError, match="not a run folder"):
        api.export(tmp_path / "run")
    assert not (tmp_path / "run" / "status.json").exists()
    with pytest.raises(api.UserError, match=r"/run: neither a run's folder nor an export that says which images"):
        api.encoder(tmp_path / "run")


def test_a_dataset_without_labels_and_a_run_in_a_dataset_are_refused(images: Path, tmp_path: Path) -> None:
    settings = {"recipe.images": images, "workers": 1, "recipe.burned_in": "keep"}
    unlabelled = api.shard(tmp_path / "out", recipe="folder", settings=settings)
    with pytest.raises(api.UserError, match=r"out has no labels$"):
        api.LabelledImages(unlabelled.root, "train")
    before = sorted(unlabelled.root.rglob("*"))
    with pytest.raises(api.UserError, match=r"run=.*out is a dataset: name a folder for the run"):
        api.pretrain(unlabelled.root, unlabelled.root, settings=FEW)
    assert sorted(unlabelled.root.rglob("*")) == before


def test_a_script_that_its_workers_import_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While a worker imports the script that started it, multiprocessing marks the worker's process."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(api.UserError, match="below `if __name__ == '__main__':`"):
        api.shard(tmp_path / "shards", recipe="folder", settings={"recipe.images": tmp_path})


def test_labelled_images_are_the_files(images: Path, sharded: ShardedDataset) -> None:
    """Each image, read by Pillow, is found by its label and pixels; sizes as stored, or as asked."""
    files = [np.asarray(Image.open(images / f"{i}.png")) for i in range(48)]
    found = []
    for split in sharded.splits:
        for image, labels in api.LabelledImages(sharded.root, split):
            pixels = (image[0] * 255).round().byte().numpy()
            (number,) = [i for i, file in enumerate(files) if file.shape == pixels.shape and (file == pixels).all()]
            assert labels.tolist() == [number % 2]
            found.append(number)
    assert sorted(found) == list(range(48))
    small = api.LabelledImages(sharded.root, "train", size=32, transform=lambda image: image.mean())
    assert small.label_names == ("bright",) and len(small) == sharded.info.counts["train"]
    loaded = DataLoader(api.LabelledImages(sharded.root, "train", size=32), batch_size=8, num_workers=2, timeout=60)
    assert sum(len(labels) for _, labels in loaded) == len(small)
    brightness = [(float(image), float(labels[0])) for image, labels in small]
    assert all((mean > 0.4) == bool(label) for mean, label in brightness)


def block_with(word: str) -> str:
    """The page's block of code that has this word; it has at most 25 lines."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in block]
    assert len([line for line in code.splitlines() if line]) <= 25
    return str(code)


def replaced(code: str, **changes: str) -> str:
    for old, new in changes.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


def test_the_pages_loop_with_a_method_trains(
    sharded: ShardedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a smaller size. InfoNCE rises while the queue fills, so what is looked at is what a step moves: the encoder by
    its gradients, the key encoder after it, the whole queue by keys of the last eight batches."""
    changes = {"64, 32, 10": "32, 8, 3", "resnet18": "test_resnet", "out/shards/mine": str(sharded.root)}
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(replaced(block_with("MoCo"), **changes), space)
    epochs, losses = zip(*(map(float, line.split()) for line in capsys.readouterr().out.splitlines()), strict=True)
    assert epochs == (0, 1, 2) and np.isfinite(losses).all()
    trained, followed = space["method"].encoder.state_dict(), space["method"].key_encoder.state_dict()
    saved = torch.load("encoder.pt", weights_only=True)
    assert all(torch.equal(saved[name], value) for name, value in trained.items())
    assert any(not torch.equal(saved[name], value) for name, value in followed.items())
    assert space["method"].queue_age.max() <= 8


def test_the_pages_loop_on_volumes_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a smaller size: views differ, are in [0, 1], and the loss falls."""
    volumes = make(tmp_path / "shards", random_volumes(5))
    changes = {"out/shards/volumes": str(volumes.root), "(32, 32, 32)": "(16, 16, 16)", "(0, 100)": "(0, 12)"}
    space: dict[str, Any] = {}
    exec(replaced(block_with("VICRegLoss"), **changes), space)
    steps, losses = zip(*(map(float, line.split()) for line in capsys.readouterr().out.splitlines()), strict=True)
    assert steps == tuple(range(12)) and sum(losses[-4:]) < sum(losses[:4])
    first, second = space["given"].views
    assert first.shape == (4, 1, 16, 16, 16) and not torch.equal(first, second)
    assert all(view.min() >= 0 and view.max() <= 1 for view in (first, second))


def test_the_page_says_of_its_names_what_their_docstrings_say() -> None:
    """If not: ``python tests/api_page.py`` writes it. Functions of ``api`` have a table of their own."""
    text = PAGE.read_text()
    assert filled(text) == text
    assert set(api.__all__) <= set(re.findall(r"\bapi\.(\w+)", text))
