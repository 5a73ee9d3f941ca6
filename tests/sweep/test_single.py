"""One run by one key: what is submitted, what is refused, and nothing twice; tests/system/test_jobs.py has a SLURM."""

import json
import shlex
from pathlib import Path

import pytest
from sweep.made_up_sweep import Slurm, Tools, begin, options

from dira_scale import finetune, pretrain
from dira_scale.base.config.compose import compose
from dira_scale.base.config.files import folder
from dira_scale.base.config.keys import leaves
from dira_scale.cli import SUBMISSION
from dira_scale.sweep.records import Launch, SweepFolder

# Of a store, which nothing asks before a run begins.
RUN = ["experiment=small", "data.shards=s3://bucket/set", "data.size=32", "data.batch=8", "model.encoder=test_resnet"]
RUN += ["model.bn_groups=2"]
SLURM = ["cluster=slurm", "cluster.plan=null"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def newest(sweep: SweepFolder) -> str:
    """The id of the run that was submitted last."""
    return [*sweep.jobs][-1]


def test_a_dry_run_shows_command_and_script_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SLURM, "cluster.hours=3", "cluster.partition=gpu", "nodes=2", "processes=2", "dry_run=true"]
    assert pretrain.main([*RUN, "run=runs/mine", *words]) == 0
    printed, run = capsys.readouterr().out, Path("runs/mine").absolute()
    assert f"\npython -m dira_scale.pretrain {shlex.join(RUN)} run={run}\n" in printed
    assert options(printed) == {
        "time": "180", "signal": "USR2@120", "partition": "gpu", "nodes": "2", "ntasks-per-node": "2",
        "gpus-per-node": "2", "cpus-per-task": "8", "job-name": "mine/pretrain", "open-mode": "append",
        "wckey": "submitit", "output": f"{run}/slurm/jobs/%j_0_log.out",
    }  # fmt: skip
    assert not list(Path().iterdir())


