"""Exported weights in plain timm and segmentation_models_pytorch, by the very code that the model card shows."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import segmentation_models_pytorch as smp
import timm
import tiny_swin
import torch
import torchvision
import yaml
from monai.networks.nets import FlexibleUNet
from safetensors.torch import load_file

from dira_scale.data.manifest import SCHEMA, DatasetInfo, ShardedDataset
from dira_scale.data.views import ViewSpec
from dira_scale.export import main
from dira_scale.methods import build
from dira_scale.models import norm
from dira_scale.models.encoder import build_encoder
from dira_scale.models.formats import MONAI, TORCHVISION
from dira_scale.models.layouts import Start
from dira_scale.models.unet import UNet
from dira_scale.train.checkpoint import Checkpointer, replicated
from dira_scale.train.trained import start_tensors

CHANNELS = [32, 16, 16, 8, 8]
STAGES = {
    "di": {"terms": ["di"], "epochs": 2, "patience": None},
    "skipped": {"terms": ["re"], "epochs": 0, "patience": None},
    "dira": {"terms": ["di", "re", "ad"], "epochs": 3, "patience": None},
}


def dataset(root: Path) -> ShardedDataset:
    root.mkdir()
    (root / "train-000000.tar").write_bytes(b"ab")
    blank = dict.fromkeys(SCHEMA.names)
    image = {"split": "train", "shard": "train-000000.tar", "size": 1, "codec": "png", "low": 0.0, "high": 255.0}
    image |= {"labels": [], "xxh3": "0"}
    rows = [blank | image | {"key": key, "patient": key, "offset": offset} for offset, key in enumerate("ab")]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), root / "manifest.parquet")
    info = DatasetInfo(
        name="Toy", modality="CXR", dims=2, codec="png", label_names=[], counts={"train": 2}, quarantined=0,
        shards={"train-000000.tar": 2}, recipe={}, recipe_hash="", licence="CC-BY-9.9", tool_version="0",
    )  # fmt: skip
    (root / "dataset.json").write_text(info.to_json())
    return ShardedDataset.open(root)


class Trained:
    """A run folder as pretraining leaves it, and the method whose weights its last checkpoint holds."""

    def __init__(self, root: Path, encoder: str) -> None:
        self.run, shards = root / "demo", dataset(root / "shards")
        model = {"encoder": encoder, "weights": None, "decoder_channels": CHANNELS, "bn_groups": 4}
        model["zero_init_residual"] = False
        moco = {"_target_": "dira_scale.methods.moco.MoCo", "dim": 8, "queue": 16}
        method = {"_target_": "dira_scale.methods.dira.DiRA", "base": moco}
        self.config = {
            "seed": 0, "epoch_factor": 1.0, "precision": "bf16", "stages": STAGES, "model": model, "method": method,
            "data": {"shards": str(shards.root), "split": "train", "size": 64, "batch": 8},
            "optim": {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-3}},
            "datasets": [{"hash": shards.hash, "weight": 1.0}],
        }  # fmt: skip
        (self.run / "checkpoints").mkdir(parents=True)
        (self.run / "config.yaml").write_text(yaml.safe_dump(self.config))
        torch.manual_seed(0)
        self.method = build(method, SimpleNamespace(**model), ViewSpec(size=64), batch=8)
        self.method.to(memory_format=torch.channels_last)
        self.best: dict[str, int] = {}
        self.save(step=2, stage=0, best="di")
        self.method.train()
        images = (torch.rand(8, 1, 64, 64), torch.rand(8, 1, 64, 64))
        self.method(images, images, SimpleNamespace(step=0))
        norm.commit_statistics(self.method)
        for parameter in self.method.parameters():
            parameter.data.mul_(1 + 0.1 * torch.randn_like(parameter))
        self.save(step=5, stage=1, best="dira")
        self.method.eval().to(memory_format=torch.contiguous_format)

    def save(self, step: int, stage: int, best: str | None) -> None:
        state = {"stage": stage, "stage_start": 0, "best": {"di": 4.5, "dira": 3.25}, "stale": 0}
        writer = Checkpointer(self.run / "checkpoints", keep=5, rank=0, world=1)
        self.best |= {best: step} if best else {}
        tensors = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        writer.save(step, replicated(tensors), state, self.best)
        writer.wait()

    def card(self, out: str = "export") -> str:
        return (self.run / out / "README.md").read_text()

    def card_of(self, model: dict[str, str]) -> str:
        """The card of a run of the same weights whose configuration says otherwise."""
        config = self.config | {"model": self.config["model"] | model}
        (self.run / "config.yaml").write_text(yaml.safe_dump(config))
        assert main([f"run={self.run}"]) == 0
        return self.card()


def front(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.fixture
def trained(tmp_path):
    return Trained(tmp_path, "test_resnet")


@pytest.fixture(params=["test_resnet", "test_convnext", "test_efficientnet"])
def any_family(tmp_path, request):
    return Trained(tmp_path, request.param)


def follow(card: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What the card's Python blocks compute in the folder that holds the card."""
    monkeypatch.chdir(folder)
    variables: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for block in re.findall(r"```python\n(.*?)```", card, re.S):
            exec(block, variables)
    return variables


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnetx_002", tiny_swin.NAME])
def test_the_cards_code_computes_what_we_compute(name, tmp_path, monkeypatch):
    trained = Trained(tmp_path, name)
    assert main([f"run={trained.run}"]) == 0
    theirs, method = follow(trained.card(), trained.run / "export", monkeypatch), trained.method
    image = theirs["image"]
    assert image.shape == (1, 3, 64, 64)
    with torch.no_grad():
        pyramid = method.encoder(image[:, :1])
        restored = torch.sigmoid(method.head(method.decoder(pyramid)))
        if name != tiny_swin.NAME:  # whose features pass the final norm
            last = theirs["encoder"].forward_features(image)
        else:
            last = theirs["encoder"].forward_intermediates(image, intermediates_only=True)[-1]
        torch.testing.assert_close(last, pyramid[-1], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(theirs["restored"], restored, rtol=1e-6, atol=1e-6)
    assert isinstance(theirs["unet"], smp.Unet)
    if name not in ("convnext_atto", tiny_swin.NAME):  # whose pooled features pass another norm
        torch.testing.assert_close(theirs["features"], pyramid[-1].mean((2, 3)), rtol=1e-6, atol=1e-6)


def test_a_transformers_card_computes_what_we_compute(tmp_path, monkeypatch):
    """timm's tokens and, with its light pyramid, our own U-Net."""
    trained = Trained(tmp_path, "test_vit")
    assert main([f"run={trained.run}"]) == 0
    names = {path.name for path in (trained.run / "export").iterdir()}
    assert names == {"README.md", "encoder.safetensors", "dira_scale_unet.safetensors"}
    theirs = follow(trained.card(), trained.run / "export", monkeypatch)
    with torch.no_grad():
        pyramid = trained.method.encoder(theirs["image"])
        logits = trained.method.head(trained.method.decoder(pyramid))
    torch.testing.assert_close(theirs["features"], pyramid[-1].mean((2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(theirs["restored"], logits.sigmoid(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", pytest.param("test_vit", marks=pytest.mark.system)])
def test_onnx_computes_what_we_compute(name, tmp_path, monkeypatch):
    """For one image, traced with two."""
    trained = Trained(tmp_path, name)
    assert main([f"run={trained.run}", "formats=onnx"]) == 0
    theirs = follow(trained.card(), trained.run / "export", monkeypatch)
    with torch.no_grad():
        pyramid = trained.method.encoder(theirs["image"])
        logits = trained.method.head(trained.method.decoder(pyramid))
    torch.testing.assert_close(torch.as_tensor(theirs["last_map"]), pyramid[-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.as_tensor(theirs["logits"]), logits, rtol=1e-4, atol=1e-4)


def test_every_format_of_the_papers_network_computes_what_we_compute(tmp_path, monkeypatch):
    trained = Trained(tmp_path, "resnet50")
    assert main([f"run={trained.run}", "formats=[timm,smp,torchvision,monai]"]) == 0
    theirs = follow(trained.card(), trained.run / "export", monkeypatch)
    with torch.no_grad():
        pyramid = trained.method.encoder(theirs["image"])
        logits = trained.method.head(trained.method.decoder(pyramid))
    pooled = pyramid[-1].mean((2, 3))
    torch.testing.assert_close(theirs["features"], pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs["pooled"], pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs["restored"], logits.sigmoid(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs["restored_by_monai"], logits.sigmoid(), rtol=1e-5, atol=1e-5)
    assert main([f"run={trained.run}"]) == 0  # the folder holds what its card tells, nothing of before
    names = {path.name for path in (trained.run / "export").iterdir()}
    assert names == {"README.md", "encoder.safetensors", "unet.safetensors"}


@pytest.mark.parametrize("name", ["unet.safetensors", "encoder.safetensors", ""])
def test_what_was_exported_is_a_start_of_another_run(trained, name):
    """And so is the run's folder itself; decoder and head come along."""
    assert main([f"run={trained.run}"]) == 0
    encoder = build_encoder("test_resnet", size=64).eval()
    unet = UNet(encoder, CHANNELS).eval()
    path = trained.run / "export" / name if name else trained.run
    Start(path, encoder, start_tensors(path)).fill(unet)
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        pyramid = trained.method.encoder(image)
        assert torch.equal(encoder(image)[-1], pyramid[-1])
        if name != "encoder.safetensors":
            assert torch.equal(unet(image), trained.method.head(trained.method.decoder(pyramid)))


@pytest.mark.parametrize("name", MONAI)
def test_monais_encoders_are_laid_out_as_timms(name):
    with torch.device("meta"):
        theirs = FlexibleUNet(3, 1, name, norm="batch", pre_conv=None, is_pad=False).encoder.state_dict()
        ours = timm.create_model(name, num_classes=0).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_are_laid_out_as_timms(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).state_dict()
        ours = timm.create_model(name).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["formats=[torchvision]"], "formats: torchvision has no network laid out as test_resnet; these are: resnet18"),
        (["formats=[monai]"], "formats: MONAI's FlexibleUNet has no encoder laid out as test_resnet; these are"),
        (["formats=[tim]"], "formats: no format 'tim'; did you mean 'timm'?"),
        (["formats=[]"], "formats: is empty"),
        (["formats=[timm,smp]", "stage=di"], "formats: smp is for a U-Net, and no stage up to this one trained a"),
    ],
)
def test_formats_that_do_not_fit_are_refused_before_anything_is_written(trained, arguments, expected, capsys):
    assert main([f"run={trained.run}", *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not (trained.run / "export").exists()


def test_onnx_without_its_packages_names_the_extra(trained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main([f"run={trained.run}", "formats=onnx"]) == 2
    assert "dira_scale[onnx]" in capsys.readouterr().err


def test_files_hold_the_libraries_names_and_the_runs_bits(any_family):
    name = any_family.config["model"]["encoder"]
    assert main([f"run={any_family.run}"]) == 0
    encoder = load_file(any_family.run / "export" / "encoder.safetensors")
    unet = load_file(any_family.run / "export" / "unet.safetensors")
    plain = timm.create_model(name, in_chans=3, num_classes=0)
    assert set(encoder) == set(plain.state_dict())
    whole = smp.Unet(f"tu-{name}", encoder_weights=None, in_channels=3, classes=1, decoder_channels=CHANNELS)
    assert set(unet) == set(whole.state_dict())
    ours = any_family.method.state_dict()
    pyramid = {key: value for key, value in unet.items() if key.startswith("encoder.")}
    for key, value in pyramid.items():
        assert torch.equal(value, ours[f"base.{key}"])
    for key in unet.keys() - pyramid.keys():
        assert torch.equal(unet[key], ours[key.replace("segmentation_head.0.", "head.")])
    # The encoder's file holds the same tensors, in the same order, but for what lies behind the pyramid.
    named = {key.replace("_", "."): value for key, value in encoder.items()}
    rest = set(named)
    for key, value in pyramid.items():
        plain_key = key.removeprefix("encoder.model.").replace("_", ".")
        assert torch.equal(named[plain_key], value)
        rest.remove(plain_key)
    behind = {"test_resnet": (), "test_convnext": ("head.norm.",), "test_efficientnet": ("conv.head.", "bn2.")}[name]
    assert all(key.startswith(behind) for key in rest) and bool(rest) == bool(behind)
    untrained = [key for key in encoder if key.replace("_", ".") in rest]
    assert all(f"`{key}`" in any_family.card() for key in untrained)
    assert ("Not trained" in any_family.card()) == bool(untrained)


def test_exporting_twice_writes_the_same_bytes(any_family):
    names = ("encoder.safetensors", "unet.safetensors", "README.md")
    folders = [any_family.run / "one", any_family.run / "two"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        assert main([f"run={any_family.run}", f"out={folder}"]) == 0
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_the_card_says_what_when_and_under_which_terms(trained, capsys):
    assert main([f"run={trained.run}"]) == 0
    card = trained.card()
    expected = (
        "# demo", "Stage `dira`, step 5: the lowest validation loss of its stage, 3.25",
        f"| Toy (CXR) | 2 | CC-BY-9.9 | `{trained.config['datasets'][0]['hash']}` |", "dira_scale.methods.dira.DiRA",
        "`di` (di, 2 epochs), `dira` (di + re + ad, 3 epochs)", "views of 64 pixels, global batch 8, seed 0",
    )  # fmt: skip
    assert [text for text in expected if text not in card] == []
    assert "skipped" not in card
    assert "stage dira, step 5: encoder.safetensors, unet.safetensors and README.md" in capsys.readouterr().out


def test_a_stage_without_restoration_gives_no_decoder(trained):
    assert main([f"run={trained.run}"]) == 0
    assert main([f"run={trained.run}", "stage=di"]) == 0
    assert sorted(p.name for p in (trained.run / "export").iterdir()) == ["README.md", "encoder.safetensors"]
    assert "No decoder" in trained.card() and "smp.Unet" not in trained.card()
    assert "Stage `di`, step 2: the lowest validation loss of its stage, 4.5" in trained.card()


def test_latest_is_the_newest_checkpoint(trained):
    trained.save(step=9, stage=1, best=None)
    assert main([f"run={trained.run}", "stage=latest", f"out={trained.run}/newest"]) == 0
    assert "Stage `dira`, step 9: the newest checkpoint, whatever its validation loss" in trained.card("newest")


def test_a_dataset_that_is_gone_or_changed_is_said_to_be_unknown(trained, capsys):
    path = Path(trained.config["data"]["shards"])
    rows = pq.read_table(path / "manifest.parquet").to_pylist()
    changed = [row | {"xxh3": "1"} for row in rows]
    pq.write_table(pa.Table.from_pylist(changed, SCHEMA), path / "manifest.parquet")
    assert main([f"run={trained.run}"]) == 0
    assert "other images lie in its place by now" in trained.card() and "CC-BY" not in trained.card()
    assert f"{path} holds other images by now" in capsys.readouterr().out
    (path / "dataset.json").unlink()
    assert main([f"run={trained.run}"]) == 0
    assert "| shards | unknown | unknown: not to be read" in trained.card()
    assert 'license_name: "unknown"' in trained.card()
    assert str(path.parent) not in trained.card()
    assert f"no sharded dataset at {path}" in capsys.readouterr().out


def test_weights_that_it_started_from_come_along_with_their_terms(trained):
    random = trained.card_of({})
    assert "started from" not in random and "images above alone" in random
    started = trained.card_of({"weights": "/home/someone/imagenet_r18.safetensors"})
    assert "started from `imagenet_r18.safetensors`, not at random: its terms" in started
    assert "images above alone" not in started and "/home" not in started
    assert front(started)["license_name"] == "CC-BY-9.9 and that of imagenet_r18.safetensors"


def test_the_front_matter_names_what_was_learnt_from(trained):
    assert main([f"run={trained.run}"]) == 0
    found = front(trained.card())
    assert found["license_name"] == "CC-BY-9.9"
    assert found["tags"] == ["medical-imaging", "self-supervised", "cxr"]
    assert "radiograph" not in trained.card()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=/no/such/run"], "run=/no/such/run: no run folder there"),
        (["run={run}", "stage=dria"], "stage=dria: {run} has di, dira; did you mean 'dira'?"),
        ([], "run must be given"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(trained, arguments, expected, capsys):
    assert main([argument.format(run=trained.run) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert expected.format(run=trained.run) in error and len(error.strip().splitlines()) == 1
    assert not (trained.run / "export").exists()


def test_a_run_without_a_best_checkpoint_names_the_other_way(trained, capsys):
    for pointer in (trained.run / "checkpoints").glob("BEST-*"):
        pointer.unlink()
    assert main([f"run={trained.run}"]) == 2
    assert "stage=latest takes the newest" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused_by_name(trained, capsys):
    (part,) = (trained.run / "checkpoints" / "000000005").glob("*.safetensors")
    part.write_bytes(part.read_bytes()[:-1])
    assert main([f"run={trained.run}"]) == 2
    assert part.name in capsys.readouterr().err
