"""``python -m dira_scale.predict``: datasets and folders to probabilities and masks, and what it refuses."""

import csv
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import nibabel
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from archive.imaging.volumes.make import series as dicom_series
from dataset.conftest import make_dataset
from finetune.conftest import TINY, TINY_VOLUMES, discs
from harness import finish
from needs import need_extra
from system.faults import Job, killed_at
from train.data.volumes import plain_view

from dira_scale.api import export, shard
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes import read_volume_mask
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.schema import SCHEMA
from dira_scale.dataset.metrics.cases import LabelCase, read_cases
from dira_scale.finetune import main as finetune
from dira_scale.judge.evaluation.finetuned_network import NetworkFacts, StoredAs
from dira_scale.judge.evaluation.journal import FILE as UNFINISHED
from dira_scale.predict import main as predict
from dira_scale.predict.config import check_format
from dira_scale.predict.images import DatasetImages, Loaded
from dira_scale.train.data.config import as_stored
from dira_scale.train.distributed.config import AUTO, PRECISIONS
from dira_scale.train.models.network import Network
from dira_scale.train.models.weights import trained_encoder, trained_network
from dira_scale.train.runs.reader import RunReader
from dira_scale.train.runs.shape import shaped

__all__ = ["discs", "make_dataset"]
pytestmark = pytest.mark.usefixtures("libraries")
CLASSES = "task.classes={upper: 1, lower: 2}"
ONE = ["threads=1", "workers=1"]
PAIR = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "dira_scale.predict"]


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [*csv.DictReader(file)]


def trained(run: Path) -> Network:
    reader = RunReader(run)
    tensors = reader.load(None)[0]
    return trained_network(reader.description, trained_encoder(reader.description, tensors), tensors)


