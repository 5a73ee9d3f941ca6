"""What an array waits for, by what its runs need."""

import pytest

from dira_scale.sweep.records import Run
from dira_scale.sweep.slurm import dependency


def run(name: str, *needs: str) -> Run:
    return Run(*name.split("/"), "pretrain", [], "", [*needs])  # type: ignore[misc]


SHARDS, TRAINED = run("shards/s", "slices/0", "slices/1"), [run(f"train/{n}", "shards/s") for n in range(2)]
PROBES = [run(f"probe/{n}", f"train/{n}") for n in range(2)]
RUNS = {item.id: item for item in [SHARDS, *TRAINED, *PROBES]}
JOBS = {"slices/0": "5_0", "slices/1": "5_1", "shards/s": "6_0", "train/0": "12_0", "train/1": "12_1"}
SIZES = {"5": 2, "6": 1, "12": 2}


@pytest.mark.parametrize(
    ("part", "jobs", "expected"),
    [
        ([SHARDS], JOBS, "afterok:5"),
        (TRAINED, JOBS, "afterok:5:6"),  # nothing of it can run if any of these fails
        (PROBES, JOBS, "afterok:5:6,afterany:12"),  # one may fail, and the probe of the other goes on
        (PROBES[:1], JOBS, "afterok:5:6:12_0"),
        ([*PROBES, run("probe/2", "train/8")], JOBS, "afterany:12"),  # what is done is not waited for
        (TRAINED, {"slices/0": "9_7", "shards/s": "10_3"}, "afterok:9_7:10_3"),  # tasks of earlier arrays
        (TRAINED, {}, ""),
    ],
)
def test_what_all_need_must_be_done_of_the_rest_the_end_is_enough(part: list[Run], jobs: dict, expected: str) -> None:
    assert dependency(part, RUNS, jobs, {} if jobs is not JOBS else SIZES) == expected
