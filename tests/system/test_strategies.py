"""All strategies are one algorithm: real processes against one plain fp32 process, step by step."""

import functools
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import finish, losses, pretrain, skip_without, status, weights

from dira_scale.train import checkpoint

# Twenty steps of three stages in which rounding does not grow: small rates, no Adam step of a vanishing gradient.
STEPS = ["model.encoder=test_resnet", "data.batch=16", "model.bn_groups=1", "parallel.channels_last=false"]
STEPS += ["stages.di.epochs=3.5", "stages.dir.epochs=3.5", "stages.dira.epochs=3"]
STEPS += [
    "optim.optimizer.lr=1e-4",
    "+optim.optimizer.eps=1e-3",
    "+optim.discriminator.eps=1e-3",
    "checkpoint.every=1",
    "checkpoint.keep=99",
]
OTHERS = [f"~method.base.{key}" for key in ("queue", "temperature", "momentum", "batch_norm")]  # the experiment's MoCo
# At MoCo's rates their losses drift apart by rounding alone, tenfold in seven steps, the discriminator's most of all.
OTHERS += ["optim.optimizer.lr=1e-5", "optim.discriminator.lr=2e-5"]
BASES = {
    "moco": ["method.base.temperature=0.5"],
    "simsiam": ["method=dira_simsiam", *OTHERS, "method.base.dim=64", "method.base.bottleneck=16"],
    "barlow": ["method=dira_barlow", *OTHERS, "method.base.dim=64", "method.base.scale=0.1"],
}
LOSS = 3e-3  # relative, of every loss of every step; measured: 1e-4, and 1e-3 of the adversary's
COSINE = 1e-4  # or absolute: SimSiam's loss is a mean cosine and passes through 0; measured: 5e-5
MOVED = 0.05  # of the way a tensor has gone from the first step to the last; measured: 2.4 %, in the discriminator
STILL = 1e-5  # of a tensor's norm: a bias before BatchNorm has no gradient, and moves by what rounding makes of that
ZERO = 1e-6  # and of a tensor that is 0 but for rounding: the running mean of what a BatchNorm before has centred


