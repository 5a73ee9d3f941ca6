"""Checks before a sweep starts: configurations, machines, a rehearsal."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import TINY

from dira_scale import plan
from dira_scale.base.errors import UserError
from dira_scale.fleet.forecast import estimate
from dira_scale.sweep import check
from dira_scale.sweep.config import Cluster, Phase, Sweep, SweepConfig
from dira_scale.sweep.records import Launch, Run

ONE_STAGE = [*TINY, "model.encoder=test_resnet", "stages.dir.epochs=0", "stages.dira.epochs=0", "data.batch=8"]


def run(
    name: str, *words: str, command: str = "pretrain", needs: tuple[str, ...] = (), launch: Launch | None = None
) -> Run:
    return Run("train", name, command, [*words, f"run=/s/train/{name}/output"], "", [*needs], {}, launch or Launch())


def config(**profile: object) -> SweepConfig:
    cluster = Cluster(executor="local", cpus_per_task=1, tries=1, **profile)  # type: ignore[arg-type]
    return SweepConfig("x", False, False, Sweep("s", {"train": Phase(command="pretrain")}), cluster)


def test_the_first_wrong_run_is_named_with_its_phase_and_key() -> None:
    right = [run(f"r{n}", "data.shards=d", f"data.batch={n}") for n in (8, 16)]
    wrong = [run("w1", "data.shards=d", "data.batch=0"), run("w2", "data.shards=d", "data.bach=8")]
    message = r"^phase train, run w1: data\.batch=0: expected a whole number of at least 1; nothing was started$"
    with pytest.raises(UserError, match=message):
        check.check_runs([*right, *wrong])
    with pytest.raises(UserError, match=r"run w2: unknown key data\.bach; did you mean 'data\.batch'"):
        check.check_runs([wrong[1], *right])
    check.check_runs(right)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.optimizer.lr=abc"], r"run x: optim\.optimizer\.lr=abc: expected a number"),
        (["model.encoder=resnet51"], "resnet51"),
        (["optim.warmup_epochs=900"], r"optim\.warmup_epochs=900 is not shorter than"),
        (["data.batch=9"], r"data\.batch=9 is not divisible by 2 ranks"),
    ],
)
def test_what_training_would_refuse_is_refused_before(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=rf"phase train, .*{message}.*; nothing was started"):
        check.check_runs([run("x", "data.shards=d", "data.batch=8", *words, launch=Launch(processes=2))])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe=phantom_cxr", "recipe.size=16"], "size >= 64, not patients=400, size=16"),
        (["recipe=phantom_cxr", "slice=5/4"], "slice=5/4"),
        (["recipe=folder", "recipe.images=/nowhere", "recipe.name=a", "recipe.splits={train: 2}"], "recipe.splits="),
    ],
)
def test_what_sharding_would_refuse_is_refused_before(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=rf"phase data, run x: .*{message}.*; nothing was started"):
        check.check_runs([Run("data", "x", "shard", [*words, "out=/s/data/x/output"], "")])


def test_data_that_is_not_there_is_no_reason_to_refuse() -> None:
    check.check_runs([
        Run("data", "x", "shard", ["recipe=folder", "recipe.images=/nowhere", "recipe.name=a", "out=/s/x"], ""),
        run("x", "data.shards=/nowhere", "model.weights=/nowhere/w.safetensors"),
    ])  # fmt: skip


def test_runs_that_differ_only_in_seed_and_place_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []
    monkeypatch.setattr(check, "_check_words", lambda run, _: composed.append(run.name))
    needs = [f"data/{n}-0000000{n}" for n in range(3)]
    check.check_runs([
        run(f"{n}{seed}", f"data.shards=/s/{need}/output", f"seed={seed}", needs=(need,))
        for n, need in enumerate(needs) for seed in range(4)
    ])  # fmt: skip
    assert composed == ["00"]


TRAINED = ("data.shards=d", "method=moco", "stages.dir.epochs=0", "stages.dira.epochs=0", "model.encoder=test_resnet")


def later(command: str, *words: str, reads: str = "/s/train/t/output", name: str = "x") -> Run:
    return Run("later", name, command, [*words, f"run={reads}", "out=/s/later/x/output"], "", ["train/t"])


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("probe", ["stage=dirr"], "stage=dirr: train/t has di, best, latest; did you mean 'di'"),
        ("probe", ["fractions=[1.5]"], r"fractions\[0\]=1\.5: expected a number above 0 and at most 1"),
        ("probe", ["model.encoder=resnet18"], "model.encoder=resnet18: the run has test_resnet"),
        ("predict", [], "run=train/t is of pretrain: fine-tune it first"),
        ("words", [], "run=train/t: test_resnet is an encoder of images; name one of volumes"),
        ("export", ["formats=[timm,onyx]"], "formats.*=onyx.*did you mean 'onnx'"),
        ("export", ["formats=smp"], "formats: smp needs a U-Net, and no stage up to this one trained a decoder"),
    ],
)
def test_what_the_commands_would_refuse_of_a_run_is_refused_before_it_trains(
    command: str, words: list[str], message: str
) -> None:
    trained, data = run("t", *TRAINED), [] if command == "export" else ["data.shards=d"]
    with pytest.raises(UserError, match=rf"phase later, run x: .*{message}.*; nothing was started"):
        check.check_runs([later(command, *data, *words)], [trained])


def test_a_probe_is_checked_for_each_kind_of_run_that_it_reads() -> None:
    trained = [run("a", *TRAINED), run("b", *TRAINED, "seed=1"), run("t", *TRAINED[:3], *TRAINED[4:])]
    probes = [
        later("probe", "data.shards=d", "stage=dira", reads=f"/s/train/{item}/output", name=item) for item in "tab"
    ]
    check.check_runs(probes[:1], trained)
    check.check_runs([later("probe", "data.shards=d", "stage=any", reads="/nowhere")])  # elsewhere, not there yet
    with pytest.raises(UserError, match="stage=dira: train/a has di, best, latest"):
        check.check_runs(probes, trained)


def test_every_batch_is_checked_of_networks_that_are_built_once() -> None:
    words = ["method=moco", "stages.dir.epochs=0", "stages.dira.epochs=0", "method.queue=96"]
    words += ["model.encoder=test_resnet", "data.size=96", "model.bn_groups=4", "data.shards=d"]
    check.check_runs([run("right", *words, "data.batch=8")])
    for batch, key in (
        (20, r"method\.queue=96: expected a multiple of the batch of 20"),
        (6, r"model\.bn_groups=4: .* of 6 "),
    ):
        with pytest.raises(UserError, match=key):
            check.check_runs([run("right", *words, "data.batch=8"), run("wrong", *words, f"data.batch={batch}")])


def test_machines_that_cannot_carry_out_a_run() -> None:
    with pytest.raises(UserError, match=r"sweep\.phases\.train\.nodes=2: executor local has one machine"):
        check.check_machines(config(), [run("x", launch=Launch(nodes=2))])
    with pytest.raises(UserError, match="probe runs as one process"):
        check.check_machines(config(), [run("x", command="probe", launch=Launch(processes=2))])


@pytest.mark.system
def test_the_rehearsal_is_plans_row(tmp_path: Path) -> None:
    """On the profile's GPU, for as many steps as the run has; hours are unknown while data is to be made yet."""
    profile = {"memory": 1.0, "tflops": 0.001, "price": 3.0}
    machine = [f"plan.{key}={value}" for key, value in profile.items()]
    words = [word for word in ONE_STAGE if not word.startswith("run=")]
    assert plan.main([*words, *machine, "plan.gpus=2", "plan.images=75312", f"plan.json={tmp_path}/plan.json"]) == 0
    rows = json.loads((tmp_path / "plan.json").read_text())["rows"]
    (row,) = (row for row in rows if row["strategy"] == "ddp" and not row["checkpointing"])
    planned = round(0.5 * (75312 // 8))
    item = run("a", *ONE_STAGE, f"steps={planned // 10}", launch=Launch(processes=2))
    (line,) = check.rehearse(config(plan=profile), [item, item, item])
    hours, price = (row[key] * (planned // 10) / planned for key in ("hours", "price"))
    assert line == (
        f"train: {row['memory']['peak'] / 1e9:.2f} GB of GPU memory in each process; {planned // 10:,} steps of the "
        f"first run: {hours:,.1f} h, cost {price:,.0f}; 3 runs: {3 * hours:,.1f} h, {3 * price:,.0f}"
    )
    later = run("a", *ONE_STAGE, "data.shards=/s/data/x/output", needs=("data/x",), launch=Launch(processes=2))
    (line,) = check.rehearse(config(plan=profile), [later])
    step = f"{1000 * row['step']:.0f}" if row["step"] >= 0.01 else f"{1000 * row['step']:.2g}"
    assert line.endswith(f", {step} ms a step; hours and cost are unknown until its data exists")
    assert check.rehearse(config(), [item]) == ["train: no estimate: cluster.plan describes no GPU"]


@pytest.mark.parametrize(
    ("step", "fits", "printed"),
    [
        (0.0042, True, "train: 1.50 GB of GPU memory in each process, 4.2 ms a step; "),
        (0.0126, False, "train: 1.50 GB of GPU memory in each process, MORE THAN THERE IS, 13 ms a step; "),
    ],
)
def test_a_step_s_time_is_printed_in_milliseconds(
    step: float, fits: bool, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = SimpleNamespace(memory=SimpleNamespace(peak=1.5e9), fits=fits, step=step)
    monkeypatch.setattr(estimate, "planned", lambda *_: SimpleNamespace(row=row))
    later = run("a", "data.shards=/s/data/x/output", needs=("data/x",))
    (line,) = check.rehearse(config(plan={"memory": 1.0}), [later])
    assert line == printed + "hours and cost are unknown until its data exists"
