"""Exported weights in plain timm and segmentation_models_pytorch, by the very code that the model card shows."""

import copy
import errno
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import segmentation_models_pytorch as smp
import timm
import tiny_swin
import torch
import torchvision
import yaml
from made_up_run import dataset
from omegaconf import OmegaConf
from recorded import record
from safetensors.torch import load_file
from train.models.stub3d import TARGET

from dira_scale.base.config.compose import compose
from dira_scale.base.storage.owned import MARK, own
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.export import config, formats, main
from dira_scale.export.formats import EXPORT, FILES, FORMATS, MONAI
from dira_scale.pretrain.config import AdversaryConfig
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.methods import build, views_of
from dira_scale.train.methods.adversary import LOSSES
from dira_scale.train.models import norm
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.layouts import StartWeights
from dira_scale.train.models.unet import UNet
from dira_scale.train.runs.checkpoint import Checkpointer, replicated
from dira_scale.train.runs.choice import run_weights
from dira_scale.train.runs.description import read_description

CHANNELS = [32, 16, 16, 8, 8]
STAGES = {
    "di": {"terms": ["di"], "epochs": 2, "patience": None},
    "skipped": {"terms": ["re"], "epochs": 0, "patience": None},
    "dira": {"terms": ["di", "re", "ad"], "epochs": 3, "patience": None},
}