def test_a_run_is_submitted_once_at_a_time(slurm: Slurm, tools: Tools, capsys: pytest.CaptureFixture[str]) -> None:
    """Again when its job has ended, not when it is done, and as another one with more steps."""
    scripts, command = tools(), [*RUN, "run=mine", *SLURM]
    assert pretrain.main([*command, "steps=4", "nodes=2"]) == 0
    assert "mine: job 100 is submitted" in capsys.readouterr().out
    sweep = SweepFolder(Path("mine/slurm"))
    run = sweep.run(newest(sweep))
    assert (sweep.output(run), run.launch) == (Path("mine").absolute(), Launch(2, 1))

    slurm.says("squeue", {"100": "PENDING|Resources|"})
    assert pretrain.main([*command, "steps=8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run=mine: job 100 has it, which is queued; python -m dira_scale.sweep cancel folder=mine/slurm" in line

    slurm.says("squeue", {"100": "CANCELLED|None|n1"})
    sweep.cancel(run.id)
    assert pretrain.main([*command, "steps=4", "data.workers=3"]) == 0  # the same run: that is how it is computed
    assert sweep.jobs == {run.id: ["100", "101"]} and not sweep.is_cancelled(run.id)

    slurm.says("squeue", {"101": "COMPLETED|None|n1"})
    begin(sweep, run.id, "101", exit_code=0)
    capsys.readouterr()
    assert pretrain.main([*command, "steps=4"]) == 0
    assert capsys.readouterr().out == "mine: done; nothing is submitted\n"
    assert pretrain.main([*command, "steps=8"]) == 0
    assert sweep.jobs[newest(sweep)] == ["102"] and SweepFolder(sweep.path).current == [newest(sweep)] != [run.id]
    assert len(list(scripts.iterdir())) == 3


def test_the_job_composes_what_was_typed(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder, with a profile and an experiment of one's own; keys that are added and removed, too."""
    tools()
    for name, text in {"cluster/ours": (folder("slurm") / "cluster/slurm.yaml").read_text().replace("24.0", "7.0"),
                       "experiment/own": "# @package _global_\nseed: 5\n"}.items():  # fmt: skip
        (file := Path("own", f"{name}.yaml")).parent.mkdir(parents=True)
        file.write_text(text)
    typed = ["--config-dir", "own", "experiment=own", *RUN[1:], "model.weights=null", "checkpoint.folder=elsewhere"]
    typed += ["~optim.optimizer.momentum", "+optim.optimizer.dampening=0.5", "stages.di.epochs=2", "run=mine"]
    assert pretrain.main([*typed, "cluster=ours", "cluster.plan=null"]) == 0
    sweep = SweepFolder(Path("mine/slurm"))
    run = sweep.run(newest(sweep))
    expected = compose("pretrain", [*typed, f"run={Path('mine').absolute()}"])
    expected.checkpoint.folder = str(Path("elsewhere").absolute())
    assert options((sweep.path / "jobs" / "100_submission.sh").read_text())["time"] == "420"
    monkeypatch.chdir("/")
    assert dict(leaves(compose("pretrain", run.words))) == dict(leaves(expected))


def test_a_path_that_needs_quotes_reaches_the_job_and_other_settings_do_not(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools()
    odd = Path("odd (copy), 1")
    assert pretrain.main([*RUN, f"run='{odd}'", *SLURM]) == 0
    sweep = SweepFolder(odd / "slurm")
    assert compose("pretrain", sweep.run(newest(sweep)).words).run == str(odd.absolute())
    monkeypatch.setattr("dira_scale.train.runs.folder.recorded_config", lambda *_: {"seed": 0, "threads_used": 2})
    assert pretrain.main([*RUN, "run=mine", "seed=5", *SLURM]) == 2
    assert "mine holds a run with other settings: seed: 0 -> 5" in capsys.readouterr().err and not Path("mine").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster=slurm"], "there is no sbatch here: use a login node, or cluster=local"),
        (["cluster=slrm"], "no cluster named 'slrm'; did you mean 'slurm'? There are: local, slurm"),
        (["cluster=slurm", "cluster.hurs=2"], "unknown key cluster.hurs; did you mean 'cluster.hours'?"),
        (["cluster=slurm", "processes=0"], "processes=0: expected a whole number of at least 1"),
        (["nodes=2"], "nodes=2 is for a run that cluster=slurm submits"),
        (["cluster=local", "dry_run=true"], "dry_run=true is for a run that cluster=slurm submits"),
        ([*SLURM, "nodes=3", "dry_run=true"], "data.batch=8 is not divisible by 3 ranks"),
        ([*SLURM, "dry_run=true", "data.shards=nowhere"], "no sharded dataset at nowhere"),
        ([*SLURM, "dry_run=true", "run=other"], "run=other holds files that this command has not written"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other").mkdir()
    Path("other", "notes").touch()
    monkeypatch.setenv("PATH", "")
    assert pretrain.main([*RUN, "run=mine", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not Path("mine").exists()


def test_a_run_that_a_process_trains_is_not_submitted(tools: Tools, capsys: pytest.CaptureFixture[str]) -> None:
    """Until its last beat is old."""
    tools()
    Path("mine/leases").mkdir(parents=True)
    Path("mine/.dira_scale.json").write_text('{"kind": "run"}')
    lease = {"number": 1, "host": "n7", "numbering": "", "pid": 9, "beat": 3, "released": False, "slurm_job": None}
    Path("mine/leases/000001.json").write_text(json.dumps(lease))
    assert pretrain.main([*RUN, "run=mine", *SLURM]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run=mine: a running process on n7 (process 9) writes to this run; stop it, or choose another" in line
    Path("mine/leases/000001.json").write_text(json.dumps(lease | {"released": True}))
    assert pretrain.main([*RUN, "run=mine", *SLURM]) == 0


@pytest.mark.parametrize("command", [pretrain, finetune])
def test_help_has_a_line_for_each_of_the_keys(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and "on SLURM by cluster=slurm" in printed
    assert printed.count("example: ") == 1 and "\n  cluster=  one of local, slurm\n" in printed
    assert all(f"\n  {key}=" in printed for key in (*SUBMISSION, "cluster.hours", "cluster.partition"))