@pytest.mark.system
def test_probabilities_of_a_dataset_are_those_of_the_runs_evaluation(
    discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also through an export, and after a kill; with the thresholds and temperatures of the run."""
    run, out = tmp_path / "run", tmp_path / "out"
    words = ["evaluate.crops=ten_crops", "evaluate.share=0.8", "evaluate.temperature=true", "normalise=imagenet"]
    assert finetune([*TINY, f"data.shards={discs}", f"run={run}", "task=labels", *words]) == 0
    requested = [f"data.shards={discs}", f"run={run}"]
    assert predict([*requested, f"out={out}", "batch=5"]) == 0
    cases = [case for case in read_cases(run / "cases" / "test.parquet") if isinstance(case, LabelCase)]
    rows = {row["key"]: row for row in table(out / "predictions.csv")}
    assert len(rows) == 12 and [*next(iter(rows.values()))] == [
        "key", "bright", "coin", "bright calibrated", "coin calibrated",
    ]  # fmt: skip
    for case in cases:
        assert float(rows[case.key][case.label]) == pytest.approx(case.probability, abs=1e-6)
    about, results = (json.loads(path.read_text()) for path in (out / "predict.json", run / "results.json"))
    assert about["thresholds"] == results["thresholds"] and about["temperatures"] == results["temperatures"]
    values = np.array([float(rows[c.key][c.label]) for c in cases if c.label == "coin"])
    after = np.array([float(rows[c.key]["coin calibrated"]) for c in cases if c.label == "coin"])
    logits = np.log(values / (1 - values)) / results["temperatures"]["coin"]
    np.testing.assert_allclose(after, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    assert str(tmp_path) not in (out / "predict.json").read_text()

    before = (out / "predictions.csv").read_bytes()
    assert predict([*requested, f"out={out}"]) == 0 and "is complete" in capsys.readouterr().out
    assert predict([f"data.shards={discs}", f"run={run}", "data.split=val", f"out={out}"]) == 2
    assert "has results of another data" in capsys.readouterr().err

    # The validation cases, which thresholds are chosen on, are of the same ten crops.
    assert predict([*requested, "data.split=val", f"out={tmp_path / 'val'}"]) == 0
    rows = {row["key"]: row for row in table(tmp_path / "val" / "predictions.csv")}
    for case in read_cases(run / "cases" / "val.parquet"):
        assert isinstance(case, LabelCase)
        assert float(rows[case.key][case.label]) == pytest.approx(case.probability, abs=1e-6)

    exported = export(run, {"formats": ["plain"]})
    again = tmp_path / "again"
    assert predict([f"data.shards={discs}", f"run={exported}", f"out={again}", "batch=5"]) == 0
    assert (again / "predictions.csv").read_bytes() == before
    assert str(tmp_path) not in (exported / "predict.json").read_text()

    whole, killed, calls = DatasetImages.load, tmp_path / "killed", list[int]()

    def load(images: DatasetImages, number: int) -> Loaded:
        calls.append(number)
        if len(calls) == 9:
            raise OSError(5, "Input/output error")
        return whole(images, number)

    monkeypatch.setattr(DatasetImages, "load", load)
    assert predict([*requested, f"out={killed}", "batch=5", "workers=1"]) == 2
    assert "what is finished is kept: fix the disk, then run the same command again" in capsys.readouterr().err
    assert predict([*requested, f"out={killed}", "batch=5", "workers=1"]) == 0
    assert calls[-7:] == [*range(5, 12)] and (killed / "predictions.csv").read_bytes() == before

    alone, pair = ([*requested, f"out={tmp_path / name}", *ONE] for name in ("alone", "pair"))
    assert predict([*alone, "batch=5"]) == 0
    finish([*PAIR, *pair, "batch=5"])  # rounds of 5 and 5, then of 2
    assert files(tmp_path / "pair") == files(tmp_path / "alone")

    other = export(run, {"out": tmp_path / "timm"})
    assert predict([f"data.shards={discs}", f"run={other}", f"out={tmp_path / 'timm_out'}"]) == 2
    assert "export a fine-tuned run with formats=plain" in capsys.readouterr().err


def conversion(folder: Path, out: Path, **recipe: Any) -> ShardedDataset:
    """A dataset of ``folder``'s images, split into train, val and test by the first letter of their names. Masks are in
    a folder beside it."""
    splits = {"a": "train", "b": "val", "c": "test"}
    rows = [f"{path.name},{splits[path.name[0]]},{path.name},masks/{path.name}" for path in sorted(folder.iterdir())]
    (out.parent / "labels.csv").write_text("\n".join(["file,split,patient,mask", *rows]))
    settings: dict[str, Any] = {"recipe.images": folder, "recipe.labels": out.parent / "labels.csv"}
    settings |= {"recipe.columns.split": "split", "workers": 1, "recipe.burned_in": "keep"}
    return shard(out, recipe.pop("kind", "folder"), settings | {f"recipe.{k}": v for k, v in recipe.items()})


@pytest.mark.system
def test_masks_of_odd_images_are_of_their_sources_size(discs: Path, tmp_path: Path) -> None:
    """A folder of PNGs, read as a dataset with ``recipe.max_side`` reads them; broken files are named."""
    run, images = tmp_path / "run", tmp_path / "images"
    words = ["task=masks", CLASSES, "validate.norm_passes=0"]  # else a grey level's rounding is felt in noise
    assert finetune([*TINY, f"data.shards={discs}", f"run={run}", *words]) == 0
    (images / "below").mkdir(parents=True)
    generator = np.random.default_rng(0)
    sources = {"below/b.png": (61, 83), "a.png": (40, 33), "d.jpg": (50, 50)}
    for name, size in sources.items():
        PIL.Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(images / name)
    (images / "c.png").write_bytes((images / "a.png").read_bytes()[:200])
    like = conversion_of_discs(tmp_path, max_side=48)
    requested = [f"run={run}", f"images={images}", f"like={like}"]
    assert predict([*requested, f"out={tmp_path / 'out'}", "names=source"]) == 0
    network, out = trained(run), tmp_path / "out"
    for name, size in sources.items():
        mask = np.asarray(PIL.Image.open(out / "masks" / Path(name).with_suffix(".png")))
        assert mask.shape == size and {*np.unique(mask)} <= {0, 1, 2}
        if name != "d.jpg":
            scores = plainly(network, images / name, 48)
            (second, first), classes = np.sort(scores, 0)[1:], scores.argmax(0)
            sure = first - second > 0.01  # Pillow rounds otherwise by a grey level
            np.testing.assert_array_equal(mask[sure], classes[sure])
            assert sure.mean() > 0.5
    (refused,) = table(out / "quarantine.csv")
    assert refused["key"] == "c.png" and refused["stage"] == "decode"

    again, command = tmp_path / "again", [*requested, "names=source", *ONE]
    assert predict([*command, f"out={tmp_path / 'whole'}"]) == 0
    process, environment = killed_at([sys.executable, *PAIR[-2:], *command, f"out={again}"], "os.rename:/b.png:1")
    with Job(process, again, **environment) as job:
        assert job.end() == -signal.SIGKILL, job.printed
    assert len((again / UNFINISHED).read_text().splitlines()) == 2 and [*(again / "masks").glob("*.png")]
    finish([*PAIR, *command, f"out={again}"])  # two processes go on where one was killed
    assert files(again) == files(tmp_path / "whole")

    assert predict([*requested, f"out={tmp_path / 'hashed'}", "window=sliding"]) == 0
    written = json.loads((tmp_path / "hashed" / "predict.json").read_text())
    assert (written["predicted"], written["quarantined"], written["window"]) == (3, 1, "sliding")
    names = [path.name for path in (tmp_path / "hashed" / "masks").iterdir()]
    assert len(names) == 3 and all(len(name) == len(24 * "0" + ".png") for name in names)
    assert "c.png" in (tmp_path / "hashed.rejected.csv").read_text()
    assert "c.png" not in (tmp_path / "hashed" / "quarantine.csv").read_text()

    wrong = shutil.copytree(discs, tmp_path / "wrong") / "manifest.parquet"  # a payload of another size than its row
    rows = pq.read_table(wrong).to_pylist()
    rows[0]["height"] += 1
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), wrong)
    asked = [f"run={run}", f"data.shards={wrong.parent}", "data.split=all", f"out={tmp_path / 'partly'}"]
    assert predict(asked) == 0
    (refused,) = table(tmp_path / "partly" / "quarantine.csv")
    assert (refused["key"], refused["stage"]) == (rows[0]["key"], "decode") and "its header says" in refused["reason"]


def conversion_of_discs(tmp_path: Path, **recipe: Any) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for name in "abc":
        PIL.Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(folder / f"{name}.png")
    return conversion(folder, tmp_path / "like", **recipe).root


def plainly(network: Network, path: Path, most: int) -> np.ndarray:
    """The image shrunk by Pillow, shown whole to the network, its probabilities resized in the same two steps."""
    image = PIL.Image.open(path)
    size = image.size
    if max(size) > most:
        image = image.resize([round(side * most / max(size)) for side in size], PIL.Image.Resampling.BILINEAR)
    view = image.resize((32, 32), PIL.Image.Resampling.BILINEAR)
    with torch.no_grad():
        scores = network(torch.from_numpy(np.asarray(view, np.float32) / 255)[None, None]).softmax(1)
    for sides in (image.size, size):
        scores = F.interpolate(scores, sides[::-1], mode="bilinear")
    return scores[0].numpy()


def oblique(path: Path, shape: tuple[int, ...], turned: float) -> nibabel.Nifti1Image:
    """Axes permuted and mirrored, 1 to 2.6 mm apart, all at an angle to the patient's; bright balls on noise."""
    c, s = np.cos(turned), np.sin(turned)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]) @ np.diag([1.3, 2.6, 1.0])
    affine[:3, 3] = -12, 30, 7
    at = np.indices(shape) - np.array(shape).reshape(3, 1, 1, 1) / 2
    values = np.random.default_rng(len(path.name)).normal(size=shape) + 4 * ((at**2).sum(0) < 36)
    image = nibabel.Nifti1Image((100 * values).astype(np.int16), affine)
    image.header.set_sform(affine, 1)
    image.header["descrip"] = b"a name"
    nibabel.save(image, path)
    return image


