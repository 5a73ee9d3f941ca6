"""``python -m dira_scale.probe`` from shards and run folders to its table, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from recorded import derived, record
from safetensors.torch import save_file
from toy_run import COUNTS, ENCODER, train, write

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import SCHEMA
from dira_scale.dataset.pixels import codecs
from dira_scale.judge.evaluation.encoders import random_group
from dira_scale.judge.evaluation.features import Images, features
from dira_scale.judge.pages.probe_figures import FORMAT
from dira_scale.probe import main
from dira_scale.probe.sources import compared_network
from dira_scale.train.models.architecture import TimmUNet
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.pyramid import TimmEncoder
from dira_scale.train.models.start import start_weights
from dira_scale.train.runs.choice import chosen_checkpoint
from dira_scale.train.runs.description import Description, read_description


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("probe") / "shards")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; left as it is."""
    return train(tmp_path_factory.mktemp("trained") / "demo", seed=0)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "demo"))


QUICK = ["random_encoders=2", "draws=2", "c=[0.01,1.0]", "data.workers=1"]
WHOLE = "fractions=[1.0]"


def figures(out: Path) -> dict[tuple[str, str, str, float, str], dict]:
    rows = json.loads((out / "probe.json").read_text())["figures"]
    return {
        (r["encoder"], r["layer"], r["probe"], r["fraction"], r["label"]): r for r in rows if r["metric"] == "AUROC"
    }


def test_a_runs_table_holds_random_encoders_and_pixels(run: Path, shards: Path, capsys) -> None:
    assert main([f"run={run}", f"data.shards={shards}", "fractions=[1.0,0.3]", "layer=[2,last]", *QUICK]) == 0
    content = json.loads((run / "probe" / "probe.json").read_text())
    found = figures(run / "probe")
    pixels = "pixels 16x16"
    assert {key[:2] for key in found} == {("demo", "2"), ("demo", "5"), ("random", "2"), ("random", "5"), (pixels, "")}
    assert {key[2:4] for key in found} == {(p, f) for p in ("linear", "knn") for f in (1.0, 0.3)}
    areas = {label: found[pixels, "", "linear", 1.0, label]["spread"]["mean"] for label in ("bright", "coin")}
    assert areas["bright"] > 0.95 > 0.75 > areas["coin"] and content["format"] == FORMAT
    assert content["data"]["left_out"] == {"never": "one class only in train, val, test"}
    assert content["data"]["images"] == COUNTS and content["data"]["patients"] == {"train": 30, "val": 12, "test": 12}
    random, own = found["random", "5", "linear", 0.3, "mean"], found["demo", "5", "linear", 0.3, "mean"]
    assert (random["spread"]["n"], random["spread"]["results"]) == (2, 4) and random["spread"]["run_sd"] is not None
    assert (own["spread"]["n"], own["spread"]["run_sd"], own["images"]) == (1, None, 18.0)
    members = {row["encoder"]: row["members"] for row in content["compared"]}
    assert members["demo"][0] | {"run": ""} == {"run": "", "seed": 0, "stage": "di", "step": 5, "checkpoint": "newest"}
    assert members["random"] == [{"seed": 0}, {"seed": 1}]
    assert "commit" in content and content["config"]["fractions"] == [1.0, 0.3]
    printed, page = capsys.readouterr().out, (run / "probe" / "probe.md").read_text()
    for text in ("random", pixels, "demo", "bright"):
        assert text in printed and text in page
    assert "Left out: never" in page


def test_features_are_those_of_the_checkpoint_in_evaluation_mode(run: Path, shards: Path) -> None:
    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.judge.evaluation.encoders import read_runs, trained_groups

    dataset = ShardedDataset.open(shards)
    rows = dataset.rows("val")
    (group,) = trained_groups(read_runs(str(run)), "latest", 32)
    torch.manual_seed(5)
    expected = build_encoder(ENCODER, size=32).eval()
    pixels, (levels,) = features(group.encoders, Images(dataset, rows, 32, 2), [1, 5], 7)
    stored = [codecs.decode(dataset.read(row), "png").astype(np.float32) / 4095 for row in rows]
    assert pixels.shape == (24, 256)
    np.testing.assert_allclose(pixels.mean(1), [image.mean() for image in stored], rtol=2e-3)  # nothing is cropped
    whole = torch.cat(list(Images(dataset, rows, 32, 1).batches(24)))
    with torch.no_grad():
        pyramid = expected(whole)
    for level, found in zip((1, 5), levels, strict=True):
        np.testing.assert_allclose(found, pyramid[level].mean((2, 3)), rtol=1e-4, atol=1e-6)


