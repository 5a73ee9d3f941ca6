"""Maps of `embed what=map`: what they hold, where they lie, and segmentation by their nearest cells."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from dataset.conftest import make_dataset
from recorded import record
from safetensors.torch import save_file
from torch import nn
from train.data.volumes import WORDS, make
from train.models.stub3d import TinyEncoder

from dira_scale import api
from dira_scale.base.config.compose import compose
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import read_cases
from dira_scale.embed import main
from dira_scale.probe import main as probe
from dira_scale.train.runs.checkpoint import Checkpointer, replicated

__all__ = ["make_dataset"]
ONE = ["threads=1", "data.workers=1"]
VIT = ["model.encoder=test_vit", "data.size=32", "init=random"]
Make = Callable[..., ShardedDataset]


def dotted(shape: Sequence[int], at: Sequence[int], dtype: type = np.uint8, bright: int = 250) -> np.ndarray:
    image = np.full(shape, 10, dtype)
    image[tuple(slice(i - 1, i + 2) for i in at)] = bright
    return image


def test_the_patch_of_a_bright_dot_lies_on_it(make_dataset: Make, tmp_path: Path) -> None:
    """In images of several sizes, each of them stretched; by what changes in the map as the dot comes."""
    shapes, dots = [(40, 64), (40, 64), (96, 50)], [(9, 47), (30, 13), (61, 20)]
    images = [image for shape, at in zip(shapes, dots, strict=True)
              for image in (np.full(shape, 10, np.uint8), dotted(shape, at))]  # fmt: skip
    dataset = make_dataset(images)
    out = api.embed(tmp_path / "out", dataset.root, {"init": "random", "model.encoder": "test_vit", "data.size": 64,
                                                     "what": "map", "dtype": "float16", "threads": 1})  # fmt: skip
    embeddings = api.Embeddings.open(out)
    assert embeddings.values.shape == (6, 64, 4, 4) and embeddings.about.level == "patches"
    scale, offset = embeddings.places["scale"], embeddings.places["offset"]
    for number, (shape, at) in enumerate(zip(shapes, dots, strict=True)):
        before, after = 2 * number, 2 * number + 1
        np.testing.assert_allclose(scale[after] * 4, shape)
        change = np.abs(embeddings.values[after] - embeddings.values[before]).sum(0)
        found = np.array(np.unravel_index(change.argmax(), change.shape))
        middle = scale[after] * found + offset[after]
        assert (np.abs(middle - at) <= scale[after] / 2).all(), (at, middle)


def recorded_run(tmp_path: Path, encoder: nn.Module, *words: str) -> Path:
    """The folder of a pretraining run with ``encoder``, as of the toy network of volumes."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    record(run, compose("pretrain", [*WORDS, f"run={run}", "data.shards=any", *words]))
    tensors = {f"method.base.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    writer = Checkpointer(run / "checkpoints", keep=1, rank=0, world=1)
    writer.save(1, replicated(tensors), {"stage": 0, "best": {"di": 1.0}}, {"di": 1})
    writer.wait()
    return run


def test_the_cell_of_a_bright_ball_in_a_volume_lies_on_it_in_millimetres(tmp_path: Path) -> None:
    """By an encoder whose cells see what they cover; through the affine alone."""
    encoder = TinyEncoder(4).eval()
    for level in encoder.levels:
        nn.init.constant_(level[0].weight, 0.0)
        level[0].weight.data[:, :, 1:, 1:, 1:] = 1 / 8  # the mean of 2 x 2 x 2
        nn.init.zeros_(level[0].bias)
    at = (20, 9, 30)
    volume = dotted((24, 40, 36), at, np.int16)
    toy = make(tmp_path / "toy", [volume, volume.copy()], val=1, spacing=[(2, 1, 1)] * 2)
    out = str(tmp_path / "out")
    run = recorded_run(tmp_path, encoder, "data.size=[16,16,16]", "data.range=[0,250]")
    words = [f"run={run}", f"data.shards={toy.root}", "data.split=val", "what=map"]
    assert main([*words, f"out={out}", *ONE]) == 0
    embeddings = api.Embeddings.open(out)
    assert embeddings.values.shape == (1, 8, 4, 4, 4)
    z, y, x = np.unravel_index(embeddings.values[0, 0].argmax(), (4, 4, 4))
    mm = embeddings.places["affine"][0] @ [x, y, z, 1]
    expected = np.reshape(toy.cell("affine", 1), (4, 4)) @ [*at[::-1], 1]
    cell = np.array([36, 40, 24]) / 4 * np.array([1, 1, 2])
    assert (np.abs(mm - expected)[:3] <= cell / 2).all()


@pytest.mark.parametrize(
    ("encoder", "layer", "shape"), [("test_vit", "last", (64, 2, 2)), ("test_resnet", "3", (48, 4, 4))]
)
def test_maps_are_those_of_plain_timm_and_their_mean_is_the_vector(
    encoder: str, layer: str, shape: tuple[int, ...], make_dataset: Make, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    pixels = np.stack([generator.integers(0, 255, (32, 32), np.uint8) for _ in range(3)])
    dataset = make_dataset([*pixels])
    torch.manual_seed(0)
    model = timm.create_model(encoder, num_classes=0, **({"img_size": 32} if encoder == "test_vit" else {})).eval()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    words = [f"init={tmp_path / 'a.safetensors'}", f"model.encoder={encoder}", "data.size=32", f"layer={layer}", *ONE]
    for what in ("map", "pooled"):
        assert main([*words, f"what={what}", f"data.shards={dataset.root}", f"out={tmp_path / what}"]) == 0
    maps, vectors = (api.Embeddings.open(tmp_path / what).values for what in ("map", "pooled"))
    assert maps.shape == (3, *shape) and maps.dtype == np.float32
    np.testing.assert_allclose(maps.mean((2, 3)), vectors, atol=1e-5)
    with torch.inference_mode():
        images = torch.from_numpy(pixels[:, None].astype(np.float32) / 255).expand(-1, 3, -1, -1)
        if encoder == "test_vit":
            tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
            expected = tokens.transpose(1, 2).unflatten(2, (2, 2))
        else:
            expected = model.forward_intermediates(images, intermediates_only=True)[2]
    np.testing.assert_allclose(maps, expected, atol=1e-4)
    about = json.loads((tmp_path / "map" / "_embedding.json").read_text())
    assert (about["pooling"], about["sides"]) == ("none", [*shape[1:]])
    assert "sides" not in json.loads((tmp_path / "pooled" / "_embedding.json").read_text())


def brute_force(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """[m, K], one query and one neighbour after the other, in float64."""
    votes = np.zeros((len(queries), labels.shape[1]))
    for m, query in enumerate(queries.astype(float)):
        similarity = bank.astype(float) @ query / np.linalg.norm(query) / np.linalg.norm(bank.astype(float), axis=1)
        voters = [n for n in np.argsort(-similarity, kind="stable") if not np.isnan(labels[n]).any()][:k]
        weights = np.array([np.exp(similarity[n] / temperature) for n in voters])
        votes[m] = sum(w * labels[n] for w, n in zip(weights, voters, strict=True)) / weights.sum()
    return votes


def test_masks_by_the_nearest_cells_are_those_of_brute_force(make_dataset: Make, tmp_path: Path) -> None:
    """Two classes, also unknown pixels; Dice by case, a table, a smaller share of the patients."""
    generator = np.random.default_rng(1)
    images, masks = [], []
    for n in range(12):
        mask = np.zeros((32, 48), np.uint8)
        y, x = generator.integers(0, 16, 2)
        mask[y : y + 16, x : x + 20] = 1 + n % 2
        image = generator.integers(0, 40, mask.shape) + 60 * mask
        images.append(image.astype(np.uint8))
        masks.append(mask)
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    dataset = make_dataset(images, masks=masks, splits=splits)
    keys = {"init": "random", "model.encoder": "test_vit", "data.size": 64, "what": "map", "threads": 1}
    api.embed(tmp_path / "maps", dataset.root, keys)
    out = tmp_path / "probe"
    words = [f"embeddings={tmp_path / 'maps'}", f"data.shards={dataset.root}", f"out={out}"]
    words += ["masks.classes={upper: 1, lower: 2}", "masks.k=7", "masks.temperature=0.05", "fractions=[1.0,0.5]"]
    words += ["draws=2"]
    assert probe(words) == 0
    figures = json.loads((out / "probe.json").read_text())["figures"]
    assert len(figures) == 2 * 3 and "Dice" in (out / "probe.md").read_text()

    embeddings = api.Embeddings.open(tmp_path / "maps")
    cells = {
        split: embeddings.values[embeddings.rows(split)].reshape(-1, 64, 16).transpose(0, 2, 1) for split in splits
    }
    stored = {split: [masks[row] for row in dataset.rows(split)] for split in ("train", "test")}
    labels = np.stack([[(mask == value).reshape(4, 8, 4, 12).mean((1, 3)).ravel() for value in (0, 1, 2)]
                       for mask in stored["train"]]).transpose(0, 2, 1).reshape(-1, 3)  # fmt: skip
    dice: dict[str, list[float]] = {"upper": [], "lower": []}
    for maps, mask in zip(cells["test"], stored["test"], strict=True):
        votes = brute_force(cells["train"].reshape(-1, 64), labels, maps, 7, 0.05).T.reshape(1, 3, 4, 4)
        answer = nn.functional.interpolate(torch.from_numpy(votes), mask.shape, mode="bilinear")[0].argmax(0).numpy()
        for name, value in (("upper", 1), ("lower", 2)):
            both = (answer == value).sum() + (mask == value).sum()
            dice[name].append(2 * ((answer == value) & (mask == value)).sum() / both if both else 1.0)
    for name, values in dice.items():
        (row,) = [f for f in figures if (f["label"], f["fraction"]) == (name, 1.0)][:1]
        assert row["metric"] == "Dice" and row["spread"]["mean"] == pytest.approx(np.mean(values), abs=0.005)
    assert 100 * np.mean(dice["upper"]) > 5  # something was found
    cases = read_cases(out / "cases" / "0.parquet")
    assert [case.label for case in cases] == ["upper", "lower"] * 4
    by_case = [1.0 if case.empty == "both" else case.dice for case in cases if case.label == "upper"]
    np.testing.assert_allclose(by_case, dice["upper"], atol=0.02)


def test_mistakes_are_one_line(make_dataset: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (32, 32), np.uint8) for _ in range(6)]
    masks = [(image > 128).astype(np.uint8) for image in images]
    splits = ["train", "train", "val", "val", "test", "test"]
    dataset = make_dataset(images, masks=masks, splits=splits)
    words = [*VIT, f"data.shards={dataset.root}", *ONE]
    assert main([*words, "what=map", "layer=class", f"out={tmp_path / 'x'}"]) == 2
    assert "layer=class: expected last: a map is of places" in capsys.readouterr().err
    for what in ("map", "pooled"):
        assert main([*words, f"what={what}", f"out={tmp_path / what}"]) == 0
    maps, vectors = f"embeddings={tmp_path / 'map'}", f"embeddings={tmp_path / 'pooled'}"
    both, shards = f"embeddings=[{tmp_path / 'map'},{tmp_path / 'pooled'}]", f"data.shards={dataset.root}"
    for given, printed in (
        ([maps], "maps are probed against masks: name their dataset, data.shards=OUT"),
        ([vectors, shards], "beside embeddings=…: these have features already; leave data.shards out"),
        ([both], "embeddings: some have maps and some vectors"),
        ([maps, shards, "probes=[knn]"], "probes: is of vectors, and embeddings=… are maps"),
        ([maps, shards, "masks.classes={a: 2}"], "also have the value 1: name all that masks have, masks.classes="),
        ([maps, shards, "masks.classes={a: 0}"], "masks.classes={a: 0}: give each class a value of its own"),
    ):
        capsys.readouterr()
        assert probe([*given, f"out={tmp_path / 'probe'}"]) == 2
        error = capsys.readouterr().err
        assert printed in error and len(error.strip().splitlines()) == 1