@pytest.mark.system
@pytest.mark.parametrize("spacing", [None, (2.1, 1.0, 1.2)], ids=["stored voxels", "another spacing and range"])
def test_masks_of_oblique_volumes_are_on_their_sources_grid(tmp_path: Path, spacing: tuple[float, ...] | None) -> None:
    """A network of 3D, windows over volumes that a recipe resamples; against MONAI and SciPy called plainly."""
    from monai.inferers import sliding_window_inference
    from scipy.ndimage import map_coordinates

    folder, run, out = tmp_path / "nifti", tmp_path / "run", tmp_path / "out"
    for path in (folder, tmp_path / "masks"):
        path.mkdir()
    shapes = {"a.nii.gz": (31, 18, 40), "b.nii.gz": (30, 17, 36), "c.nii": (33, 19, 41)}
    sources = {name: oblique(folder / name, shape, 0.3) for name, shape in shapes.items()}
    for name, source in sources.items():
        ball = np.asarray(source.dataobj) > 200
        nibabel.save(nibabel.Nifti1Image(ball.astype(np.uint8), source.affine), tmp_path / "masks" / name)
    recipe = {"columns.mask": "mask", "volume.spacing": [1.7, 1.1, 1.4]}
    dataset = conversion(folder, tmp_path / "shards", kind="volumes", modality="MR", **recipe)
    words = ["task=masks", "data.size=[16,16,16]", "data.batch=2", "model.bn_groups=1"]
    words += ["stages.finetune.epochs=12", "optim.optimizer.lr=3e-2"]
    if spacing:
        words += [f"data.spacing={list(spacing)}", "data.range=[-30,230]", "data.pad=true"]
    assert finetune([*TINY_VOLUMES, *words, f"data.shards={dataset.root}", f"run={run}"]) == 0
    assert predict([f"run={run}", f"images={folder}", f"out={out}", "names=source", "probabilities=true"]) == 0
    network = trained(run)
    for row in range(3):
        name = [*sources][row]
        source, written = sources[name], nibabel.load(out / "masks" / f"{name[0]}.nii.gz")
        mask = np.asarray(written.dataobj)
        assert written.shape == source.shape and mask.dtype == np.uint8
        np.testing.assert_array_equal(written.affine, nibabel.load(folder / name).affine)
        assert bytes(written.header["descrip"]).strip(b"\0") == b""
        low, high = (np.float32(dataset.cell(name, row)) for name in ("low", "high"))
        voxels = dataset.voxels(row)[:]
        sides = voxels.shape
        if spacing:
            low, high = np.float32(-30), np.float32(230)
            size = [round(side * mm / to) for side, mm, to in zip(sides, (1.7, 1.1, 1.4), spacing, strict=True)]
            assert size != [*sides]
            voxels = np.rint(plain_view(voxels, (0, 0, 0, *sides), (False,) * 3, size))
        image = torch.from_numpy(np.clip((np.float32(voxels) - low) / (high - low), 0, 1))[None, None]
        with torch.no_grad():
            scores = sliding_window_inference(image, (16,) * 3, 4, lambda x: network(x).sigmoid(), 0.5, "gaussian")
        scores = torch.nn.functional.interpolate(scores, sides, mode="trilinear")
        stored = np.array(dataset.cell("affine", row)).reshape(4, 4)
        indices = np.indices(source.shape).reshape(3, -1)
        x_y_z = np.linalg.inv(stored) @ source.affine @ np.concatenate([indices, np.ones((1, indices.shape[1]))])
        expected = map_coordinates(scores[0, 0].numpy(), x_y_z[2::-1], order=1, mode="nearest").reshape(source.shape)
        sure = np.abs(expected - 0.5) > 1e-4
        np.testing.assert_array_equal(mask[sure], expected[sure] > 0.5)
        given = nibabel.load(out / "probabilities" / f"{name[0]}.nii.gz")
        np.testing.assert_allclose(np.asarray(given.dataobj)[..., 0], expected, atol=1e-4)
        np.testing.assert_array_equal(given.affine, written.affine)
        assert 0 < mask.mean() < 1 and sure.mean() > 0.99

    if spacing is None:
        series_become_segmentations_of_the_same_masks(run, dataset.root, tmp_path)

    of_dataset = tmp_path / "of_dataset"  # on its own grid
    assert predict([f"run={run}", f"data.shards={dataset.root}", f"out={of_dataset}"]) == 0
    row = int(dataset.rows("test")[0])
    (file,) = (of_dataset / "masks").iterdir()
    assert file.name == f"{dataset.cell('key', row)}.nii.gz"
    written = nibabel.load(file)
    np.testing.assert_allclose(written.affine, np.array(dataset.cell("affine", row)).reshape(4, 4), rtol=1e-6)
    assert written.shape == dataset.shape(row)[::-1]


