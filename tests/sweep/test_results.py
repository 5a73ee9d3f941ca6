"""The results of made-up runs: every figure with what varied, and means that numpy confirms."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from sweep.made_up_sweep import SHARDS, begin, made_up_sweep, mark, train

from dira_scale.base.errors import UserError
from dira_scale.base.storage.owned import MARK
from dira_scale.dataset.metrics.figure import Figure
from dira_scale.judge.pages.probe_figures import FORMAT, Features, Fit, as_json, figures
from dira_scale.sweep.config import Phase, Sweep
from dira_scale.sweep.expand import expand
from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.results import write_results
from dira_scale.sweep.start import record

LOSSES = {0.1: [0.5, 0.75, 0.9], 0.01: [0.1]}  # of the validation, by learning rate and seed


@pytest.fixture
def finished(tmp_path: Path) -> SweepFolder:
    """Sharding, four runs that train, a probe of the first; one more run that is not done."""
    folder = made_up_sweep(tmp_path / "sweep", 5)
    begin(folder, SHARDS, "5_0", exit_code=0)
    output = folder.output(folder.run(SHARDS))
    output.mkdir(parents=True)
    (output / "dataset.json").write_text(
        json.dumps({"name": "x", "counts": {"train": 40}, "sizes": [1, 2], "ok": True})
    )
    ids = {f"pretrain/lr{lr}-seed{seed}": loss for lr, of in LOSSES.items() for seed, loss in enumerate(of)}
    for run_id, loss in ids.items():
        begin(folder, run_id, "6_0", exit_code=0, step=20)
        train(folder, run_id, step=20)
        row = {"step": 20, "stage": "dira", "split": "val", "loss": loss, "epoch": 2.0, "lease": 1, "warnings": ["w"]}
        path = folder.output(folder.run(run_id)) / "metrics.jsonl"
        path.write_text(path.read_text().rpartition("\n")[0] + "\n" + json.dumps(row | {"time/step": 3.0}) + "\n")
    varied = {"pretrain.optim.lr": 0.1, "pretrain.seed": 0, "probe.method": "moco"}
    probe = Run("probe", "moco", "probe", ["seed=0"], "probe/moco/output", ["pretrain/lr0.1-seed0"], varied)
    folder.add(probe)
    begin(folder, probe.id, "7_0", exit_code=0)
    folder.output(probe).mkdir(parents=True)
    nan = float("nan")
    values = {("AUROC", "mean"): 0.715, ("AUROC", "Nodule"): nan, ("R2", "age"): -0.025, ("R2", "size"): nan}
    values[("MAE", "age")] = 7.5
    content: dict[str, Any] = {"format": FORMAT, "config": {"seed": 0}, "compared": [], "figures": []}
    for encoder, kind, found in (
        ("lr0.1", "run", values), *((name, "random", {("AUROC", "mean"): 0.5}) for name in ("r1", "r2"))
    ):  # fmt: skip
        source = Features(encoder, kind, "last", 8, [{}])
        fit = Fit({key: Figure(*key, value, 9, 0, 9, share=key[0] != "MAE") for key, value in found.items()})
        content["compared"].append(vars(source))
        content["figures"] += as_json(figures(source, [{("linear", 0.1): [fit]}], {0.1: 16.0}))
    (folder.output(probe) / "probe.json").write_text(json.dumps(content))
    return SweepFolder(folder.path)


def squeezed(page: str) -> str:
    """Without what lets a table's columns stand below each other."""
    return re.sub(" +", " ", page)


def test_every_figure_of_every_finished_run_is_there_once(finished: SweepFolder) -> None:
    written = write_results(finished.path)
    rows: list[dict[str, Any]] = pq.read_table(finished.path / "results.parquet").to_pylist()
    assert f"\n{len(rows)} figures of 6 of 7 runs, in {finished.path}/results.parquet.\n" in written.text
    assert not written.left_out
    of = {(row["run"], row["metric"]): row for row in rows}
    assert len(of) == len(rows)
    names = {metric for run, metric in of if run == "pretrain/lr0.1-seed0"}
    assert names == {f"di/{split}/{key}" for split in ("train", "val") for key in ("loss", "images_per_second")} | {
        "dira/val/loss"
    }
    row = of["pretrain/lr0.1-seed0", "dira/val/loss"]
    assert (row["value"], row["pretrain.optim.lr"], row["pretrain.seed"], row["probe.method"]) == (0.5, 0.1, 0, None)
    assert json.loads(row["config"]) == {"optim": {"lr": 0.1}, "seed": 0}
    assert row["command_line"] == "python -m dira_scale.pretrain optim.lr=0.1 seed=0"
    assert of["pretrain/lr0.1-seed0", "di/train/loss"]["value"] == 10 / 20  # the last row
    assert {metric: row["value"] for (run, metric), row in of.items() if run == SHARDS} == {
        "dataset/counts/train": 40, "dataset/sizes/0": 1, "dataset/sizes/1": 2,
    }  # fmt: skip
    assert {metric: row["value"] for (run, metric), row in of.items() if run == "probe/moco"} == {
        "AUROC/run/last/linear/0.1/mean": 71.5,
        "AUROC/random:r1/last/linear/0.1/mean": 50.0,
        "AUROC/random:r2/last/linear/0.1/mean": 50.0,
        "R2/run/last/linear/0.1/age": -2.5,
        "MAE/run/last/linear/0.1/age": 7.5,
    }


