"""A run on a toy dataset of volumes, with a network that is the tests' own: from its shards to a restored picture."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import assert_equal_runs, assert_moved_alike, finish, losses, require_strategy, status
from PIL import Image
from train.data.volumes import NONE, WORDS, make, random_volumes

from dira_scale import embed, export, finetune, plan, probe
from dira_scale.pretrain import main
from dira_scale.pretrain.pictures import GAP
from dira_scale.report import main as report

pytestmark = pytest.mark.system


def test_a_run_learns_from_volumes(tmp_path: Path) -> None:
    """All stages, validation, monitors, pictures and the table of restorations."""
    shards, run = make(tmp_path / "toy", random_volumes(12), val=4), tmp_path / "run"
    code = main(
        [*WORDS, f"data.shards={shards.root}", "data.size=[16,16,12]", "data.batch=4", "data.workers=1", f"run={run}",
         "precision=fp32", "parallel.threads=1", "validate.batch=2", "log_every=1", "health.every=1",
         *(f"stages.{stage}.epochs=1" for stage in ("di", "dir", "dira"))]
    )  # fmt: skip
    assert code == 0
    assert json.loads((run / "description.json").read_text())["input"]["size"] == [16, 16, 12]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["split"] == "train"]
    assert len(trained) == 6 and all(np.isfinite(row["loss"]) for row in trained)
    assert {"loss/di", "loss/re", "loss/ad", "health/psnr", "health/ssim", "health/rank"} <= trained[-1].keys()
    assert "health/knn_auc" in rows[-1] or any("health/knn_auc" in row for row in rows)
    with Image.open(run / "pictures" / "dira.png") as picture:  # of each held-out volume three planes, three times
        assert picture.size == (3 * (96 + GAP), 4 * (96 + 2 * 192 + 3 * GAP))  # slices are twice as far apart
    table = json.loads((run / "pictures" / "restoration.json").read_text())
    by_restorer = {row["restorer"]: row for row in table if row["stage"] == "dira"}
    assert by_restorer["distorted"]["n"] == 4 and by_restorer["nearest"] == by_restorer["distorted"] | {
        "restorer": "nearest"
    }


def test_a_masked_autoencoder_run_ends_in_a_report(tmp_path: Path) -> None:
    """Sparse, without discrimination: restored are the hidden blocks, and nothing says that views are recognised."""
    shards, run = make(tmp_path / "toy", random_volumes(8), val=4), tmp_path / "run"
    mask = "{_target_: BlockMask, block: 8, share: 0.5}"
    code = main(
        ["method=mae", "method.masking=sparse", "model=unet3d", "model.width=0.0625", "views.count=1",
         f"+views.corruptions.mask={mask}", "views.jitter.p=0", *(f"views.{name}.p=0" for name in NONE),
         f"data.shards={shards.root}", "data.size=[16,16,16]", "data.batch=4", "data.workers=1", f"run={run}",
         "precision=fp32", "parallel.threads=1", "validate.batch=4", "log_every=1", "health.every=1",
         "stages.di.epochs=0", "stages.dira.epochs=0", "stages.dir.epochs=2", "stages.dir.terms=[re]"]
    )  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/re", "health/psnr", "health/features_rank", "health/gradient/re"} <= {
        key for row in rows for key in row
    }
    assert not {"top1", "loss/di"} & {key for row in rows for key in row}
    table = json.loads((run / "pictures" / "restoration.json").read_text())
    errors = {row["restorer"]: row["mse"] for row in table}
    assert max(errors["nearest"], errors["gaussian"]) < errors["distorted"]  # of which half is 0
    assert report([f"run={run}"]) == 0
    page = (run / "report.html").read_text()
    assert "a Gaussian mean of visible voxels in hidden ones" in page and "top-1" not in page


def test_a_run_on_volumes_is_planned_reported_exported_embedded_and_fine_tuned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, run = make(tmp_path / "toy", random_volumes(16), val=4, test=4), tmp_path / "run"
    quick = [f"data.shards={shards.root}", "data.size=[16,16,16]", "data.batch=4", "data.workers=1"]
    quick += ["parallel.threads=1", "precision=fp32"]
    words = [*quick, "experiment=small_dira_moco3d", "model.width=0.125", "views.extents=[]", "optim.warmup_epochs=0",
             "method.base.queue=16", "validate.every=1",
             *(f"stages.{stage}.epochs=1" for stage in ("di", "dir", "dira"))]  # fmt: skip
    assert plan.main(words) == 0
    planned = capsys.readouterr().out
    assert "[16, 16, 16] voxels" in planned and "volumes/s" in planned and "images/s" not in planned
    assert main([*words, f"run={run}"]) == 0
    assert report([f"run={run}"]) == 0
    page = (run / "report.html").read_text()
    assert "Restoration of held-out volumes" in page and "volumes/s" in page and "data:image/png" in page
    assert export.main([f"run={run}"]) == 0 and list((run / "export").glob("*.safetensors"))
    assert embed.main([f"run={run}", f"data.shards={shards.root}", f"out={tmp_path / 'embeddings'}"]) == 0
    words = [f"run={run}", f"data.shards={shards.root}", "random_encoders=1", "c=[1.0]", "k=3"]
    assert probe.main(words) == 0
    assert "pixels 16x16x16" in (run / "probe" / "probe.md").read_text()
    tuned = tmp_path / "tuned"
    assert finetune.main(
        [*quick, f"init={run}", f"run={tuned}", "task=labels", "views=tune_volumes",
         "stages.finetune.epochs=1"]
    ) == 0  # fmt: skip
    assert (tuned / "results.json").exists()


# Four steps, by SGD: Adam enlarges gradients that are rounding alone, as of biases before BatchNorm.
STEPS = ["optim=sgd_moco", "optim.optimizer.lr=1e-3", "optim.warmup_epochs=0", "data.size=[16,16,16]",
         "views.extents=[]", "data.batch=4", "data.workers=1", "model.width=0.125", "precision=fp32",
         "parallel.threads=1", "validate.batch=4", "validate.every=9", "log_every=1", "checkpoint.every=1",
         "checkpoint.keep=9"]  # fmt: skip
PCRL = ["experiment=small_pcrl3d", *STEPS, "views.corruptions.affine.p=0.5", "views.corruptions.shuffle.blocks=50",
        "method.queue=24", "method.dim=8", "stages.pcrl.epochs=2"]  # fmt: skip
RELEASED = [*PCRL, "method._target_=PCRLReleased"]
TRANSVW = ["experiment=small_dira_transvw", *STEPS, "method.base.classes=3", "health.every=1",
           "stages.di.epochs=0.5", "stages.dir.epochs=0.5", "stages.dira.epochs=1"]  # fmt: skip
CRITIC = ["optim.discriminator._target_=torch.optim.SGD", "~optim.discriminator.betas", "optim.discriminator.lr=1e-6"]
NUMBERED = [number % 3 for number in range(12)]  # their words


@pytest.mark.parametrize("words", [pytest.param(PCRL, marks=pytest.mark.torture), RELEASED, TRANSVW])
def test_a_method_of_volumes_resumes_bit_for_bit(words: list[str], tmp_path: Path) -> None:
    shards = make(tmp_path / "toy", random_volumes(12), val=4, words=NUMBERED)
    for run, *stops in (("unbroken", []), ("stopped", ["steps=3"], [])):
        for stop in stops:
            assert main([*words, f"data.shards={shards.root}", f"run={tmp_path / run}", *stop]) == 0
    assert status(tmp_path / "stopped")["step"] == 4
    assert_equal_runs(tmp_path / "stopped", tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("strategy", "chosen"),
    [
        pytest.param("ddp", PCRL, marks=pytest.mark.torture),
        ("fsdp2", PCRL),
        pytest.param("zero2", PCRL, marks=pytest.mark.torture),
        pytest.param("zero2", RELEASED, marks=pytest.mark.torture),
        pytest.param("ddp", [*TRANSVW, *CRITIC], marks=pytest.mark.torture),
        pytest.param("fsdp2", [*TRANSVW, *CRITIC], marks=pytest.mark.torture),
        pytest.param("zero2", [*TRANSVW, *CRITIC], marks=pytest.mark.torture),
    ],
)
def test_a_method_of_volumes_is_one_algorithm_on_two_processes(
    strategy: str, chosen: list[str], tmp_path: Path
) -> None:
    """In float64 against one plain process, as of images in test_strategies.py."""
    require_strategy(strategy)
    shards = make(tmp_path / "toy", random_volumes(12), val=4, words=NUMBERED)
    plain, run = tmp_path / "plain", tmp_path / "run"
    exact = str(Path(__file__).with_name("exact.py"))
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for folder, launch, *more in ((plain, []), (run, several, f"parallel={strategy}")):
        words = [*chosen, f"data.shards={shards.root}", f"run={folder}", *more]
        finish([sys.executable, *launch, exact, *words])
    assert status(run)["step"] == status(plain)["step"] == 4
    for ours, theirs in zip(losses(run), losses(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)
    assert_moved_alike(run, plain, share=1e-6, still=1e-15, zero=1e-15)