class Trained:
    """A run folder as pretraining leaves it, and the method whose weights its last checkpoint holds.

    It holds a momentum encoder too, which is not what is exported; large networks go without and have no ``stage=di``.
    """

    def __init__(self, root: Path, encoder: str) -> None:
        self.run, shards = root / "demo", dataset(root / "shards")
        words = [f"data.shards={shards.root}", "data.size=64", "data.batch=8", "data.val_split=null", "precision=bf16"]
        config: Any = OmegaConf.to_container(compose("pretrain", [*words, f"model.encoder={encoder}"]))
        model = config["model"] | {"decoder_channels": CHANNELS, "bn_groups": 4, "zero_init_residual": False}
        base = {"_target_": "MoCo", "dim": 8, "queue": 16}
        if large := encoder.startswith("resnet"):
            base = {"_target_": "SimSiam", "dim": 8, "bottleneck": 8}
        method = {"_target_": "DiRA", "base": base}
        self.config = config | {
            "stages": STAGES, "model": model, "method": method,
            "optim": {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-3}},
            "datasets": [{"hash": shards.hash, "weight": 1.0}],
        }  # fmt: skip
        (self.run / "checkpoints").mkdir(parents=True)
        record(self.run, self.config)
        torch.manual_seed(0)
        self.method = build(method, model, ViewSpec(size=64), batch=8)
        self.method.to(memory_format=torch.channels_last)
        self.best: dict[str, int] = {}
        if not large:
            self.save(step=2, stage=0, best="di")
        self.method.train()
        images = (torch.rand(8, 1, 64, 64), torch.rand(8, 1, 64, 64))
        self.method(images, images, SimpleNamespace(step=0, lacking=lambda first, views: None))
        norm.commit_statistics(self.method)
        for parameter in self.method.parameters():
            parameter.data.mul_(1 + 0.1 * torch.randn_like(parameter))
        self.save(step=5, stage=1, best="dira")
        self.method.eval().to(memory_format=torch.contiguous_format)

    def save(self, step: int, stage: int, best: str | None) -> None:
        state = {"stage": stage, "stage_start": 0, "best": {"di": 4.5, "dira": 3.25, "pcrl": 3.25}, "stale": 0}
        writer = Checkpointer(self.run / "checkpoints", keep=5, rank=0, world=1)
        self.best |= {best: step} if best else {}
        tensors = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        writer.save(step, replicated(tensors), state, self.best)
        writer.wait()

    def copy(self, root: Path) -> "Trained":
        """As it was before its export, to be changed."""
        other, shards = copy.copy(self), root / "shards"
        other.run, other.best = root / self.run.name, dict(self.best)
        shutil.copytree(self.run, other.run, ignore=shutil.ignore_patterns("export"))
        shutil.copytree(self.config["data"]["shards"], shards)
        other.config = self.config | {"data": self.config["data"] | {"shards": str(shards)}}
        record(other.run, other.config)
        return other

    @torch.no_grad()
    def computed(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The encoder's pyramid, and what the head makes of the decoder's map."""
        pyramid = self.method.encoder(image)
        return pyramid, self.method.head(self.method.decoder(pyramid))

    def card(self, out: str | Path = "export") -> str:
        return (self.run / out / "README.md").read_text()

    def card_of(self, model: dict[str, str]) -> str:
        """The card of a run of the same weights whose configuration says otherwise."""
        config = self.config | {"model": self.config["model"] | model}
        record(self.run, config)
        assert main([f"run={self.run}"]) == 0
        return self.card()


class TrainedPCRL(Trained):
    """A run of PCRL, in a stage of its own."""

    def __init__(self, root: Path, form: str, encoder: str = "test_resnet") -> None:
        self.run, shards = root / "demo", dataset(root / "shards")
        cfg = compose("pretrain", ["experiment=pcrl", f"data.shards={shards.root}", "data.size=64", "data.batch=8"])
        cfg.model.encoder, cfg.model.decoder_channels = encoder, CHANNELS
        cfg.method._target_, cfg.method.dim, cfg.method.queue = form, 8, 32
        self.config = OmegaConf.to_container(cfg) | {"datasets": [{"hash": shards.hash, "weight": 1.0}]}
        (self.run / "checkpoints").mkdir(parents=True)
        record(self.run, self.config)
        torch.manual_seed(0)
        self.method = build(cfg.method, cfg.model, ViewSpec(size=64, orientations=2), batch=8)
        for parameter in self.method.parameters():
            parameter.data.mul_(1 + 0.1 * torch.randn_like(parameter))
        self.best: dict[str, int] = {}
        self.save(step=5, stage=0, best="pcrl")
        self.method.eval()


def front(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[str], Trained]:
    """One run of an encoder, exported in the usual formats, for all tests that only read it; ``said`` on the way."""

    @cache
    def make(encoder: str) -> Trained:
        trained = Trained(tmp_path_factory.mktemp(encoder), encoder)
        with redirect_stdout(StringIO()) as printed:
            assert main([f"run={trained.run}"]) == 0
        trained.printed = printed.getvalue()
        return trained

    return make


@pytest.fixture
def trained(exported, tmp_path):
    """A run that a test may change, not exported."""
    return exported("test_resnet").copy(tmp_path)


def follow(card: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What the card's Python blocks compute in the folder that holds the card."""
    monkeypatch.chdir(folder)
    variables: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for block in re.findall(r"```python\n(.*?)```", card, re.S):
            exec(block, variables)
    return variables


LARGE = [pytest.param(name, marks=pytest.mark.torture) for name in ("resnet18", "convnext_atto")]


SOME = ["test_resnet", "test_convnext", pytest.param("regnetx_002", marks=pytest.mark.system), tiny_swin.NAME]


@pytest.mark.parametrize("name", SOME + LARGE)
def test_the_cards_code_computes_what_we_compute(name, exported, monkeypatch):
    trained = exported(name)
    theirs = follow(trained.card(), trained.run / "export", monkeypatch)
    image = theirs["image"]
    assert image.shape == (1, 3, 64, 64)
    pyramid, logits = trained.computed(image[:, :1])
    with torch.no_grad():
        if name != tiny_swin.NAME:  # whose features pass the final norm
            last = theirs["encoder"].forward_features(image)
        else:
            last = theirs["encoder"].forward_intermediates(image, intermediates_only=True)[-1]
        torch.testing.assert_close(last, pyramid[-1], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(theirs["restored"], logits.sigmoid(), rtol=1e-6, atol=1e-6)
    assert isinstance(theirs["unet"], smp.Unet)
    if "convnext" not in name and name != tiny_swin.NAME:  # whose pooled features pass another norm
        torch.testing.assert_close(theirs["features"], pyramid[-1].mean((2, 3)), rtol=1e-6, atol=1e-6)


def test_a_transformers_card_computes_what_we_compute(exported, monkeypatch):
    """timm's tokens and, with its light pyramid, our own U-Net."""
    trained = exported("test_vit")
    names = {path.name for path in (trained.run / "export").iterdir()}
    plain = {"plain_encoder.safetensors", "plain_network.safetensors"}
    assert names == {MARK, "README.md", "encoder.safetensors"} | plain
    theirs = follow(trained.card(), trained.run / "export", monkeypatch)
    pyramid, logits = trained.computed(theirs["image"])
    torch.testing.assert_close(theirs["features"], pyramid[-1].mean((2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(theirs["output"], logits.sigmoid(), rtol=1e-6, atol=1e-6)


@pytest.mark.system
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_onnx_computes_what_we_compute(name, exported, tmp_path, monkeypatch):
    """For one image, traced with two."""
    trained = exported(name)
    assert main([f"run={trained.run}", "formats=onnx", f"out={tmp_path}"]) == 0
    theirs = follow(trained.card(tmp_path), tmp_path, monkeypatch)
    pyramid, logits = trained.computed(theirs["image"])
    torch.testing.assert_close(torch.as_tensor(theirs["last_map"]), pyramid[-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.as_tensor(theirs["logits"]), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.system
def test_every_format_of_the_papers_network_computes_what_we_compute(tmp_path, monkeypatch):
    """The file of timm is one of torchvision, too."""
    trained = Trained(tmp_path, "resnet50")
    assert main([f"run={trained.run}", "formats=[timm,smp,monai]"]) == 0
    theirs = follow(trained.card(), trained.run / "export", monkeypatch)
    resnet = torchvision.models.resnet50().eval()
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict(load_file("encoder.safetensors"))
    pyramid, logits = trained.computed(theirs["image"])
    with torch.no_grad():
        torch.testing.assert_close(resnet(theirs["image"]), theirs["features"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs["features"], pyramid[-1].mean((2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs["restored"], logits.sigmoid(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs["restored_by_monai"], logits.sigmoid(), rtol=1e-5, atol=1e-5)
    detector = detector_of_the_page()
    with torch.no_grad():
        maps = detector.eval().backbone.body(theirs["image"])
    for level, ours in zip(maps.values(), pyramid[2:], strict=True):
        torch.testing.assert_close(level, ours, rtol=1e-5, atol=1e-5)


def detector_of_the_page() -> Any:
    """torchvision's, as docs/how-to/weights.md makes it of the file in the current folder; strict about keys."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "weights.md").read_text()
    (code,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    return namespace["model"]


def test_what_the_run_has_recorded_of_its_data_stands_in_the_card_when_they_are_gone(trained, capsys):
    described = read_description(trained.run)
    shards = Path(trained.config["data"]["shards"])
    (dataset,) = described.data.datasets
    known = dataset.known(ShardedDataset.open(shards).info)
    recorded = replace(described, data=replace(described.data, datasets=(known,)))
    (trained.run / "description.json").write_text(recorded.to_json())
    assert main([f"run={trained.run}"]) == 0
    before = trained.card()
    shutil.rmtree(shards)
    assert main([f"run={trained.run}"]) == 0
    assert trained.card() == before and "Apache-2.0" in before
    assert "not in the card" not in capsys.readouterr().out


SIDES = "data.size=[16,16,16]"


def test_a_network_of_ones_own_is_exported_as_it_is(tmp_path, monkeypatch, capsys):
    """A network of volumes: all that is known of it is its configuration. Its BatchNorm is plain."""
    words = ["method=dira_simsiam", "method.base.dim=16", "method.base.bottleneck=8", "data.batch=4", SIDES]
    words += [f"views.{part}.p=0" for part in ("blur", "cutout", "inverse_cutout", "shuffle")]
    words += [f"model._target_={TARGET}", "+model.width=4", "model.bn_groups=2"]
    words += ["~model.encoder", "~model.decoder_channels", "~model.zero_init_residual"]
    cfg = compose("pretrain", [f"data.shards={dataset(tmp_path / 'shards').root}", *words])
    run, method = tmp_path / "demo", build(cfg.method, cfg.model, views_of(cfg), batch=4)
    (run / "checkpoints").mkdir(parents=True)
    record(run, cfg)
    for tensor in method.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    writer = Checkpointer(run / "checkpoints", keep=5, rank=0, world=1)
    writer.save(5, replicated({f"method.{k}": v for k, v in method.state_dict().items()}), {"stage": 1, "best": {}}, {})
    writer.wait()
    assert main([f"run={run}"]) == 0
    card = (run / "export" / "README.md").read_text()
    assert "library_name: pytorch" in card and "`Tiny3D` encoder" in card and "three channels" not in card
    theirs = follow(card, run / "export", monkeypatch)
    with torch.no_grad():
        pyramid = method.eval().encoder(theirs["image"])
        restored = torch.sigmoid(method.head(method.decoder(pyramid)))
    torch.testing.assert_close(theirs["pyramid"][-1], pyramid[-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(theirs["output"], restored, rtol=1e-6, atol=1e-6)
    for name in sorted({*FORMATS} - {"plain"}):
        assert main([f"run={run}", f"formats={name}"]) == 2
        takes = {
            "nnunet": "model=resenc_l or model=vit3d", "monai": "encoders of timm and model=swinunetr",
            "monai_bundle": "fine-tuned masks of volumes of one channel",
        }.get(name, "encoders of timm")  # fmt: skip
        assert f"formats: {name} takes {takes}; this run has tiny3d: use plain" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["PCRL", "PCRLReleased"])
def test_pcrls_restored_image_is_its_heads_output(form, tmp_path, monkeypatch):
    """The weights of the stage ``pcrl``; the files are a start of another run, bit for bit."""
    trained = TrainedPCRL(tmp_path, form)
    assert main([f"run={trained.run}", "formats=[timm,smp]"]) == 0
    theirs = follow(trained.card(), trained.run / "export", monkeypatch)
    pyramid, restored = trained.computed(theirs["image"])
    with torch.no_grad():
        torch.testing.assert_close(theirs["features"], pyramid[-1].mean((2, 3)), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(theirs["unet"](theirs["image"]), restored, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(torch.as_tensor(theirs["restored"]), restored, rtol=1e-4, atol=1e-4)
    assert "sigmoid" not in trained.card() and "Stage `pcrl`, step 5" in trained.card()
    assert ("behind an attention" in trained.card()) == (form == "PCRL")
    for name in ("unet.safetensors", ""):
        with torch.no_grad():
            assert torch.equal(started(trained, name)[1](theirs["image"]), restored)


def test_the_folder_holds_what_its_card_tells_and_no_format_of_before(trained, capsys):
    own(trained.run / "export", EXPORT, "out")
    for name in FILES:
        path = trained.run / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    method = trained.config["method"] | {"_target_": "nowhere.DiRA"}  # cannot be imported here: it need not
    record(trained.run, trained.config | {"method": method})
    assert main([f"run={trained.run}"]) == 0
    assert "unet(image).sigmoid()" in trained.card()
    names = {path.name for path in (trained.run / "export").iterdir()} - {MARK}
    written = {"encoder.safetensors", "unet.safetensors"}
    assert names == {"README.md", *written} < FILES | {"README.md"}
    printed = capsys.readouterr().out
    assert f"removed, of an earlier export: {', '.join(sorted(FILES - written))};" in printed
    assert main([f"run={trained.run}"]) == 0
    assert "removed" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["unet.safetensors", "encoder.safetensors", ""])
def test_what_was_exported_is_a_start_of_another_run(exported, name):
    """And so is the run's folder itself; decoder and head come along."""
    trained = exported("test_resnet")
    encoder, unet = started(trained, name)
    image = torch.rand(1, 1, 64, 64)
    pyramid, logits = trained.computed(image)
    with torch.no_grad():
        assert torch.equal(encoder(image)[-1], pyramid[-1])
        if name != "encoder.safetensors":
            assert torch.equal(unet(image), logits)


def started(trained, name):
    """A new network that starts from a file of the export, or from the run."""
    encoder = build_encoder("test_resnet", size=64).eval()
    path = trained.run / "export" / name if name else trained.run
    run = run_weights(path)
    StartWeights(path, encoder, run and run.tensors).fill(unet := UNet(encoder, CHANNELS).eval())
    return encoder, unet


@pytest.mark.system
@pytest.mark.parametrize("name", MONAI)
def test_monais_encoders_are_laid_out_as_timms(name):
    from monai.networks.nets import FlexibleUNet  # seconds, which only the process that runs this needs to spend

    with torch.device("meta"):
        theirs = FlexibleUNet(3, 1, name, norm="batch", pre_conv=None, is_pad=False).encoder.state_dict()
        ours = timm.create_model(name, num_classes=0).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def test_the_cards_code_has_arguments_as_python_writes_them(monkeypatch):
    arguments = {"act_layer": "relu", "depths": [1, 2], "drop_path_rate": 0.1}
    monkeypatch.setattr(formats, "require_timm", lambda *_: SimpleNamespace(arguments=arguments))
    assert eval(f"dict(num_classes=0{formats._arguments(None)})") == {"num_classes": 0, **arguments}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["formats=[monai]"], "formats: MONAI's FlexibleUNet has no encoder laid out as test_resnet; it has"),
        (["formats=[tim]"], "or monai_bundle; did you mean 'timm'?"),
        (["formats=[]"], "formats=[]: expected at least one entry"),
        (["formats=[timm,smp]", "stage=di"], "formats: smp needs a U-Net, and no stage up to this one trained a"),
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


FAMILIES = ["test_resnet", "test_convnext", "test_efficientnet"]


@pytest.mark.parametrize("name", FAMILIES)
def test_files_hold_the_libraries_names_and_the_runs_bits(name, exported):
    any_family = exported(name)
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


def test_exporting_twice_writes_the_same_bytes(exported, tmp_path):
    run = exported("test_convnext").run
    torch.manual_seed(1)  # timm's initial values of layers after the pyramid are others than before
    assert main([f"run={run}", f"out={tmp_path}"]) == 0
    for file in ("encoder.safetensors", "unet.safetensors", "README.md"):
        assert (run / "export" / file).read_bytes() == (tmp_path / file).read_bytes()


def test_the_card_says_what_when_and_under_which_terms(exported):
    trained = exported("test_resnet")
    card = trained.card()
    expected = (
        "# demo", "Stage `dira`, step 5: the newest checkpoint, whatever its validation loss",
        f"| phantom &lt;cxr> (CXR) | 320 | Apache-2.0 | `{trained.config['datasets'][0]['hash']}` |", "DiRA",
        "`di` (di, 2 epochs), `dira` (di + re + ad, 3 epochs)", "views of 64 pixels, global batch 8, seed 0",
    )  # fmt: skip
    assert [text for text in expected if text not in card] == []
    assert "skipped" not in card and "## Training" in card and "recipe" not in card.lower()
    assert (front(card)["license_name"], front(card)["tags"]) == (
        "Apache-2.0", ["medical-imaging", "self-supervised", "cxr"]
    )  # fmt: skip
    assert "stage dira, step 5: encoder.safetensors, unet.safetensors and README.md" in trained.printed


def test_a_stage_without_restoration_gives_no_decoder(trained):
    own(trained.run / "export", EXPORT, "out")
    (trained.run / "export" / "unet.safetensors").touch()  # of a stage with one
    assert main([f"run={trained.run}", "stage=di"]) == 0
    assert sorted(p.name for p in (trained.run / "export").iterdir()) == [MARK, "README.md", "encoder.safetensors"]
    assert "No decoder" in trained.card() and "smp.Unet" not in trained.card()
    assert "Stage `di`, step 2: the lowest validation loss of its stage, 4.5" in trained.card()


def test_of_pretraining_the_newest_checkpoint_is_taken_unless_a_stage_is_named(trained):
    trained.save(step=9, stage=1, best=None)
    for words in (["stage=latest"], []):
        assert main([f"run={trained.run}", *words]) == 0
        assert "Stage `dira`, step 9: the newest checkpoint, whatever its validation loss" in trained.card()
    assert main([f"run={trained.run}", "stage=dira"]) == 0
    assert "Stage `dira`, step 5: the lowest validation loss of its stage, 3.25" in trained.card()


def test_a_dataset_that_is_gone_or_changed_is_said_to_be_unknown(trained, capsys):
    dataset(path := Path(trained.config["data"]["shards"]), xxh3=1)
    assert main([f"run={trained.run}"]) == 0
    assert "the dataset there now has other images" in trained.card() and "Apache" not in trained.card()
    assert f"{path}: the dataset there now has other images" in capsys.readouterr().out
    (path / "dataset.json").unlink()
    assert main([f"run={trained.run}"]) == 0
    assert "| shards | unknown | unknown: no readable dataset where" in trained.card()
    assert 'license_name: "unknown"' in trained.card()
    assert str(path.parent) not in trained.card()
    assert f"no sharded dataset at {path}" in capsys.readouterr().out


def test_weights_that_it_started_from_come_along_with_their_terms(trained):
    random = trained.card_of({})
    assert "started from" not in random and "images above alone" in random
    started = trained.card_of({"weights": "/home/someone/imagenet_r18.safetensors"})
    assert "started from `imagenet_r18.safetensors`, not at random. Its terms" in started
    assert "images above alone" not in started and "/home" not in started
    assert front(started)["license_name"] == "Apache-2.0 and that of imagenet_r18.safetensors"


def test_a_folder_that_cannot_be_written_is_one_line(trained, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dira_scale.export.formats.write_atomic", full)
    assert main([f"run={trained.run}", "formats=timm"]) == 2
    error = capsys.readouterr().err
    where = trained.run / "export"
    what = "cannot be written (No space left on device): free some space, or name another, out=…"
    assert error == f"export: {where} {what}\n"


def test_a_damaged_checkpoint_is_refused_by_name_and_a_run_without_one(trained, capsys):
    (part,) = (trained.run / "checkpoints" / "000000005").glob("*.safetensors")
    part.write_bytes(part.read_bytes()[:-1])
    assert main([f"run={trained.run}"]) == 2
    error = capsys.readouterr().err
    assert part.name in error and "name another (" in error and "run pretrain again" in error
    for name in ("LATEST", "BEST-di", "BEST-dira"):
        (trained.run / "checkpoints" / name).unlink()
    assert main([f"run={trained.run}"]) == 2
    assert "this run has no checkpoint yet: run its command again" in capsys.readouterr().err


def test_the_schemas_names_are_those_of_the_formats_and_losses() -> None:
    """The schemas have names of their own, as they are read where torch is not imported."""
    assert tuple(FORMATS) == config.FORMATS
    (kind,) = AdversaryConfig.__dataclass_fields__["loss"].metadata.values()
    assert get_args(kind) == LOSSES
