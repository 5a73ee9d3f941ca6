"""SLURM gets the right options, and its refusals are reported, with stand-ins; tests/system has a real one."""

import pickle
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep.made_up_sweep import Tools, options

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.sweep.config import Cluster, Phase, Sweep, SweepConfig
from dira_scale.sweep.records import Launch, Run, SweepFolder
from dira_scale.sweep.slurm import dependency, parameters, script, submit

PROFILE: dict[str, Any] = {"executor": "slurm", "hours": 2.0, "signal_delay": 60, "cpus_per_task": 4, "tries": 5}


def config(phase: Phase | None = None, **profile: Any) -> SweepConfig:
    sweep = Sweep(name="s", phases={"a": phase or Phase(command="pretrain"), "b": Phase(command="probe")})
    return SweepConfig(folder="x", dry_run=False, detach=False, sweep=sweep, cluster=Cluster(**PROFILE | profile))


def run(name: str, phase: str = "a", needs: tuple[str, ...] = (), command: str = "pretrain", **launch: Any) -> Run:
    return Run(phase, name, command, [f"run={name}"], f"{phase}/{name}/output", list(needs), launch=Launch(**launch))


def test_the_profile_is_what_sbatch_is_given(tmp_path: Path) -> None:
    given = {
        "account": "lab", "partition": "gpu", "qos": "high", "constraint": "a100", "memory": 64.0, "parallel": 8,
        "setup": ["module load cuda"], "sbatch": {"reservation": "week"}, "python": "apptainer exec x.sif python",
    }  # fmt: skip
    folder, runs = SweepFolder(tmp_path), [run(str(n), nodes=2, processes=4) for n in range(20)]
    text = script(folder, config(**given), runs)
    assert options(text) == {
        "account": "lab", "partition": "gpu", "qos": "high", "constraint": "a100", "mem": "64000M", "array": "0-19%8",
        "time": "120", "signal": "USR2@60", "nodes": "2", "ntasks-per-node": "4", "cpus-per-task": "4",
        "gpus-per-node": "4", "reservation": "week", "job-name": "s/a", "open-mode": "append", "wckey": "submitit",
        "output": f"{tmp_path}/jobs/%A_%a_0_log.out",
    }  # fmt: skip
    assert text.index("module load cuda") < text.index("apptainer exec x.sif python -u -m submitit.core._submit")


def test_the_pages_profile_without_gpus_asks_for_none() -> None:
    root = Path(__file__).parents[2]
    text, copied = (root / name for name in ("docs/how-to/slurm.md", "slurm/cluster/slurm.yaml"))
    (block,) = re.findall(r"`slurm/cluster/slurm.yaml`:\n\n```yaml\n(.*?)```", text.read_text(), re.DOTALL)
    profile = yaml.safe_load(copied.read_text()) | yaml.safe_load(block)
    assert profile.keys() == {each.name for each in fields(Cluster)}
    given = parameters("s", run("x", processes=4), Cluster(**profile))
    assert "gpus_per_node" not in given and (given["ntasks_per_node"], given["cpus_per_task"]) == (4, 16)
    assert "gpus_per_node" not in parameters("s", run("x", command="shard"), Cluster(**PROFILE))


def test_a_phase_has_its_own_values() -> None:
    item = config(Phase(command="pretrain", cluster={"hours": 7, "partition": "long"}))
    assert (item.profile("a").hours, item.profile("a-slices").partition, item.profile("b").hours) == (7.0, "long", 2.0)
    for wrong, message in (
        ({"hurs": 1}, r"phases\.a\.cluster\.hurs: no phase may set that; did you mean 'hours'"),
        ({"hours": "x"}, r"phases\.a\.cluster\.hours=x: expected a number above 0, or null"),
        ({"hours": -1}, r"phases\.a\.cluster\.hours=-1: expected a number above 0, or null"),
        ({"executor": "local"}, r"cluster\.executor: no phase may set that"),
    ):
        with pytest.raises(UserError, match=message):
            config(Phase(command="pretrain", cluster=wrong)).profile("a")