@pytest.fixture(scope="session")
def plain(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> "functools.partial[Path]":
    """The run of a base in one plain process, made when it is first asked for."""
    made: dict[str, Path] = {}

    def run(base: str) -> Path:
        if base not in made:
            made[base] = tmp_path_factory.mktemp(base) / "plain"
            finish(command(made[base], shards, base))
        return made[base]

    return functools.partial(run)


def command(run: Path, shards: Path, base: str, *overrides: str, ranks: int = 1) -> list[str]:
    if any(override.startswith("parallel=zero") for override in overrides):
        missing = find_spec("deepspeed") is None
        skip_without("deepspeed", "DeepSpeed is missing: python3 setup/install.py deepspeed" if missing else "")
    return pretrain(run, shards, *STEPS, *BASES[base], *overrides, ranks=ranks)


def assert_one_algorithm(run: Path, reference: Path, steps: int = 20) -> None:
    """Losses of every step; then all weights, momentum network and discriminator too, by the way that they went."""
    assert status(run)["step"] == status(reference)["step"] == steps
    for ours, theirs in zip(losses(run), losses(reference), strict=True):
        assert ours == pytest.approx(theirs, rel=LOSS, abs=COSINE)
    start, _ = checkpoint.load(reference / "checkpoints" / "000000001")
    ours, theirs = weights(run), weights(reference)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape and ours[name].dtype == tensor.dtype, name
        if name.startswith("optim.") or not tensor.is_floating_point():
            continue
        error, moved = (ours[name] - tensor).norm(), (tensor - start[name]).norm()
        assert error <= MOVED * moved + STILL * tensor.norm() + ZERO, f"{name}: {error:.1e} of {moved:.1e}"


@pytest.mark.parametrize("strategy", ["fsdp2", "zero1", "zero2", "zero3"])
def test_a_sharded_run_is_the_plain_run(strategy: str, shards: Path, plain, tmp_path: Path) -> None:
    finish(command(tmp_path / "run", shards, "moco", f"parallel={strategy}", ranks=2))
    assert_one_algorithm(tmp_path / "run", plain("moco"))


def tiers(strategies: list[str], system: str) -> list[Any]:
    """One strategy of each kind of test belongs to the system tests, the others to torture."""
    marks = {name: pytest.mark.system if name == system else pytest.mark.torture for name in strategies}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


def held(strategy: str, ranks: int) -> dict[str, int]:
    """Bytes that a process keeps between steps: ``all``, and of them the ``method``'s."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    printed = finish([*launch, str(Path(__file__).with_name("held.py")), strategy])
    found: dict[str, int] = json.loads(printed.split("HELD ")[1].splitlines()[0])
    return found


@pytest.mark.torture
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_what_a_process_keeps_falls_as_the_strategy_promises(ranks: int) -> None:
    """Adam over ResNet-18, its U-Net and projector; the momentum encoder and the queue have no optimizer state."""
    plain = held("ddp", 1)
    adam = plain["all"] - plain["method"]  # two values a trained parameter
    bucket = 2**23 * 4
    promised = {
        "ddp": plain["all"],
        "fsdp2": plain["all"] / ranks,
        # DeepSpeed steps a copy of its part of the parameters.
        "zero1": plain["method"] + 1.5 * adam / ranks,
        "zero2": plain["method"] + 1.5 * adam / ranks,
        # And keeps buffers for gradients: one bucket, and its part of them.
        "zero3": plain["method"] / ranks + 2 * adam / ranks + bucket,
    }
    for strategy, expected in promised.items():
        assert held(strategy, ranks)["all"] == pytest.approx(expected, rel=0.03), strategy


@pytest.mark.torture
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero1", "zero2", "zero3"])
def test_every_strategy_on_every_base(
    strategy: str, ranks: int, base: str, shards: Path, plain, tmp_path: Path
) -> None:
    finish(command(tmp_path / "run", shards, base, f"parallel={strategy}", ranks=ranks))
    assert_one_algorithm(tmp_path / "run", plain(base))


@pytest.mark.parametrize(
    ("strategy", "saver"),
    [
        pytest.param("fsdp2", "checkpoint_activations", marks=pytest.mark.system),
        pytest.param("zero3", "checkpoint_activations", marks=pytest.mark.torture),
        pytest.param("zero1", "offload", marks=pytest.mark.system),
        pytest.param("zero2", "offload", marks=pytest.mark.torture),
        pytest.param("zero3", "offload", marks=pytest.mark.torture),
    ],
)
def test_memory_savers_change_nothing(strategy: str, saver: str, shards: Path, plain, tmp_path: Path) -> None:
    finish(command(tmp_path / "run", shards, "moco", f"parallel={strategy}", f"parallel.{saver}=true", ranks=2))
    assert_one_algorithm(tmp_path / "run", plain("moco"))


@pytest.mark.parametrize("strategy", tiers(["ddp", "fsdp2", "zero1", "zero2", "zero3"], "zero2"))
def test_accumulation_and_clipping_are_the_same_everywhere(strategy: str, shards: Path, tmp_path: Path) -> None:
    """Restoration alone: MoCo's key shuffle acts within a micro-batch. The norm to clip to is below the usual one."""
    overrides = ["stages.di.epochs=0", "stages.dira.epochs=0", "stages.dir.terms=[re]", "stages.dir.epochs=10"]
    overrides += ["model.bn_groups=4", "optim.clip=0.05"]
    finish(command(tmp_path / "plain", shards, "moco", *overrides))
    spread = [f"parallel={strategy}", "parallel.accumulate=2"]
    finish(command(tmp_path / "run", shards, "moco", *overrides, *spread, ranks=2))
    assert_one_algorithm(tmp_path / "run", tmp_path / "plain")


@pytest.mark.system
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("zero3", "ddp"),
        *(
            pytest.param(*pair, marks=pytest.mark.torture)
            for pair in (("fsdp2", "zero1"), ("zero2", "fsdp2"), ("ddp", "zero3"))
        ),
    ],
)
def test_a_run_goes_on_under_another_strategy(before: str, after: str, shards: Path, plain, tmp_path: Path) -> None:
    """In the middle of a stage, with Adam's moments, and on another number of processes."""
    run = tmp_path / "run"
    finish(command(run, shards, "moco", f"parallel={before}", "steps=10", ranks=2))
    finish(command(run, shards, "moco", f"parallel={after}", ranks=1))
    assert_one_algorithm(run, plain("moco"))


