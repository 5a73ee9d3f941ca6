"""The checkpoint of a run that each command takes, and the words for it; of a run that ended early by its patience."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from harness import SMALL, TINY
from toy_run import ENCODER, train, write

from dira_scale import api
from dira_scale.base.errors import UserError
from dira_scale.finetune import main as finetune
from dira_scale.judge.evaluation.encoders import stored_encoder
from dira_scale.pretrain import main as pretrain
from dira_scale.report import main as report
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.choice import chosen_checkpoint, run_weights
from dira_scale.train.runs.description import read_description
from dira_scale.train.runs.reader import RunReader

TUNED = ["task=labels", "task.labels=[bright,coin]", "data.size=32", "data.batch=8", "data.workers=1"]
TUNED += ["precision=fp32", "parallel.threads=1"]
NEWEST = "weights of early at step 5: the newest; the best loss of stage di was at step 3, 2 before"
BEST = "weights of early at step 3: the best loss of stage di, 2 before the newest"


@pytest.fixture
def early(tmp_path: Path) -> Path:
    """Pretraining whose validation loss was lowest two steps before its end."""
    return train(tmp_path / "early", seed=0, wrapped=False)


@pytest.mark.parametrize(
    ("stage", "labels", "step"),
    [(None, (), 5), (None, ("bright",), 3), ("latest", ("bright",), 5), ("best", (), 3), ("di", (), 3)],
)
def test_the_newest_of_pretraining_the_best_on_labels_or_what_is_named(
    early: Path, stage: str | None, labels: tuple[str, ...], step: int
) -> None:
    described = read_description(early)
    chosen = chosen_checkpoint(early, replace(described, output=replace(described.output, names=labels)), stage)
    assert (chosen.step, chosen.newest, chosen.best) == (step, 5, ("di", 3))
    assert chosen.sentence("early", "stage", "loss") == (BEST if step == 3 else f"{NEWEST} (stage=best takes it)")


def test_the_encoder_of_a_run_is_of_the_checkpoint_that_is_asked_for(early: Path) -> None:
    for stage, step in ((None, 5), ("best", 3)):
        torch.manual_seed(step)
        expected = build_encoder(ENCODER, size=32).state_dict()
        assert all(
            torch.equal(v, expected[n]) for n, v in api.encoder(early, stage).state_dict().items() if n in expected
        )
        assert stored_encoder(early, stage).state_dict().keys() >= expected.keys()


def test_a_stage_that_a_run_does_not_have_is_refused_by_the_key(early: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"init_stage=dria: .*early has di, best, latest"):
        run_weights(early, "dria")
    with pytest.raises(UserError, match=r"init_stage=di: init=file.pth is no run's folder; leave it out"):
        run_weights(tmp_path / "file.pth", "di", name="file.pth")
    assert run_weights(tmp_path / "file.pth", "best") is None
    (early / "checkpoints" / "BEST-di").unlink()
    with pytest.raises(UserError, match=r"stage=best: .*nothing was validated; use stage=latest"):
        RunReader(early).chosen("best")


def recorded(run: Path) -> Any:
    return yaml.safe_load((run / "config.yaml").read_text())


@pytest.mark.system
def test_a_run_that_ended_early_is_fine_tuned_from_its_best_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a rate of 0 no validation is better than the first: `patience` epochs later the run ends. What was taken is
    kept by a run that resumes, although its start has gone on since."""
    shards, early = write(tmp_path / "shards"), tmp_path / "early"
    words = [*TINY, SMALL, f"data.shards={shards}", "validate.every=1", "epoch_factor=1"]
    stages = ["stages.di.epochs=9", "stages.di.patience=2", "stages.dir.epochs=0", "stages.dira.epochs=0"]
    still = ["optim.optimizer.lr=0", "optim.optimizer.weight_decay=0", "method.base.momentum=1"]
    assert pretrain([*words, *stages, *still, f"run={early}"]) == 0
    newest, best = (int(path.name) for path in (checkpoint.latest(early), checkpoint.best(early, "di")))
    assert best < newest < 9 * 7

    tuned = tmp_path / "tuned"
    words = [*TUNED, f"data.shards={shards}", f"init={early}", f"run={tuned}", "init_stage=best"]
    assert finetune([*words, "stages.finetune.epochs=2", "steps=1"]) == 0
    sentence = f"weights of early at step {best}: the best loss of stage di, {newest - best} before the newest"
    assert sentence in capsys.readouterr().out and sentence in (tuned / "log.txt").read_text()
    for file in (early / "checkpoints").glob("BEST-*"):
        file.write_text(f"{newest:09d}")
    assert finetune([*words, "stages.finetune.epochs=2"]) == 0
    assert sentence in capsys.readouterr().out and recorded(tuned)["started"] == sentence
    assert sentence in json.loads((tuned / "description.json").read_text())["training"]
    assert report([f"run={tuned}"]) == 0
    assert sentence in (tuned / "report.html").read_text()

    next_run = tmp_path / "next"
    words = [*TINY, SMALL, f"data.shards={shards}", f"model.weights={early}", f"run={next_run}", "steps=1"]
    assert pretrain([*words, "init_stage=latest"]) == 0
    assert f"weights of early at step {newest}: the newest" in recorded(next_run)["started"]
