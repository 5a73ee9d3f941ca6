"""All strategies are one algorithm: real processes against one plain fp32 process, step by step."""

import functools
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import (
    assert_equal_runs,
    assert_moved_alike,
    distances,
    finish,
    losses,
    pretrain,
    require_strategy,
    rows,
    status,
    weights,
)
from safetensors.torch import load_file

from dira_scale.base.config.compose import compose
from dira_scale.train import methods
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.deepspeed import BUCKET
from dira_scale.train.runs import checkpoint

# Twenty steps of three stages in which rounding does not grow: small rates, no Adam step of a vanishing gradient.
STEPS = ["model.encoder=test_resnet", "data.batch=16", "model.bn_groups=1", "parallel.channels_last=false"]
STEPS += ["stages.di.epochs=3.5", "stages.dir.epochs=3.5", "stages.dira.epochs=3"]
STEPS += ["optim.optimizer.lr=1e-4", "optim.discriminator.lr=2e-5", "checkpoint.every=99"]
STEPS += ["+optim.optimizer.eps=1e-3", "+optim.discriminator.eps=1e-3"]
OTHERS = [f"~method.base.{key}" for key in ("queue", "temperature", "momentum", "batch_norm")]  # the experiment's MoCo
OTHERS += ["optim.optimizer.lr=3e-6"]  # at MoCo's rate their losses drift apart by rounding, tenfold in seven steps
PCRL = ["method=pcrl", "views=pcrl", "~method.base", "method.queue=64", "method.batch_norm=true"]
PCRL += ["method.temperature=0.5", "optim.optimizer.lr=3e-6"]
PCRL += ["stages.di.epochs=0", "stages.dir.epochs=5", "stages.dira.epochs=0"]
BASES = {
    "moco": ["method.base.temperature=0.5", "optim.optimizer.lr=3e-5"],  # at 1e-4 rounding grows to 7 %
    "simsiam": ["method=dira_simsiam", *OTHERS, "method.base.dim=64", "method.base.bottleneck=16"],
    "barlow": ["method=dira_barlow", *OTHERS, "method.base.dim=64", "method.base.scale=0.1"],
    "pcrl": PCRL,
    "released": [*PCRL, "method._target_=PCRLReleased"],
    "c2l": ["method=c2l", *PCRL[1:], "stages.dir.terms=[di]"],
}
# In float64, before the full counts. Every strategy and every base is in one of the tests of this file; beside it
# tests/train/methods/test_processes.py has all bases on several processes, and tests/train/engine/test_any_task.py ZeRO
# and FSDP.
SHOWN = [("zero2", 2, "barlow")]
KEPT = ["checkpoint.every=1", "checkpoint.keep=99"]  # of a reference: its tensors' way begins with its first step
ZERO = ("zero1", "zero2", "zero3")
LOSS = 1e-3  # relative, of every loss of every step
COSINE = 1e-4  # or absolute: SimSiam's loss is a mean cosine and passes through 0
MOVED = 0.05  # of the way a tensor has gone from the first step to the last
TOGETHER = 0.01  # of the way of all trained weights, or of all statistics
EXACT = 1e-9  # of a loss in float64
STILL = 3e-7  # of a tensor's norm: so far twenty roundings of its sum carry it, 2^-24 each, sqrt(20) of them


