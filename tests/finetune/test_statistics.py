"""BatchNorm's statistics before a validation: the mean over some training batches, nothing else of the run moved."""

import copy
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune.conftest import TINY
from harness import finish, rows
from omegaconf import OmegaConf
from torch import Tensor, nn

from dira_scale.base.config.compose import compose
from dira_scale.finetune import main
from dira_scale.finetune.blueprint import FinetuneBlueprint
from dira_scale.train.distributed import processes
from dira_scale.train.models.normalise import normalised
from dira_scale.train.runs import checkpoint

WORDS = [*TINY, "task=masks", "task.classes={upper: 1, lower: 2}", "optim.optimizer.lr=3e-3"]
RUNNING = "running_mean", "running_var", "num_batches_tracked"


class Plain(nn.Sequential):
    """torch's BatchNorm, and what ours does after it: an addition in a residual block, an activation."""

    def forward(self, x: Tensor, shortcut: Tensor | float = 0.0) -> Tensor:
        norm, act = self
        return act(norm(x) + shortcut)


def plain(network: nn.Module) -> nn.Module:
    """A copy with torch's own BatchNorm."""
    network = copy.deepcopy(network)
    for parent in [*network.modules()]:
        for name, layer in [*parent.named_children()]:
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                assert isinstance(layer.drop, nn.Identity)
                own = nn.BatchNorm2d(layer.num_features, layer.eps)
                own.load_state_dict(layer.state_dict())
                setattr(parent, name, Plain(own, layer.act))
    return network


def test_they_are_torchs_cumulative_average_over_the_passes(discs: Path, tmp_path: Path) -> None:
    """``torch.optim.swa_utils.update_bn`` of a network with torch's own layers, over the same images."""
    cfg = compose(
        "finetune", ["init=random", *WORDS, f"data.shards={discs}", f"run={tmp_path / 'run'}", "validate.norm_passes=3"]
    )
    config: Any = OmegaConf.to_object(cfg)
    task = FinetuneBlueprint(cfg).task(processes.start(config.parallel, config.precision))
    module, stage = task.module.train(), task.stages[0]
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # of whatever was before nothing is left
            layer.running_mean.fill_(7.0)
    expected = plain(module)
    with closing(task.data.loader(stage).iterate(0, 3)) as batches:
        micro = [batch.to(torch.device("cpu")) for batch in batches]
    images = [normalised(task.distort(each.views[0], each.distortions[0]), task.input) for each in micro]
    torch.optim.swa_utils.update_bn(images, expected)

    before = {name: value.clone() for name, value in module.state_dict().items()}
    task.before_validation(stage, module)
    moved = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    theirs = [layer for layer in expected.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(moved) == len(theirs) > 5
    for ours, other in zip(moved, theirs, strict=True):
        torch.testing.assert_close(ours.running_mean, other.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.running_var, other.running_var, rtol=1e-4, atol=1e-5)
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.endswith(RUNNING))
    assert module.training


@pytest.mark.usefixtures("libraries")
def test_nothing_else_of_a_run_differs_and_short_runs_have_them(discs: Path, tmp_path: Path) -> None:
    """Weights and optimizer are bit for bit those of a run without."""
    tensors = {}
    for name, words in {"usual": ["validate.norm_passes=0"], "short": [], "long": ["epoch_factor=10"]}.items():
        run = tmp_path / name
        more = ["data.val_split=null", "data.test_split=null"] if name == "long" else []
        steps = ["steps=1"] if name == "long" else []
        assert main([*WORDS, f"data.shards={discs}", f"run={run}", *words, *more, *steps]) == 0
        tensors[name] = dict(checkpoint.load(checkpoint.latest(run))[0])
        assert ("validate.norm_passes" in (run / "log.txt").read_text()) == (name == "short")
    for name, value in tensors["usual"].items():
        assert torch.equal(value, tensors["short"][name]) != name.endswith(RUNNING), name
    losses = [{row["step"]: row["loss"] for row in rows(tmp_path / name)} for name in ("usual", "short")]
    assert losses[0] == losses[1]
    assert (tmp_path / "short" / "results.json").read_text().count('"norm_passes": 10') == 1
    assert "norm_passes" not in (tmp_path / "usual" / "results.json").read_text()


@pytest.mark.system
def test_two_processes_equal_one_and_choose_the_same_rate(discs: Path, tmp_path: Path) -> None:
    choose = ["optim.choose=[1e-4,3e-3]", "optim.optimizer._target_=torch.optim.SGD", "+optim.optimizer.momentum=0.9"]
    tensors = []
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if ranks > 1 else []
        command = [sys.executable, *launcher, "-m", "dira_scale.finetune", *WORDS, f"data.shards={discs}"]
        finish([*command, f"run={run}", *choose])
        assert len([*run.glob("rates/*/config.yaml")]) == 2 and (run / "results.json").exists()
        tensors.append(dict(checkpoint.load(checkpoint.latest(run))[0]))
    for name, value in tensors[0].items():
        if name.startswith("network."):  # rounding grows over the steps
            torch.testing.assert_close(tensors[1][name], value, rtol=1e-3, atol=1e-3, msg=f"{name}: ".__add__)