def test_arrays_wait_for_those_that_they_need(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays have at most as many jobs as one may have; each task has its own run."""
    monkeypatch.setattr("dira_scale.sweep.slurm.LONGEST", 2)
    log, folder = tools(), SweepFolder(tmp_path / "sweep")
    first = [run(str(n)) for n in range(3)]
    second = [run("p0", "b", ("a/0", "a/2"), "probe"), run("p1", "b", ("a/9",), "probe")]
    submit(folder, config(), [*first, *second], {"a/9": "77_4", "a/8": "78_0"})
    assert folder.jobs == {"a/0": ["100_0"], "a/1": ["100_1"], "a/2": ["101"], "b/p0": ["102_0"], "b/p1": ["102_1"]}
    scripts = [options((log / str(n)).read_text()) for n in range(3)]
    assert [item.get("array") for item in scripts] == ["0-1%2", None, "0-1%2"]
    assert [item.get("dependency") for item in scripts] == [None, None, "afterany:77:100:101"]
    assert [item.get("kill-on-invalid-dep") for item in scripts] == [None, None, "yes"]
    calls = [
        pickle.loads((tmp_path / f"sweep/jobs/{task}_submitted.pkl").read_bytes()).function for task in ("100_1", "101")
    ]
    assert [(call.folder, call.run, call.limit) for call in calls] == [
        (str(folder.path), name, 5) for name in ("a/1", "a/2")
    ]


def test_what_sbatch_refuses_is_an_error_and_not_recorded(tools: Tools, tmp_path: Path) -> None:
    tools(refusal='echo "sbatch: error: invalid partition specified: x" >&2; exit 1')
    folder = SweepFolder(tmp_path / "sweep")
    with pytest.raises(UserError, match=r"^phase a: sbatch: error: invalid partition specified: x$"):
        submit(folder, config(), [run("x")], {})
    assert folder.jobs == {} and not list(folder.path.rglob("*submitted.pkl"))


def test_what_was_submitted_before_a_refusal_is_recorded(tools: Tools, tmp_path: Path) -> None:
    tools(refusal="[ $count = 0 ] || exit 1")
    folder = SweepFolder(tmp_path / "sweep")
    with pytest.raises(UserError, match="phase b: sbatch failed: "):
        submit(folder, config(), [run("x"), run("y", "b", ("a/x",), "probe")], {})
    assert folder.jobs == {"a/x": ["100"]}


def test_a_profile_says_what_it_cannot_have() -> None:
    with pytest.raises(ArgumentError, match="hours: expected a number: SLURM needs it"):
        Cluster(executor="slurm", cpus_per_task=1, tries=1)


def needing(name: str, *needs: str) -> Run:
    return Run(*name.split("/"), "pretrain", [], "", [*needs])  # type: ignore[misc]


SHARDS, TRAINED = needing("shards/s", "slices/0", "slices/1"), [needing(f"train/{n}", "shards/s") for n in range(2)]
PROBES = [needing(f"probe/{n}", f"train/{n}", "shards/s") for n in range(2)]
JOBS = {"slices/0": "5_0", "slices/1": "5_1", "shards/s": "6", "train/0": "12_0", "train/1": "12_1"}


@pytest.mark.parametrize(
    ("part", "jobs", "expected"),
    [
        ([SHARDS], JOBS, "afterok:5_0:5_1"),
        (TRAINED, JOBS, "afterok:6"),  # nothing of it can run if this one fails
        (PROBES, JOBS, "afterok:6,afterany:12"),  # one may fail, and the probe of the other goes on
        (PROBES[:1], JOBS, "afterok:6:12_0"),
        ([*PROBES, needing("probe/2", "train/8")], JOBS, "afterany:6:12"),  # what is done is not waited for
        (TRAINED, {}, ""),
    ],
)
def test_what_all_need_must_be_done_of_the_rest_the_end_is_enough(part: list[Run], jobs: dict, expected: str) -> None:
    assert dependency(part, jobs) == expected
