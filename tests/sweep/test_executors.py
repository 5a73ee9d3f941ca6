"""The private parts of submitit that executors.py builds on are those that it expects."""

import inspect
import re
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths
from submitit.local._local import Controller
from submitit.local.local import LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor, SlurmJob, _make_sbatch_string

from dira_scale.sweep.executors import Sessions

CHANGED = (
    f"submitit {version('submitit')} has another {{name}}, on which dira_scale/sweep/executors.py builds: change it "
    "there, or forbid this version in pyproject.toml"
)


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (SlurmExecutor.__init__, "self folder max_num_timeout python"),
        (SlurmExecutor._internal_process_submissions, "self delayed_submissions"),
        (SlurmExecutor._submit_command, "self command"),
        (SlurmExecutor._make_submission_command, "self submission_file_path"),
        (SlurmJob, "folder job_id tasks"),
        (
            _make_sbatch_string,
            "command folder map_count array_parallelism additional_parameters stderr_to_stdout setup",
        ),
        (DelayedSubmission.set_timeout, "self timeout_min max_num_timeout"),
        (DelayedSubmission.dump, "self filepath"),
        (JobPaths, "folder job_id"),
        (LocalExecutor._submit_command, "self command"),
        (LocalJob, "folder job_id tasks process"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_part_is_called_as_before(part: Callable[..., Any], names: str) -> None:
    parameters = inspect.signature(part).parameters
    assert set(names.split()) <= parameters.keys(), CHANGED.format(name=part.__qualname__)
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    needed -= {name for name, parameter in parameters.items() if parameter.kind in (2, 4)}  # *args, **kwargs
    assert needed <= set(names.split()), CHANGED.format(name=part.__qualname__)


def test_a_job_is_started_and_fails_as_before() -> None:
    for name in ("submitit.core._submit", "submitit.local._local"):
        assert find_spec(name), CHANGED.format(name=name)
    assert isinstance(SlurmExecutor._submitit_command_str, property), CHANGED.format(name="_submitit_command_str")
    for error in (FailedJobError, FailedSubmissionError):
        assert issubclass(error, Exception), CHANGED.format(name=error.__name__)
    assert str(JobPaths("jobs", "12_3").submitted_pickle).endswith("jobs/12_3_submitted.pkl"), CHANGED.format(
        name="JobPaths.submitted_pickle"
    )


def test_the_local_controller_is_given_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr("subprocess.Popen", lambda *_, env, **__: given.update(env) or SimpleNamespace(pid=1))
    Sessions(tmp_path, {})._submit_command("true")
    read = set(re.findall(r"SUBMITIT_\w+", inspect.getsource(Controller.__init__)))
    assert read and read <= given.keys(), CHANGED.format(name=f"local controller, which reads {sorted(read)}")