@pytest.fixture(scope="session")
def plain(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The run of a base in plain processes, made when it is first asked for."""

    @functools.cache
    def run(base: str, exact: bool = False, ranks: int = 1) -> Path:
        run = tmp_path_factory.mktemp(base) / "plain"
        words = command(run, shards, base, *KEPT, ranks=ranks)
        finish(exactly(words) if exact else words)
        return run

    return run


def exactly(command: list[str]) -> list[str]:
    """The run in float64."""
    return by_script(command, "exact.py")


def by_script(command: list[str], script: str, *arguments: str) -> list[str]:
    """The run by a script beside this file."""
    at = command.index("dira_scale.pretrain")
    return [*command[: at - 1], str(Path(__file__).with_name(script)), *arguments, *command[at + 1 :]]


def command(run: Path, shards: Path, base: str, *overrides: str, ranks: int = 1) -> list[str]:
    for override in overrides:
        require_strategy(override.removeprefix("parallel="))
    return pretrain(run, shards, *STEPS, *BASES[base], *overrides, ranks=ranks)


def assert_one_algorithm(run: Path, reference: Path, steps: int = 20) -> None:
    """Losses of every step; then all weights, momentum network and discriminator too, by the way that they went."""
    assert status(run)["step"] == status(reference)["step"] == steps
    assert_losses_agree(run, reference, LOSS, COSINE)
    assert_moved_alike(run, reference, MOVED, STILL)


def assert_exactly(run: Path, reference: Path) -> None:
    """Runs in float64: without rounding to speak of nothing is left to differ."""
    assert status(run)["step"] == status(reference)["step"]
    assert_losses_agree(run, reference, EXACT, EXACT)
    assert_moved_alike(run, reference, share=1e-6, still=STILL * 2**-29, zero=1e-15)


def assert_losses_agree(run: Path, reference: Path, relative: float, absolute: float) -> None:
    for ours, theirs in zip(losses(run), losses(reference), strict=True):
        assert ours == pytest.approx(theirs, rel=relative, abs=absolute)


@pytest.mark.parametrize(
    ("strategy", "saver"),
    [
        pytest.param("fsdp2", "checkpoint_activations", marks=pytest.mark.system),
        pytest.param("zero1", "offload", marks=pytest.mark.system),
        *(pytest.param(name, "", marks=pytest.mark.torture) for name in ("fsdp2", *ZERO)),
        pytest.param("zero3", "checkpoint_activations", marks=pytest.mark.torture),
        *(pytest.param(name, "offload", marks=pytest.mark.torture) for name in ("zero2", "zero3")),
    ],
)
def test_a_sharded_run_is_the_plain_run_whatever_saves_memory(
    strategy: str, saver: str, shards: Path, plain, tmp_path: Path
) -> None:
    """In float64 beside one process; DeepSpeed's Adam of the CPU has only float32, and is compared with as many: on
    some processors another order of sums turns a ReLU, after which a tensor goes 13 % elsewhere."""
    saving = [f"parallel.{saver}=true"] if saver else []
    words = command(tmp_path / "run", shards, "moco", f"parallel={strategy}", *saving, ranks=2)
    if saver == "offload":
        finish(words)
        assert_one_algorithm(tmp_path / "run", plain("moco", ranks=2))
    else:
        finish(exactly(words))
        assert_exactly(tmp_path / "run", plain("moco", exact=True))


def tiers(strategies: list[str], system: str) -> list[Any]:
    """One strategy of each kind of test belongs to the system tests, the others to torture."""
    marks = {name: pytest.mark.system if name == system else pytest.mark.torture for name in strategies}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


def script(name: str, ranks: int) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*launch, str(Path(__file__).with_name(name))]


def held(strategy: str, ranks: int) -> dict[str, int]:
    """Bytes that a process keeps between steps: ``all``, of them the ``method``'s and the ``optimizer``'s states."""
    printed = finish([*script("held.py", ranks), strategy])
    sizes: dict[str, int] = json.loads(printed.split("HELD ")[1].splitlines()[0])
    return sizes


def promised(strategy: str, ranks: int) -> dict[str, float]:
    """The bytes by counting: AdamW over ResNet-18, its U-Net and projector; what follows them has no states."""
    trained, followers = counted()
    adam, method = 8 * trained, 4 * (trained + followers)
    # ZeRO 1 and 2 step a copy of their part of the parameters; 3 keeps its part of them twice, too, besides buffers for
    # its part of the gradients and for one bucket of them.
    copies, buckets = 4 * trained / ranks, 4 * trained * (ranks > 1)
    return {
        "ddp": {"method": method, "optimizer": adam, "all": method + adam + buckets},
        "fsdp2": {"method": method / ranks, "optimizer": adam / ranks, "all": (method + adam) / ranks},
        "zero1": {"method": method, "optimizer": adam / ranks, "all": method + adam / ranks + copies},
        "zero2": {"method": method, "optimizer": adam / ranks, "all": method + adam / ranks + copies},
        "zero3": {
            "method": method / ranks,
            "optimizer": adam / ranks,
            "all": (method + adam) / ranks + 2 * copies + 4 * BUCKET,
        },
    }[strategy]


def counted() -> tuple[int, int]:
    """Values of what held.py trains, and of all else that its method holds."""
    config: Any = compose("pretrain", ["experiment=small", "data.shards=none", "method.base.queue=64"])
    with torch.device("meta"):
        method = methods.build(config.method, config.model, ViewSpec(size=32), batch=32)
    method.enter_stage(["di", "re"])
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    return trained, sum(tensor.numel() for tensor in [*method.parameters(), *method.buffers()]) - trained


def documented(ranks: int) -> dict[str, float]:
    """MB of each strategy in the table of docs/evidence/scale.md."""
    page = (Path(__file__).parents[2] / "docs" / "evidence" / "scale.md").read_text().splitlines()
    head = next(i for i, line in enumerate(page) if line.startswith("| processes | `ddp` |"))
    names = [cell.strip() for cell in page[head].split("|")[2:-1]]
    row = next(line for line in page[head:] if line.startswith(f"| {ranks} |")).split("|")[2:-1]
    pairs = zip(names, row, strict=True)
    return {name.strip("`"): float(cell) for cells, cell in pairs for name in cells.split(", ")}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("ranks", "strategies"),
    [
        pytest.param(2, ("fsdp2", "zero2", "zero3"), marks=pytest.mark.system),
        *(pytest.param(ranks, ("ddp", "fsdp2", *ZERO), marks=pytest.mark.torture) for ranks in (1, 2, 4)),
    ],
)
def test_what_a_process_keeps_falls_as_the_strategy_promises(ranks: int, strategies: tuple[str, ...]) -> None:
    """Parameters, optimizer states and everything; the documented table is what is measured."""
    for strategy in strategies:
        sizes = held(strategy, ranks)
        for part, size in promised(strategy, ranks).items():
            assert sizes[part] == pytest.approx(size, rel=0.03), (strategy, part)
        assert sizes["all"] / 1e6 == pytest.approx(documented(ranks)[strategy], abs=1), strategy


@pytest.mark.torture
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", *ZERO])
def test_every_strategy_on_every_base(
    strategy: str, ranks: int, base: str, shards: Path, plain, tmp_path: Path
) -> None:
    """All trained weights together, all statistics together, and MoCo's and SimSiam's tensors one by one.

    Barlow Twins' are judged by the next test: under it a unit of a layer of few pixels comes so near its ReLU's kink
    that float32's rounding decides whether it lets a gradient pass, and a tensor jumps by a twentieth of its way within
    one step.
    """
    run, reference = tmp_path / "run", plain(base)
    finish(command(run, shards, base, f"parallel={strategy}", ranks=ranks))
    apart = distances(run, reference)
    statistics = {name for name in apart if name.rpartition(".")[2] in ("running_mean", "running_var")}
    for part in (statistics, {name for name in apart if name not in statistics and not name.endswith("queue")}):
        error, moved, _ = (math.hypot(*values) for values in zip(*(apart[name] for name in part), strict=True))
        assert error <= TOGETHER * moved
    assert_losses_agree(run, reference, LOSS, COSINE)
    if base != "barlow":
        assert_moved_alike(run, reference, MOVED, STILL)


@pytest.mark.parametrize(
    ("strategy", "ranks", "base"),
    [
        pytest.param(*case, marks=pytest.mark.system if case in SHOWN else pytest.mark.torture)
        for case in itertools.product(["ddp", "fsdp2", *ZERO], [1, 2, 4], BASES)
    ],
)
def test_every_strategy_on_every_base_in_float64(
    strategy: str, ranks: int, base: str, shards: Path, plain, tmp_path: Path
) -> None:
    """Without rounding to speak of nothing is left to differ: losses, and tensors by the way that each went."""
    run, reference = tmp_path / "run", plain(base, exact=True)
    finish(exactly(command(run, shards, base, f"parallel={strategy}", ranks=ranks)))
    assert weights(run)["method.head.weight"].dtype == torch.float64
    assert_exactly(run, reference)


@pytest.mark.parametrize("strategy", tiers(["ddp", "fsdp2", *ZERO], "zero2"))
def test_accumulation_and_clipping_are_the_same_everywhere(strategy: str, shards: Path, tmp_path: Path) -> None:
    """Restoration alone: MoCo's key shuffle acts within a micro-batch. The norm to clip to is below the usual one."""
    overrides = ["stages.di.epochs=0", "stages.dira.epochs=0", "stages.dir.terms=[re]", "stages.dir.epochs=10"]
    overrides += ["model.bn_groups=4", "optim.clip=0.05"]
    finish(command(tmp_path / "plain", shards, "moco", *KEPT, *overrides))
    spread = [f"parallel={strategy}", "parallel.accumulate=2"]
    finish(command(tmp_path / "run", shards, "moco", *overrides, *spread, ranks=2))
    assert_one_algorithm(tmp_path / "run", tmp_path / "plain")


@pytest.mark.parametrize("strategy", tiers(["ddp", "fsdp2", "zero1"], "fsdp2"))
def test_accumulation_sends_gradients_once(strategy: str, shards: Path, tmp_path: Path) -> None:
    """ZeRO-2 and 3 have no room for what a process does not keep: they send every micro-batch's."""
    overrides = [f"parallel={strategy}", "stages.di.epochs=0", "stages.dira.epochs=0", "stages.dir.terms=[re]"]
    overrides += ["stages.dir.epochs=10", "model.bn_groups=4", "steps=3"]
    called = []
    for accumulate in (1, 2):
        micro = f"parallel.accumulate={accumulate}"
        words = command(tmp_path / f"{accumulate}", shards, "moco", *overrides, micro, ranks=2)
        finish(by_script(words, "sent.py", str(tmp_path / "sent.json")))
        called.append(json.loads((tmp_path / "sent.json").read_text()))
    reductions = [{name: n for name, n in each.items() if "reduce" in name} for each in called]
    assert reductions[0] == reductions[1] and reductions[0]


def assert_exported_elsewhere(run: Path) -> None:
    """On a machine that has no GPU, DeepSpeed or transformers: bit for bit what the checkpoint holds."""
    lacking = "import sys; sys.modules |= dict.fromkeys(['deepspeed', 'transformers'])"
    export = "from dira_scale.export import main; raise SystemExit(main(sys.argv[1:]))"
    finish(["env", "CUDA_VISIBLE_DEVICES=", sys.executable, "-c", f"{lacking}; {export}", f"run={run}", "stage=latest"])
    saved = {name.removeprefix("method.base.encoder.model."): tensor for name, tensor in weights(run).items()}
    exported = load_file(run / "export" / "encoder.safetensors")
    assert len(exported) > 20 and all(
        torch.equal(tensor, saved[name].to(tensor.dtype)) for name, tensor in exported.items()
    )


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
    """In the middle of a stage, with Adam's moments, and on another number of processes; exported without any."""
    run = tmp_path / "run"
    finish(exactly(command(run, shards, "moco", f"parallel={before}", "steps=10", ranks=2)))
    assert_exported_elsewhere(run)
    finish(exactly(command(run, shards, "moco", f"parallel={after}", ranks=1)))
    assert_exactly(run, plain("moco", exact=True))


HEADER = 50_000  # bytes of a part beside its tensors'
CHAIN = [("fsdp2", 4, 2), ("fsdp2", 2, 2), ("zero3", 2, 0), ("ddp", 1, 0)]
LONG = [*CHAIN, ("zero1", 3, 0), ("fsdp2", 4, 4), ("fsdp2", 2, 1), ("zero2", 2, 0), ("fsdp2", 3, 3), ("ddp", 2, 0)]


@pytest.mark.parametrize(
    "chain", [pytest.param(CHAIN, marks=pytest.mark.system), pytest.param(LONG, marks=pytest.mark.torture)]
)
def test_a_checkpoint_goes_from_hand_to_hand_and_stays_the_same(
    chain: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    """Weights, momentum network, queue and Adam's moments, bit for bit. Of each file a process writes, and of each
    checkpoint it reads, besides its share to verify, what it holds."""
    source, first = "-", dict[str, Any]()
    for number, (strategy, ranks, shard) in enumerate(chain):
        target = tmp_path / str(number)
        target.mkdir()
        printed = finish([*script("converted.py", ranks), strategy, str(shard), source, str(target)])
        content, source = dict(checkpoint.load(target / "000000002")[0]), str(target)
        if number == 0:
            first = content
        assert content.keys() == first.keys()
        assert all(torch.equal(content[name].view(-1), first[name].view(-1)) for name in first)
        written = [path.stat().st_size for path in target.glob("0*/*.safetensors")]
        total = sum(tensor.nbytes for tensor in first.values())
        assert len(written) == ranks and max(written) - total / ranks < 2 * HEADER
        read = [sum(json.loads(line[5:])) for line in printed.splitlines() if line.startswith("READ")]
        if number == 1:  # half of all to verify, and half of all to hold
            assert total <= min(read) and max(read) <= 1.1 * total


@pytest.mark.torture
def test_pcrl_goes_on_under_another_strategy(shards: Path, plain, tmp_path: Path) -> None:
    """With the momentum network and the queue of a sharded run. Three runs in float64, two on two processes."""
    run, reference = tmp_path / "run", plain("pcrl", exact=True)
    for strategy, *stop in (("fsdp2", "steps=5"), ("ddp",)):
        finish(exactly(command(run, shards, "pcrl", f"parallel={strategy}", *stop, ranks=2)))
    assert status(run)["step"] == status(reference)["step"] == 10
    assert_exactly(run, reference)


# Maps of the momentum encoder go from process to process in bf16, and keys wait for a step's second micro-batch.
HALVED = ["precision=bf16", "model.bn_groups=4", "parallel.accumulate=2", "stages.dir.epochs=2"]
HALVED += ["health.every=1"]
ZERO3 = ["parallel=zero3", "stages.di.epochs=1", "stages.dir.epochs=2", "stages.dira.epochs=1"]  # 2, 4, 2 steps
MONITORS = {"top1", "chance", "queue_fresh", "gradient_norm", "re_ordinary", "re_hybrid"}
MONITORS |= {f"health/{name}" for name in ("gradient/di", "gradient/re", "std", "rank", "features_rank", "psnr")}


@pytest.mark.parametrize(
    ("base", "words", "stop", "steps", "monitors"),
    [
        pytest.param("moco", ZERO3, 5, 8, set(), marks=pytest.mark.system),
        pytest.param("pcrl", HALVED, 2, 4, MONITORS | {"re_momentum"}, marks=pytest.mark.system),
        pytest.param("released", HALVED, 2, 4, MONITORS | {"re_mixed", "re_mixed_hybrid"}, marks=pytest.mark.torture),
        pytest.param("c2l", HALVED, 2, 4, set(), marks=pytest.mark.torture),
    ],
    ids=["moco", "pcrl", "released", "c2l"],
)
def test_a_run_of_two_processes_goes_on_bit_for_bit(
    base: str, words: list[str], stop: int, steps: int, monitors: set[str], shards: Path, tmp_path: Path
) -> None:
    for name, stops in (("unbroken", [[]]), ("broken", [[f"steps={stop}"], []])):
        for last in stops:
            finish(command(tmp_path / name, shards, base, *words, *last, ranks=2))
    assert status(tmp_path / "broken")["step"] == steps
    for row in rows(tmp_path / "broken"):
        assert monitors <= row.keys() and (not monitors or row["health/gradient/re"] > 0)
    assert_equal_runs(tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.torture
@pytest.mark.parametrize("form", ["pcrl", "released"])
def test_pcrl_in_bf16_follows_fp32(form: str, shards: Path, tmp_path: Path) -> None:
    """Only roughly: keys are shuffled, and images mixed, within a micro-batch, so it is not the same sum."""
    finish(command(tmp_path / "run", shards, form, *HALVED, ranks=2))
    finish(command(tmp_path / "plain", shards, form, "model.bn_groups=4", "stages.dir.epochs=2"))
    for ours, theirs in zip(losses(tmp_path / "run"), losses(tmp_path / "plain"), strict=True):
        assert ours == pytest.approx(theirs, rel=0.1)


@pytest.mark.parametrize("strategy", tiers(["ddp", "fsdp2", "zero2", "zero3"], "zero2"))
def test_fp16_scales_its_loss_and_follows_fp32(strategy: str, shards: Path, plain, tmp_path: Path) -> None:
    """2^16 overflows at first: steps are left out and the factor halved, by all processes alike; it is kept."""
    run = tmp_path / "run"
    finish(command(run, shards, "moco", f"parallel={strategy}", "precision=fp16", "steps=10", ranks=2))
    _, progress = checkpoint.load(checkpoint.latest(run))
    assert 1.0 <= progress["loss_scale"] <= 2.0**16
    finish(command(run, shards, "moco", f"parallel={strategy}", "precision=fp16", ranks=2))
    for ours, theirs in zip(losses(run), losses(plain("moco", ranks=2)), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.1)


# Graphs are made and differentiated, and said, but run by torch's own kernels: machine code of each takes minutes.
TRACED = """
import functools, torch
from dira_scale.train.engine.parallel import recompute
from torch._dynamo import lookup_backend

recompute.GROUP = 600_000

def traced(*graph, **options):
    print("a graph", flush=True)
    return lookup_backend("aot_eager")(*graph, **options)

torch.compile = functools.partial(torch.compile, backend=traced)
"""


@pytest.mark.system
def test_a_compiled_restoration_is_the_plain_one(shards: Path, tmp_path: Path) -> None:
    """Encoder and decoder, forward and backward, under a strategy that gathers blocks."""
    alone = ["stages.di.epochs=0", "stages.dira.epochs=0", "stages.dir.terms=[re]", "stages.dir.epochs=1.5"]
    alone += ["data.val_split=null", "parallel=fsdp2"]
    for name, compiled in (("run", "true"), ("plain", "false")):
        words = command(tmp_path / name, shards, "moco", *KEPT, *alone, f"parallel.compile={compiled}")
        assert (finish(words, before=TRACED).count("a graph\n") > 0) is (name == "run")
    assert_one_algorithm(tmp_path / "run", tmp_path / "plain", steps=3)


@pytest.mark.parametrize("strategy", [pytest.param("zero1", marks=pytest.mark.torture), "zero3"])
def test_lars_is_refused_where_layers_are_cut(strategy: str, shards: Path, tmp_path: Path) -> None:
    overrides = [f"parallel={strategy}", "optim=lars_barlow", "optim.warmup_epochs=0"]
    printed = finish(pretrain(tmp_path / "run", shards, *overrides), code=2)
    assert not (tmp_path / "run").exists()
    assert "Lars may need complete layers" in printed and "parallel=fsdp2" in printed


@pytest.mark.torture
@pytest.mark.parametrize("strategy", ["fsdp2", "zero1", "zero3"])
def test_groups_of_parameters_and_three_processes(strategy: str, shards: Path, tmp_path: Path) -> None:
    """Several groups, SGD's momentum, parameters that three do not divide, a validation in the middle; then resumed.

    Biases and norms go ten times as fast: a strategy that forgot their group would be found out.
    """
    base = [key for key in STEPS if not key.startswith(("data.batch", "+optim.optimizer"))] + BASES["moco"]
    base += ["data.batch=12", "method.base.queue=60", "method.base.momentum=0.9", "optim=sgd_moco", "validate.every=1"]
    base += ["optim.optimizer.lr=5e-5", "optim.discriminator.lr=2e-5"]
    # Twenty steps, three an epoch, of a small rate: in 29 steps of 3e-4 rounding grew from 1e-7 to 1e-2 of a loss.
    base += ["stages.di.epochs=2.34", "stages.dir.epochs=2.34", "stages.dira.epochs=2"]
    several = [*base, "+optim.one_dimensional.lr=5e-4"]
    forgotten, plain, run = tmp_path / "forgotten", tmp_path / "plain", tmp_path / "run"
    finish(pretrain(forgotten, shards, *base))
    finish(pretrain(plain, shards, *several, *KEPT))
    finish(pretrain(run, shards, *several, f"parallel={strategy}", "steps=10", ranks=3))
    finish(pretrain(run, shards, *several, f"parallel={strategy}", ranks=3))
    assert_one_algorithm(run, plain, status(plain)["step"])
    with pytest.raises(AssertionError, match=r"(weight|bias): .* of"):
        assert_moved_alike(forgotten, plain, MOVED, STILL)


@pytest.mark.system
def test_pictures_are_of_their_own_stage(shards: Path, tmp_path: Path) -> None:
    """The last stage does not restore: what is drawn at the end of the one before is whole all the same."""
    short = ["stages.di.epochs=0", "stages.dir.epochs=0.5", "stages.dira.epochs=0.5", "stages.dira.terms=[di]"]
    finish(command(tmp_path / "run", shards, "moco", "parallel=fsdp2", *short, ranks=2))
    assert (tmp_path / "run" / "pictures" / "dir.png").stat().st_size > 0