def test_a_start_takes_what_is_probed_the_newest_of_pretraining_and_the_best_on_labels(run: Path) -> None:
    torch.manual_seed(5)
    newest, encoder = build_encoder(ENCODER, size=32).state_dict(), build_encoder(ENCODER, size=32)
    start = start_weights(str(run), encoder)
    assert start and start.taken == (
        "weights of demo at step 5: the newest; the best loss of stage di was at step 3, 2 before "
        "(init_stage=best takes it)"
    )
    assert all(torch.equal(value, newest[name]) for name, value in encoder.state_dict().items())
    described = read_description(run)
    tuned = replace(described, output=replace(described.output, names=("bright",)), best="auroc")
    assert chosen_checkpoint(run, tuned).folder == run / "checkpoints" / "000000003"


def test_runs_that_differ_in_their_seed_share_a_row(tmp_path: Path, shards: Path) -> None:
    runs = [train(tmp_path / f"moco-s{seed}", seed) for seed in (0, 1)]
    other = train(tmp_path / "other", seed=0, wrapped=False)
    config = yaml.safe_load((other / "config.yaml").read_text()) | {"epoch_factor": 2.0}
    record(other, config)
    argv = [f"run=[{runs[0]},{other},{runs[1]}]", f"data.shards={shards}", f"out={tmp_path / 'out'}", *QUICK, WHOLE]
    assert main([*argv, "stage=latest"]) == 0
    found = figures(tmp_path / "out")
    assert {key[0] for key in found} == {"moco", "other", "random", "pixels 16x16"}
    assert [found[name, "5", "knn", 1.0, "mean"]["spread"]["n"] for name in ("moco", "other")] == [2, 1]


@pytest.mark.system
def test_rows_of_the_same_name_are_told_apart_by_their_paths(tmp_path: Path, shards: Path, capsys) -> None:
    runs = [train(tmp_path / name / "demo", seed=0) for name in "ab"]
    config = yaml.safe_load((runs[1] / "config.yaml").read_text()) | {"epoch_factor": 2.0}
    record(runs[1], config)
    argv = [f"data.shards={shards}", f"out={tmp_path / 'out'}", *QUICK]
    assert main([f"run=[{runs[0]},{runs[1]}]", *argv]) == 0
    assert {key[0] for key in figures(tmp_path / "out")} == {*map(str, runs), "random", "pixels 16x16"}
    assert main([f"run={runs[0]}", f"init={runs[1]}", *argv]) == 0
    assert {key[0] for key in figures(tmp_path / "out")} == {*map(str, runs), "random", "pixels 16x16"}
    assert main([f"run=[{runs[0]},{runs[0]}/]", *argv]) == 2
    assert "is named twice" in capsys.readouterr().err