def test_means_are_over_seeds(finished: SweepFolder) -> None:
    page = squeezed(write_results(finished.path).text)
    for lr, values in LOSSES.items():
        spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
        assert f"| {lr} | dira/val/loss | {np.mean(values):.4g}{spread} | {len(values)} |" in page
    assert "| 0.1 | moco | AUROC/run/last/linear/0.1/mean | 71.5 | 1 |" in page
    assert "| 0.1 | moco | R2/run/last/linear/0.1/age | -2.5 | 1 |" in page
    assert "Nodule" not in page and "MAE" not in page and "images_per_second" not in page and "## shards" not in page


def test_runs_of_earlier_settings_are_left_out(finished: SweepFolder) -> None:
    kept = ["pretrain/lr0.1-seed0", "pretrain/lr0.1-seed1"]
    finished.set_current(kept)
    (left_out,) = write_results(finished.path).left_out
    assert left_out.startswith("5 runs of earlier settings are left out")
    page = squeezed((finished.path / "results.md").read_text())
    spread = np.std(LOSSES[0.1][:2], ddof=1)
    assert left_out in page and f"| 0.1 | dira/val/loss | {np.mean(LOSSES[0.1][:2]):.4g} ± {spread:.2g} | 2 |" in page
    rows = pq.read_table(finished.path / "results.parquet").to_pylist()
    assert {row["run"] for row in rows} == {*kept} and "probe.method" not in rows[0]


def test_what_a_sweep_records_are_its_present_runs_and_what_varies_between_them(tmp_path: Path) -> None:
    def submit(*lrs: float, seed: int = 0) -> list[str]:
        phase = Phase("pretrain", set={"data.shards": "d", "seed": seed}, grid={"optim.lr": [*lrs]} if lrs else None)
        if not lrs:
            phase.set = {"data.shards": "d", "seed": seed, "optim.lr": 0.1}
        runs = expand(Sweep("one", {"train": phase}), tmp_path, {})
        start = [run for run in runs if not (tmp_path / run.id).exists()]
        record(SweepFolder(tmp_path), OmegaConf.create(), runs, start)
        return [run.id for run in runs]

    (alone,) = submit()
    first, second = submit(0.1, 0.01)
    mark(tmp_path)
    folder = SweepFolder(tmp_path)
    assert first == alone and folder.current == [first, second]
    assert [folder.runs[item].varied for item in folder.current] == [{"train.optim.lr": 0.1}, {"train.optim.lr": 0.01}]
    other = submit(0.1, seed=1)
    mark(tmp_path)
    folder = SweepFolder(tmp_path)
    assert folder.current == other and {*folder.runs} == {first, second, *other}
    submit()
    assert SweepFolder(tmp_path).current == [alone] and SweepFolder(tmp_path).runs[alone].varied == {}
    (tmp_path / "current.json").unlink()
    assert SweepFolder(tmp_path).current == sorted([first, second, *other])


def test_values_of_several_kinds_are_written_as_text_and_nothing_as_empty_tables(tmp_path: Path) -> None:
    folder = made_up_sweep(tmp_path / "sweep", 2)
    assert "0 figures of 0 of 3 runs" in write_results(folder.path).text
    assert pq.read_table(folder.path / "results.parquet").num_rows == 0
    mark(tmp_path / "other")
    folder = SweepFolder(tmp_path / "other")
    for name, value in (("a", "auto"), ("b", 3), ("c", [1, 2])):
        folder.add(run := Run("shard", name, "shard", [], f"shard/{name}/output", [], {"shard.size": value}))
        begin(folder, run.id, "1", exit_code=0)
        folder.output(run).mkdir(parents=True)
        (folder.output(run) / "step.json").write_text(json.dumps({"seconds": 1.5}))
    write_results(folder.path)
    rows = pq.read_table(folder.path / "results.parquet").to_pylist()
    assert [(row["shard.size"], row["value"]) for row in rows] == [("auto", 1.5), ("3", 1.5), ("[1, 2]", 1.5)]


NO_FIGURE = '{"format": 2, "compared": [], "config": 0, "figures": [{"metric": "AUROC"}]}'


@pytest.mark.parametrize("text", ["{", "1e400", '{"command": "probe"}', NO_FIGURE])
def test_a_damaged_result_is_named_and_the_others_stay(finished: SweepFolder, text: str) -> None:
    write_results(finished.path)
    whole = pq.read_table(finished.path / "results.parquet").num_rows
    (finished.output(finished.run("probe/moco")) / "probe.json").write_text(text)
    (finished.output(finished.run("pretrain/lr0.1-seed0")) / "config.yaml").unlink()
    lines = write_results(finished.path).left_out
    assert [line.partition(": ")[0] for line in lines] == [
        "pretrain/lr0.1-seed0 cannot be read", "probe/moco cannot be read",
    ]  # fmt: skip
    assert all(line in (finished.path / "results.md").read_text() and "\n" not in line for line in lines)
    assert 0 < pq.read_table(finished.path / "results.parquet").num_rows < whole


def test_a_folder_without_the_mark_keeps_its_files(finished: SweepFolder) -> None:
    (finished.path / MARK).unlink()
    (finished.path / "results.md").write_text("mine")
    with pytest.raises(UserError, match="holds files that this command has not written"):
        write_results(finished.path)
    assert (finished.path / "results.md").read_text() == "mine"
