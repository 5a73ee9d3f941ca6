"""The limit of open files, in processes of their own."""

import sys

import pytest
from harness import finish, job

LIMITED = """
import logging, resource, sys
from dira_scale.distributed.processes import allow_open_files
from dira_scale.errors import UserError

logging.basicConfig(level=logging.INFO, format="%(levelname)s", stream=sys.stdout)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, int(sys.argv[1])))
try:
    allow_open_files()
except UserError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
REFUSED = "allows a process 1024 open files, and connecting 341 processes takes at least 10"


@pytest.mark.parametrize(
    ("hard", "rank", "ranks", "expected"),
    [
        (4096, 1, 340, []),
        (1024, 1, 2, []),  # what most machines have
        (1024, 0, 200, ["WARNING"]),
        (1024, 1, 200, []),  # once for a machine
        (1024, 1, 341, [REFUSED]),  # three sockets to each of the others
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be_and_said_where_that_is_too_low(
    hard: int, rank: int, ranks: int, expected: list[str]
) -> None:
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    with job([sys.executable, "-c", LIMITED, str(hard)], **environment) as process:
        assert process.wait(60) == 0
        *lines, limit = process.printed().splitlines()
    assert limit == str(hard)
    assert len(lines) == len(expected), lines
    assert all(words in line for words, line in zip(expected, lines, strict=True)), lines


def test_one_process_keeps_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert finish([sys.executable, "-c", LIMITED, "1024"]).split() == ["200"]