@pytest.mark.parametrize("strategy", tiers(["ddp", "fsdp2", "zero2", "zero3"], "zero2"))
def test_fp16_scales_its_loss_and_follows_fp32(strategy: str, shards: Path, plain, tmp_path: Path) -> None:
    """2^16 overflows at first: steps are left out and the factor halved, by all processes alike; it is kept."""
    run = tmp_path / "run"
    finish(command(run, shards, "moco", f"parallel={strategy}", "precision=fp16", "steps=10", ranks=2))
    _, progress = checkpoint.load(checkpoint.latest(run))
    assert 1.0 <= progress["loss_scale"] <= 2.0**16
    finish(command(run, shards, "moco", f"parallel={strategy}", "precision=fp16", ranks=2))
    for ours, theirs in zip(losses(run), losses(plain("moco")), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.1)


@pytest.mark.torture
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_compiled_blocks_compute_the_same(strategy: str, shards: Path, plain, tmp_path: Path) -> None:
    finish(command(tmp_path / "run", shards, "moco", f"parallel={strategy}", "parallel.compile=true", ranks=2))
    assert_one_algorithm(tmp_path / "run", plain("moco"))


@pytest.mark.system
def test_a_sharded_run_goes_on_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    for name, stops in (("unbroken", [[]]), ("broken", [["steps=9"], []])):
        for stop in stops:
            finish(command(tmp_path / name, shards, "moco", "parallel=zero3", "checkpoint.every=99", *stop, ranks=2))
    ours, theirs = weights(tmp_path / "broken"), weights(tmp_path / "unbroken")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


@pytest.mark.parametrize("strategy", ["zero1", "zero3"])
def test_lars_is_refused_where_layers_are_cut(strategy: str, shards: Path, tmp_path: Path) -> None:
    overrides = [f"parallel={strategy}", "optim=lars_barlow", "optim.warmup_epochs=0"]
    printed = finish(pretrain(tmp_path / "run", shards, *overrides), code=2)
    assert not (tmp_path / "run").exists()
    assert "Lars looks at layers as wholes" in printed and "parallel=fsdp2" in printed


@pytest.mark.torture
@pytest.mark.parametrize("strategy", ["fsdp2", "zero1", "zero3"])
def test_groups_of_parameters_and_three_processes(strategy: str, shards: Path, tmp_path: Path) -> None:
    """Several groups, SGD's momentum, parameters that three do not divide, a validation in the middle; then resumed."""
    base = [key for key in STEPS if not key.startswith(("data.batch", "+optim.optimizer"))] + BASES["moco"]
    base += ["data.batch=12", "method.base.queue=60", "optim=sgd_moco", "validate.every=1"]
    base += ["optim.optimizer.lr=3e-5", "optim.discriminator.lr=2e-5"]
    base += ["+optim.one_dimensional.weight_decay=0"]
    # Twenty steps, three an epoch, of a small rate: in 29 steps of 3e-4 rounding grew from 1e-7 to 1e-2 of a loss.
    base += ["stages.di.epochs=2.34", "stages.dir.epochs=2.34", "stages.dira.epochs=2"]
    plain, run = tmp_path / "plain", tmp_path / "run"
    finish(pretrain(plain, shards, *base))
    finish(pretrain(run, shards, *base, f"parallel={strategy}", "steps=10", ranks=3))
    finish(pretrain(run, shards, *base, f"parallel={strategy}", ranks=3))
    assert_one_algorithm(run, plain, status(plain)["step"])


@pytest.mark.system
def test_pictures_are_of_their_own_stage(shards: Path, tmp_path: Path) -> None:
    """The last stage does not restore: what is drawn at the end of the one before is whole all the same."""
    finish(command(tmp_path / "run", shards, "moco", "parallel=fsdp2", "stages.dira.terms=[di]", ranks=2))
    assert (tmp_path / "run" / "pictures" / "dir.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["parallel=fsdp2", "parallel.offload=true"], "parallel.offload=true: fsdp2 has none"),
        (["parallel=zero2", "parallel.compile=true"], "parallel.compile=true: with zero2"),
    ],
    ids=["offload", "compile"],
)
def test_what_a_strategy_does_not_have_is_refused(
    overrides: list[str], words: str, shards: Path, tmp_path: Path
) -> None:
    assert words in finish(pretrain(tmp_path / "run", shards, *overrides), code=2)
