"""What one process finds out and all must know: which error of several they raise, and how it is worded."""

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing

from dira_scale.base.arguments import ArgumentError, converted
from dira_scale.base.errors import UserError
from dira_scale.train.distributed import control
from dira_scale.train.distributed.control import AgreedError, Failure, common_error
from dira_scale.train.runs.lease import LeaseLostError

DISK, SPLIT = Failure.of(UserError("no disk")), Failure.of(UserError("no such split"))
QUEUE = Failure.of(ArgumentError("queue", 100, "a multiple of 16"))
GHOST, BUG = Failure.of(LeaseLostError("taken over")), Failure.of(KeyError("x"))


@pytest.mark.parametrize(
    ("failures", "kind", "printed"),
    [
        ([DISK], AgreedError, "no disk"),
        ([DISK, DISK], AgreedError, "no disk"),
        ([None, DISK, SPLIT], AgreedError, "rank 1 on {host}: no disk"),
        ([DISK, SPLIT, None], AgreedError, "rank 0 on {host}: no disk"),
        ([QUEUE, QUEUE], AgreedError, "queue: expected a multiple of 16, got 100"),
        ([DISK, BUG, GHOST], LeaseLostError, "taken over"),
        ([None, BUG], RuntimeError, "rank 1 on {host}: KeyError: 'x'"),
        ([BUG], RuntimeError, "KeyError: 'x'"),
    ],
)
def test_all_raise_what_counts_most_and_comes_first(
    failures: list[Failure | None], kind: type[Exception], printed: str
) -> None:
    error = common_error(failures)
    assert type(error) is kind and str(error) == printed.format(host=socket.gethostname())


def test_nobody_raises_where_nobody_failed() -> None:
    assert common_error([None, None]) is None


def _two_processes(rank: int, folder: str) -> None:
    """Both ranks write down what they are told."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    reported = {}

    def tell(name: str, function: Any) -> None:
        try:
            reported[name] = f"returned {function()}"
        except (control.AgreedError, LeaseLostError) as error:
            reported[name] = f"{error}" if isinstance(error, control.AgreedError) else f"lease lost: {error}"

    def bad(text: str) -> Any:
        raise UserError(text)

    def lost() -> Any:
        raise LeaseLostError("taken over")

    tell("well", lambda: control.raise_on_all(lambda: rank))
    tell("one", lambda: control.raise_on_all(lambda: rank if rank == 0 else bad("no disk")))
    tell("both", lambda: control.raise_on_all(lambda: bad("no such split")))
    tell("argument", lambda: control.raise_on_all(lambda: converted(int, "x", "steps")))
    tell("ghost", lambda: control.raise_on_all(lambda: lost() if rank else bad("no disk")))
    tell("from main", lambda: control.broadcast_from_main(f"of {rank}"))
    tell("alike", lambda: control.check_equal({"seed": "0"}))
    tell("differ", lambda: control.check_equal({"seed": str(rank), "torch": "2"} | {"own": "1"} | {}))
    tell("lacks", lambda: control.check_equal({"a": "1"} if rank else {"a": "1", "b": "2"}))
    Path(folder, f"{rank}.json").write_text(json.dumps(reported))
    dist.destroy_process_group()
    os._exit(0)  # a Python that ends while a thread of gloo's still holds a tensor may abort (pytorch#179291)


def test_two_processes_agree_on_what_is_wrong(tmp_path: Path) -> None:
    # Imported once for both.
    multiprocessing.set_forkserver_preload(["torch.distributed", "pytest", "dira_scale.train.runs.lease"])
    torch.multiprocessing.start_processes(_two_processes, (str(tmp_path),), nprocs=2, start_method="forkserver")
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first.pop("well") == "returned 0" and second.pop("well") == "returned 1"
    assert first == second
    assert first["one"].startswith("rank 1 on ") and first["one"].endswith(": no disk")
    assert first["both"] == "no such split"
    assert first["argument"] == "steps: expected a whole number, got 'x'"
    assert first["ghost"] == "lease lost: taken over"
    assert first["from main"] == "returned of 0"
    assert first["alike"] == "returned None"
    assert " differ from rank 0 on " in first["differ"] and "in seed (1 instead of 0):" in first["differ"]
    assert "in b (None instead of 2):" in first["lacks"]
