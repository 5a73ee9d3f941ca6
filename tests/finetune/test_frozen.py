"""Frozen parts: nothing of them moves, and what a linear probe of pixels can learn over them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from finetune.conftest import TINY
from harness import finish
from train.models.test_classifier import model

from dira_scale.api import export
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.finetune import main
from dira_scale.finetune.blueprint import FinetuneBlueprint
from dira_scale.fleet.forecast.network import fake_task
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.judge.tasks.masks import Segmentation
from dira_scale.judge.tasks.task import identity
from dira_scale.train.distributed import processes
from dira_scale.train.models.architecture import architecture
from dira_scale.train.runs import checkpoint

WORDS = [*TINY, "task=masks", "task.classes={upper: 1, lower: 2}", "optim.optimizer.lr=3e-3"]
LINEAR, ESTIMATED = "task.decoder=linear", "validate.norm_passes=2"


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("words", "learned", "loaded", "said"),
    [
        (["frozen=encoder"], {"decoder", "head"}, True, "frozen: encoder; "),
        (["frozen=network"], {"head"}, True, "frozen: encoder and decoder; "),
        (["frozen=network"], {"head"}, False, "frozen: encoder and decoder, of random weights; "),
        pytest.param(["frozen=encoder", LINEAR], {"head"}, True, "frozen: encoder; ", marks=pytest.mark.system),
    ],
)
def test_a_frozen_part_keeps_weights_and_statistics_and_has_no_optimizer_state(
    words: list[str], learned: set[str], loaded: bool, said: str, discs: Path, tmp_path: Path
) -> None:
    """Four steps, before the last of which a validation re-estimates BatchNorm's statistics where some learn, or where
    random weights have none."""
    run, start = tmp_path / "run", "random"
    if loaded:  # from a run of one step
        start = str(tmp_path / "start")
        assert main([*WORDS, f"data.shards={discs}", f"run={start}", "steps=1", "data.test_split=null"]) == 0
    words = [*WORDS, f"data.shards={discs}", f"run={run}", ESTIMATED, f"init={start}", *words]
    cfg = compose("finetune", words)
    task = FinetuneBlueprint(cfg).task(processes.start(cfg.parallel, "fp32"))
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    assert main([*words, "steps=4"]) == 0
    after, _ = checkpoint.load(checkpoint.latest(run))
    moved = {name for name, value in before.items() if not torch.equal(after[f"network.{name}"], value)}
    kept = {name for name in before if name.partition(".")[0] not in learned}
    statistics = {name for name in kept if "running_" in name or "num_batches" in name}
    assert moved == (before.keys() - kept) | (set() if loaded else statistics) and kept and statistics
    assert {name.split(".")[2] for name in after if name.startswith("optim.network.")} == learned
    log = (run / "log.txt").read_text()
    count = sum(value.numel() for name, value in task.module.named_parameters() if name not in kept)
    assert f"{said}{count:,} of " in log
    assert ("BatchNorm" in log) == ("decoder" in learned or not loaded)

    fake = fake_task(FinetuneBlueprint(cfg))  # as a plan counts
    assert sum(parameter.numel() for parameter in fake.ever_trained()) == count


def test_a_linear_probe_learns_a_mask_that_is_linear_in_a_level_of_a_frozen_encoder() -> None:
    torch.manual_seed(0)
    built, task = architecture(model("test_resnet")), Segmentation(None, linear=True)
    network = task.network(built, built.build_encoder(64)).train()
    network.freeze("encoder")
    images = torch.rand(8, 1, 64, 64)
    level = F.interpolate(network.encoder(images)[2], size=(64, 64), mode="bilinear")
    score = torch.einsum("c,bchw->bhw", torch.randn(level.shape[1]), level)
    targets = (score > score.median()).long()
    optimizer = torch.optim.LBFGS(network.head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([*task.terms(network(images), targets, identity).values()]).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    right = task.classified(task.predicted(network(images))) == targets
    assert right.float().mean() > 0.98
    assert all(parameter.grad is None for parameter in network.encoder.parameters())


@pytest.mark.usefixtures("libraries")
def test_a_linear_network_is_read_again_from_its_run_and_its_export(discs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main([*WORDS, LINEAR, f"data.shards={discs}", f"run={run}", "stages.finetune.epochs=1"]) == 0
    of_run, of_export = TrainedRun.of(run), TrainedRun.of(export(run))
    assert of_run.hash == of_export.hash and (run / "results.json").exists()
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(of_run.predictor(torch.device("cpu"))(image), of_export.predictor(torch.device("cpu"))(image))
    for format, why in {"smp": "needs a U-Net", "onnx": "has no decoder such as LinearNetwork's; use plain"}.items():
        with pytest.raises(UserError, match=rf"^formats: {format} {why}"):
            export(run, {"formats": format})


@pytest.mark.parametrize("key", ["layer_decay", "patch_factor"])
def test_a_frozen_encoder_has_no_rates_to_lower(key: str) -> None:
    with pytest.raises(UserError, match=rf"optim\.{key}=0\.5: expected null with frozen=encoder"):
        compose("finetune", ["init=random", "data.shards=none", "frozen=encoder", f"optim.{key}=0.5"])


@pytest.mark.torture
def test_two_processes_equal_one(discs: Path, tmp_path: Path) -> None:
    """Also where the validation split is one batch, so that the second has none of it."""
    tensors: list[dict[str, Any]] = []
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if ranks > 1 else []
        command = [sys.executable, *launcher, "-m", "dira_scale.finetune", *WORDS, f"data.shards={discs}"]
        finish([*command, f"run={run}", "frozen=network", "data.test_split=null", "validate.batch=16"])
        tensors.append(checkpoint.load(checkpoint.latest(run))[0])
    for name, value in tensors[0].items():
        if name.startswith("network."):
            bound = 1e-4 if ".head." in name or "running_" in name else 0.0
            torch.testing.assert_close(tensors[1][name], value, rtol=bound, atol=bound, msg=f"{name}: ".__add__)
