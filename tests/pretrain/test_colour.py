"""Images in colour through pretraining: from ImageNet's weights, pictures, figures; what does not fit is refused."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import xxhash
from archive.sources.miniatures_colour import colours
from dataset.conftest import row_of, write_dataset
from localize.made_up import sees_brightness
from PIL import Image
from safetensors.torch import save_file

from dira_scale.base.errors import DatasetError, UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.restoration import RestorationTable
from dira_scale.dataset.pixels import codecs
from dira_scale.dataset.pixels.outlines import side_by_side
from dira_scale.embed import main as embed
from dira_scale.finetune import main as finetune
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.localize.look import LocatedLabel, draw
from dira_scale.localize.results import LocatedBox
from dira_scale.predict import main as predict
from dira_scale.pretrain import main
from dira_scale.pretrain.pictures import GAP, Restoration, write_pictures
from dira_scale.report import main as report
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods import construct
from dira_scale.train.models.weights import trained_encoder, trained_network
from dira_scale.train.runs.reader import RunReader

MODEL = {"_target_": "TimmUNet", "encoder": "test_resnet", "decoder_channels": (8,) * 5, "bn_groups": 1}
MODEL |= {"zero_init_residual": False}
TINY = [
    "data.workers=1", "parallel.threads=1", "precision=fp32", "log_every=1", "tracker=none", "optim.warmup_epochs=0",
    "data.size=32", "data.batch=8", "model.encoder=test_resnet", "model.decoder_channels=[8,8,8,8,8]",
]  # fmt: skip
PRETRAIN = [
    *TINY, "experiment=small", "method.base.queue=16", "stages.di.epochs=1", "stages.dir.epochs=1",
    "stages.dira.epochs=1", "validate.batch=8", "validate.restored=4",
]  # fmt: skip
JITTER = ["views.jitter.saturation=0.4", "views.jitter.hue=0.1", "views.grey=0.2"]


def dataset(root: Path, grey: bool = False, count: int = 24) -> Path:
    """A third held out, whose label is whether red is the brightest."""
    shard, rows = b"", []
    for n in range(count):
        pixels = np.roll(colours(n) // np.array([1, 2, 3], np.uint8), n % 2, axis=2)
        pixels = np.ascontiguousarray(pixels[..., 0]) if grey else pixels
        payload = codecs.encode(pixels, "png")
        sides = {"height": 48, "width": 40, "channels": 1 if grey else 3, "low": 0.0, "high": 255.0}
        place = {"offset": len(shard), "size": len(payload), "xxh3": xxhash.xxh3_64_hexdigest(payload)}
        split = ("train", "train", "val", "test")[n % 4] if n % 8 < 4 else "train"
        facts = {"codec": "png", "patient": f"p{n}", "labels": [float(n // 8 % 2)], "split": split}
        rows.append(row_of(f"c{n}", **facts, **sides, **place))
        shard += payload
    return write_dataset(root, rows, {"train-000000.tar": shard}, label_names=["a"]).root


def test_imagenets_first_convolution_is_taken_as_it_is(tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet", num_classes=0).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "weights.safetensors")
    method = construct(
        {"_target_": "MoCo", "queue": 16}, MODEL | {"weights": str(tmp_path / "weights.safetensors")},
        ViewSpec(size=32), channels=3,
    )  # fmt: skip
    stem = next(tensor for name, tensor in weights.items() if tensor.dim() == 4)
    ours = [p for p in method.parameters() if p.shape == stem.shape and p.shape[1] == 3]
    assert ours and all(torch.equal(each, stem) for each in ours)


def test_every_encoder_sees_normalised_images() -> None:
    """The momentum encoder, too; a grey image is three. What is restored stays as it is."""
    methods = {}
    for normalise in (None, "imagenet"):
        torch.manual_seed(0)
        methods[normalise] = construct({"_target_": "MoCo", "queue": 16}, MODEL, ViewSpec(size=32), normalise=normalise)
        methods[normalise].eval()
    images = torch.rand(2, 1, 32, 32)
    mean, deviation = ([[[[each]] for each in values]] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = (images.expand(-1, 3, -1, -1) - torch.tensor(mean)) / torch.tensor(deviation)
    for part in ("encoder", "key_encoder"):
        plain, seen = (getattr(methods[key], part) for key in (None, "imagenet"))
        torch.testing.assert_close(seen(images)[-1], plain(expected)[-1])
    with pytest.raises(UserError, match="normalise=imagenet: expected a network of three channels for it, not of 2"):
        construct({"_target_": "MoCo", "queue": 16}, MODEL, ViewSpec(size=32), channels=2, normalise="imagenet")


def restoration() -> Restoration:
    clean = torch.from_numpy(np.stack([colours(n)[:32, :32] for n in range(3)])).permute(0, 3, 1, 2) / 255
    hole = torch.zeros_like(clean, dtype=torch.bool)
    hole[..., 4:12, 4:12] = True
    mirrored, spacing = torch.zeros(3, 2, dtype=torch.bool), np.ones((3, 2))
    return Restoration(clean, clean.masked_fill(hole, 0), hole, 1 - clean, mirrored, spacing)


def test_a_grid_of_pictures_is_in_colour_and_an_image_counts_once(tmp_path: Path) -> None:
    made = restoration()
    write_pictures(tmp_path, "dir", [made], rows=2)
    grid = np.asarray(Image.open(tmp_path / "dir.png"))
    assert grid.shape == (2 * (32 + GAP), 3 * (32 + GAP), 3)
    shown = grid[GAP // 2 : GAP // 2 + 32, GAP // 2 : GAP // 2 + 32]
    np.testing.assert_array_equal(shown, colours(0)[:32, :32])
    table = {row["restorer"]: row for row in json.loads((tmp_path / "restoration.json").read_text())}
    clean = made.clean.numpy()
    assert set(table) == {"mean", "distorted", "blur", "telea", "restored"} and {r["n"] for r in table.values()} == {3}
    assert table["restored"]["mse"] == pytest.approx(np.mean((1 - 2 * clean) ** 2), rel=1e-5)
    assert table["mean"]["mse"] == pytest.approx(np.mean(clean.var((2, 3))), rel=1e-4)
    alone = RestorationTable()  # the channels as images
    for parts in zip(made.clean, made.distorted, made.hole, made.restored, strict=True):
        for channel in range(3):
            alone.add(*(part[channel].numpy() for part in parts))
    for row in alone.rows("dir"):
        assert table[row["restorer"]]["mse"] == pytest.approx(row["mse"], rel=1e-5)
        assert table[row["restorer"]]["ssim"] == pytest.approx(row["ssim"], rel=1e-5)


def test_masks_and_maps_are_drawn_over_colours() -> None:
    image, mask = colours(1).astype(np.float32) / 255, np.zeros((48, 40), np.int64)
    drawn = np.asarray(Image.open(io.BytesIO(side_by_side(image, mask, mask))))
    assert drawn[:, 100:200].std(2).max() > 20
    seen = LocatedLabel(np.zeros((48, 40)), 0.5, np.array([0.0, 0, 48, 40]), {60.0: np.zeros((0, 4))})
    row = LocatedBox("k", "p", "a", (0.0, 0, 1, 1), 0.5, 0, 0.0, None, None)
    drawn = np.asarray(Image.open(io.BytesIO(draw(torch.from_numpy(image).movedim(-1, 0), seen, [row]))))[..., :3]
    for panel in np.array_split(drawn, 2, 1):  # where nothing speaks for the label the map hides no colour
        assert panel[60:].std(2).max() > 20


@pytest.mark.parametrize(
    "grey, words, printed",
    [
        (False, [], r"channels=1: .*has images of 3 channels, and test_resnet takes 1: use channels=3"),
        (True, ["channels=3"], r"channels=3: .*has images of 1 channel, and test_resnet takes 3: use channels=null"),
        (True, JITTER, r"views.grey are of images in colour, and those of .* are not: set each to 0, or shard with"),
    ],
    ids=["colour in grey", "grey in colour", "jitter of grey"],
)
def test_the_other_kind_is_refused_before_there_is_a_run(
    tmp_path: Path, grey: bool, words: list[str], printed: str, capsys: pytest.CaptureFixture
) -> None:
    shards = dataset(tmp_path / "toy", grey)
    assert main([*PRETRAIN, f"data.shards={shards}", f"run={tmp_path / 'run'}", *words]) == 2
    assert not (tmp_path / "run").exists()
    assert re.search(printed, capsys.readouterr().err)


def test_a_network_that_is_tuned_on_colours_takes_no_grey_images(tmp_path: Path) -> None:
    """One that is tuned on grey images, or on what is not known, takes one channel or three, as before."""
    made, shards = sees_brightness(16, 16), ShardedDataset.open(dataset(tmp_path / "toy", grey=True))
    encoder = SimpleNamespace(channels=(3, 8))
    trained = TrainedRun(SimpleNamespace(encoder=encoder), {**made.about, "network": "skin"})  # type: ignore[arg-type]
    trained.require_channels(shards, ["train"])
    trained = replace(trained, about={**trained.about, "conversion": {"colour": "rgb"}})
    with pytest.raises(DatasetError, match="toy has images of 1 channels, and the network skin takes 3: name a"):
        trained.require_channels(shards, ["train"])


@pytest.mark.system
def test_colours_are_learned_restored_drawn_tuned_predicted_and_embedded(tmp_path: Path) -> None:
    shards, run, tuned = dataset(tmp_path / "toy"), tmp_path / "run", tmp_path / "tuned"
    words = [*PRETRAIN, *JITTER, f"data.shards={shards}", "channels=3", "normalise=imagenet"]
    assert main([*words, f"run={run}"]) == 0
    reader = RunReader(run)
    tensors, _, _ = reader.load(None)
    described = reader.description
    assert (described.network.channels, described.input.channels, described.output.channels) == (3, 3, 3)
    network = trained_network(described, trained_encoder(described, tensors), tensors)
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    assert np.asarray(Image.open(run / "pictures/dira.png")).std(2).max() > 20
    assert report([f"run={run}"]) == 0 and "data:image/png" in (run / "report.html").read_text()
    out = tmp_path / "features"
    assert embed([f"run={run}", f"data.shards={shards}", f"out={out}", "threads=1", "data.workers=1"]) == 0
    given = [f"data.shards={shards}", f"init={run}", "stages.finetune.epochs=1"]
    assert finetune([*TINY, "task=labels", *given, *JITTER[:2], f"run={tuned}"]) == 0
    for made in (described, RunReader(tuned).description):  # tuning goes on as pretraining began
        assert made.input.mean == (0.485, 0.456, 0.406)
    assert predict([f"run={tuned}", f"data.shards={shards}", f"out={tmp_path / 'predicted'}"]) == 0
    assert len((tmp_path / "predicted/predictions.csv").read_text().splitlines()) == 1 + 3  # of the test split