def series_become_segmentations_of_the_same_masks(run: Path, like: Path, tmp_path: Path) -> None:
    """Read back as `shard` reads masks."""
    need_extra("dicomseg")
    at = np.indices((24, 40, 44)) - np.reshape([12, 20, 22], (3, 1, 1, 1))
    for name, middle in (("one", 0), ("two", 4)):
        ball = 100 * np.random.default_rng(middle).normal(size=at.shape[1:]) + 400 * (((at - middle) ** 2).sum(0) < 36)
        dicom_series(tmp_path / "series" / name, ball, Modality="MR", SeriesInstanceUID=f"1.2.{middle}")
    words = [f"run={run}", f"images={tmp_path / 'series'}", f"like={like}", *ONE]
    assert predict([*words, f"out={tmp_path / 'seg'}", "format=dicomseg"]) == 0
    assert predict([*words, f"out={tmp_path / 'nii'}", "format=nifti"]) == 0
    for path in (tmp_path / "nii" / "masks").iterdir():
        nifti = nibabel.load(path)
        volume = Volume(np.zeros(nifti.shape[::-1], np.int16), nifti.affine, 0, 1)
        mask = read_volume_mask(tmp_path / "seg" / "masks" / path.name.replace(".nii.gz", ".dcm"), volume)
        np.testing.assert_array_equal(mask, np.asarray(nifti.dataobj).T)
        assert mask.any()
    assert len([*(tmp_path / "seg" / "masks").iterdir()]) == 2


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["data.shards=x", "images=y"], "images=y and data.shards=x: leave one of them out"),
        ([], "give one of images=FOLDER, new files, and data.shards=OUT, a dataset"),
        (["data.shards=x", "names=source"], "names=source: a dataset does not have its files' names; use keys"),
        (["data.shards=x", "like=y"], "like: says how a folder's images are read"),
        (["images=y"], "run=nowhere is not a folder: name a fine-tuned run, or its export"),
    ],
)
def test_what_cannot_be_is_reported_at_once(words: list[str], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(["run=nowhere", "out=out", *words]) == 2
    assert printed in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "pooled", "dimensions", "printed"),
    [
        (["format=dicomseg", "images=x"], True, 2, "format=dicomseg: is of masks, and run=r has none"),
        (["probabilities=true", "data.shards=x"], True, 3, "is of masks, and run=r has none"),
        (["format=nifti", "data.shards=x"], False, 2, "format=nifti, and probabilities, are of volumes"),
        (["probabilities=true", "data.shards=x"], False, 2, "are of volumes: run=r is of images"),
    ],
)
def test_a_format_of_other_answers_is_refused(words: list[str], pooled: bool, dimensions: int, printed: str) -> None:
    with pytest.raises(UserError, match=printed):
        check_format(compose("predict", ["run=r", "out=o", *words]), "r", pooled, dimensions)


def test_an_export_may_say_all_that_a_run_may() -> None:
    """Precisions and spacings of predict.json are those of the configuration."""
    hints = get_type_hints(NetworkFacts)
    assert {*get_args(hints["precision"])} == {AUTO, *PRECISIONS}
    for spacing in (2, 1.5, [1.5], [5, 0.8, 0.8]):
        stored = as_stored(compose("finetune", ["init=random", "data.shards=any", f"data.spacing={spacing}"]).data)
        assert shaped(StoredAs, json.loads(json.dumps(stored, default=list)), "") == stored
