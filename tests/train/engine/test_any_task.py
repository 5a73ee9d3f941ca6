"""The engine on a task that has nothing of pretraining: stages, validation, resume, replicas and shards."""

import json
import sys
from pathlib import Path

import pytest
import torch
from harness import finish, losses, require_strategy, rows, status, weights
from train.engine.regression import BATCH, EPOCH, FEATURES, STAGES, TRUE, samples, train

from dira_scale.train.distributed import processes
from dira_scale.train.engine import optim
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.folder import recorded_in

STEPS = sum(stage.steps for stage in STAGES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on one process, without a break."""
    run, threads = tmp_path_factory.mktemp("regression") / "whole", torch.get_num_threads()
    try:
        assert train(str(run), "ddp", STEPS) == 0
    finally:
        torch.set_num_threads(threads)
    return run


def by_hand() -> tuple[dict[str, torch.Tensor], list[float]]:
    """The steps of gradient descent with momentum, written plainly; weights and the loss of each step."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(FEATURES, 1)
    weight, bias = linear.weight.detach()[0], linear.bias.detach()
    done, lost = 0, list[float]()
    for stage in STAGES:
        moving_weight, moving_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for step in range(stage.steps):
            batch = samples((done + step) % EPOCH, BATCH)
            rate = optim.learning_rate("cosine", 0.1, step, stage.steps, EPOCH)
            error = batch.x @ weight + bias - batch.y
            lost.append(float(error.square().mean()))
            moving_weight = 0.5 * moving_weight + 2 * (error[:, None] * batch.x).mean(0)
            weight = weight - rate * moving_weight
            if "bias" in stage.terms:
                moving_bias = 0.5 * moving_bias + 2 * error.mean()
                bias = bias - rate * moving_bias
        done += stage.steps
    return {"line.weight": weight[None], "line.bias": bias}, lost


def test_both_stages_take_the_steps_of_gradient_descent(whole: Path) -> None:
    actual, (weighed, lost) = weights(whole), by_hand()
    for name, expected in weighed.items():
        torch.testing.assert_close(actual[name], expected, rtol=1e-5, atol=1e-6)
    means = torch.tensor(lost).view(-1, 10).mean(1).tolist()  # a row has those of its ten steps: of batches in order
    assert [row["loss"] for row in rows(whole)] == pytest.approx(means, rel=1e-4, abs=1e-8)
    torch.testing.assert_close(actual["line.weight"][0], TRUE[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(actual["scale.weight"], torch.tensor([[3.0]]), rtol=1e-3, atol=1e-3)


def test_rows_pictures_warnings_and_the_best_checkpoint(whole: Path) -> None:
    assert status(whole)["state"] == "done"
    trained, held_out = rows(whole), rows(whole, "val")
    assert [row["stage"] for row in trained] == ["weights"] * 3 + ["all"] * 6
    assert all({"loss", "loss/square", "lr", "gradient_norm", "looked"} <= row.keys() for row in trained)
    assert [row["warnings"] for row in trained if "warnings" in row] == [["all is well in all"]]
    actual = [row["loss"] for row in held_out]
    assert actual[-1] < 1e-3 * actual[0] and len(actual) == 4 + 8  # each epoch, and the end of each stage
    best = checkpoint.load(checkpoint.best(whole, "all"))[1]
    assert best["best"]["all"] == min(row["loss"] for row in held_out if row["stage"] == "all")
    assert {path.name for path in whole.glob("*.txt")} == {"weights.txt", "all.txt", "log.txt"}


@pytest.mark.parametrize("steps", [30, 41])
def test_a_run_that_stops_at_the_end_of_a_stage_or_within_one_resumes_bit_for_bit(
    whole: Path, tmp_path: Path, steps: int
) -> None:
    assert train(str(tmp_path / "run"), "ddp", steps) == 0
    reported = f"stopped at {steps} of {STEPS} (steps={steps}): nothing is evaluated before the last step"
    assert status(tmp_path / "run")["reason"].startswith(reported)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:  # as a killed run leaves behind its checkpoint
        file.write(f'{{"step": {steps + 1}, "split": "val", "loss": 0.1}}\n')
    assert train(str(tmp_path / "run"), "ddp", STEPS) == 0
    assert status(tmp_path / "run")["reason"] == ""
    ended = status(tmp_path / "run")
    assert train(str(tmp_path / "run"), "ddp", STEPS) == 0  # nothing is left to do
    assert status(tmp_path / "run") == ended | {"lease": ended["lease"] + 1} and ended["stage"] == "all"
    assert train(str(tmp_path / "run"), "ddp", 7) == 0 and status(tmp_path / "run")["step"] == STEPS  # nor with fewer
    ours, theirs = weights(tmp_path / "run"), weights(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(tmp_path / "run", "val") == losses(whole, "val")


def test_a_run_keeps_the_number_of_threads_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``parallel.threads=auto`` on two cores, one of which is busy at the start; then on both; then one is typed."""
    run = str(tmp_path / "run")
    busy = "other programs keep 1 of 2 cores busy"
    seen = []
    monkeypatch.setattr(processes, "default_threads", lambda: 2)
    for idle, threads, steps in ((1, "auto", 5), (2, "auto", 10), (1, 2, 15), (1, "auto", 20)):
        monkeypatch.setattr(processes, "idle_cores", lambda _, idle=idle: idle)
        (tmp_path / "run" / "log.txt").unlink(missing_ok=True)
        assert train(run, "ddp", steps, threads=threads) == 0
        log = (tmp_path / "run" / "log.txt").read_text()
        reported = next((line.partition(f"{busy}")[2] for line in log.splitlines() if busy in line), "")
        seen.append((torch.get_num_threads(), reported))
    waits = ", and 2 threads wait for each other: parallel.threads=1 is faster until they end"
    fewer = ": computing on 1 thread (parallel.threads=2 uses all cores)"
    assert seen == [(1, fewer), (1, ""), (2, waits), (2, waits)]


@pytest.mark.parametrize(
    ("strategy", "accumulate", "stops"),
    [("ddp", 2, [STEPS]), pytest.param("zero2", 1, [41, STEPS], marks=pytest.mark.system), ("fsdp2", 2, [41, STEPS])],
)
def test_two_processes_learn_what_one_does(
    whole: Path, tmp_path: Path, strategy: str, accumulate: int, stops: list[int]
) -> None:
    """Shards stop once; how replicas go on, one process shows."""
    require_strategy(strategy)
    script, run = str(Path(__file__).with_name("regression.py")), tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    for steps in stops:
        shard = "1" if strategy == "fsdp2" and steps == STEPS else "auto"  # first parts, then replicas
        printed = finish([*launcher, str(run), strategy, str(steps), str(accumulate), shard])
        assert "find_unused_parameters" not in printed  # DDP's warning, which a user cannot act on
    if strategy == "fsdp2":
        assert recorded_in(run, None)["mesh_used"] == [2, 1]
        told = [line.partition("fsdp2 shards over ")[2] for line in (run / "log.txt").read_text().splitlines()]
        assert [line for line in told if line] == [f"{n} of 2 processes (parallel.shard)" for n in (2, 1)]
    ours, theirs = weights(run), weights(whole)
    for name in ("line.weight", "line.bias", "scale.weight"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    for stage, name in ((stage, f"{stage.name}.txt") for stage in STAGES):  # written of the gathered module
        actual, expected = (torch.tensor(json.loads((folder / name).read_text())) for folder in (run, whole))
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
        assert stage is STAGES[0] or torch.allclose(actual, ours["line.weight"])