def test_without_a_run_the_baselines_and_a_file_of_weights(tmp_path: Path, shards: Path) -> None:
    torch.manual_seed(0)  # random encoder 0
    save_file(build_encoder(ENCODER, size=32).state_dict(), tmp_path / "mine.safetensors")
    common = [f"data.shards={shards}", f"model.encoder={ENCODER}", "data.size=32", *QUICK, WHOLE]
    written = [tmp_path / name for name in ("a", "b")]
    for out in written:
        assert main([*common, f"init={tmp_path / 'mine.safetensors'}", f"out={out}"]) == 0
    found = figures(written[0])
    own, random = (found[name, "5", "linear", 1.0, "bright"] for name in ("mine.safetensors", "random"))
    assert own["values"][0] == random["values"][0] and found == figures(written[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labels=[brigt]"], "labels=brigt: {shards} has bright, coin, never; did you mean 'bright'?"),
        (["labels=[never]"], "a label needs two different known values in every part (never: one class only"),
        (["data.test_split=tset"], "data.test_split=tset: {shards} has train, val, test; did you mean 'test'?"),
        (["data.test_split=train"], "share 30 patients"),
        (["layer=7"], "layer=7: test_resnet has 1, 2, 3, 4, 5 and last"),
        (["layer=lst"], "layer=lst: test_resnet has"),
        (["stage=dii"], "stage=dii: {run} has di, best, latest; did you mean 'di'?"),
        (["fractions=[1.5]"], "fractions[0]=1.5: expected a number above 0 and at most 1"),
        (["fractions=[]"], "fractions=[]"),
        (["c=[]"], "c=[]"),
        (["c=[1.0,0.0]"], "c[1]=0.0: expected a number above 0"),
        (["layer=[]"], "layer=[]: name a level"),
        (["model.encoder=resnet18"], "model.encoder=resnet18: the run has test_resnet"),
        (["run=/nowhere"], "run=/nowhere is not a run folder"),
        (["run=null"], "model.encoder must be given without a run"),
        (["data.size=16"], "data.size=16: expected a whole number of at least 32"),
        (["random_encoders=0"], "random_encoders=0: expected a whole number of at least 1"),
        (["layr=last"], "unknown key layr; did you mean 'layer'?"),
    ],
)
def test_mistakes_are_one_line(run: Path, shards: Path, arguments: list[str], message: str, capsys) -> None:
    assert main([f"run={run}", f"data.shards={shards}", *arguments]) == 2
    told = "probe: weights of demo at step 5: "  # of mistakes that only the encoder shows
    (error,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith(told))
    assert message.format(shards=shards, run=run) in error


def test_data_and_runs_that_cannot_be_compared_are_refused(tmp_path: Path, run: Path, capsys) -> None:
    bare, cut = write(tmp_path / "bare", names=[]), write(tmp_path / "cut", patient=lambda i: i % 50)
    volumes = tmp_path / "volumes"
    info = write(volumes) / "dataset.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"dims": 3}))
    table = pq.read_table(volumes / "manifest.parquet")
    affines = pa.array([[0.0] * 16] * len(table), SCHEMA.field("affine").type)
    table = table.set_column(table.schema.get_field_index("affine"), SCHEMA.field("affine"), affines)
    pq.write_table(table, volumes / "manifest.parquet")
    other = train(tmp_path / "large", 0, size=64)
    for runs, shards, printed in (
        (run, bare, f"{bare} has no labels"),
        (f"[{run},{other}]", bare, f"data.size is 32 in {run} and 64 in {other}"),
        (run, volumes, f"{volumes} holds volumes, and probing {ENCODER} reads images"),
        (run, cut, f"data.split=train and data.val_split=val of {cut} share 24 patients"),
    ):
        assert main([f"run={runs}", f"data.shards={shards}"]) == 2
        assert printed in capsys.readouterr().err


def described(run: Path, **model: object) -> Description:
    """The run's description, as if it had been trained with another network."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    return derived("pretrain", config | {"model": model})


def test_a_network_of_ones_own_is_compared_with_random_ones_of_its_kind(trained: Path) -> None:
    cfg = compose("probe", ["data.shards=any"])
    changed = f"{Changed.__module__}.{Changed.__name__}"
    model = {"encoder": ENCODER, "decoder_channels": [8], "weights": None, "bn_groups": 1, "zero_init_residual": False}
    network, size = compared_network(cfg, [described(trained, _target_=changed, **model)])
    (encoder,) = random_group(network, size, 1, 0).encoders
    assert encoder.name == Changed.ANOTHER
    volumes = described(trained, _target_="train.models.stub3d.Tiny3D", width=4, weights=None, bn_groups=1)
    assert compared_network(cfg, [volumes])[1] == volumes.input.size
    with pytest.raises(UserError, match=r"data.size=64: volumes are resized to the run's size; leave it out"):
        compared_network(compose("probe", ["data.shards=any", "data.size=64"]), [volumes])


class Changed(TimmUNet):
    """A run with these keys and another encoder is none: plain timm's would be a wrong baseline."""

    ANOTHER: ClassVar[str] = "test_convnext"

    def build_encoder(self, size: int) -> TimmEncoder:
        return build_encoder(self.ANOTHER, size=size)
