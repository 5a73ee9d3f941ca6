"""The last collectives of each process, and the first in which the processes differ, to explain a hang.

torch's flight recorder keeps 2,000 of a process, of gloo and NCCL, also those that DDP and FSDP2 start in C++, unless
TORCH_FR_BUFFER_SIZE is 0. It knows no steps: when each began is kept here.
"""

import json
import time
from bisect import bisect
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dira_scale.train.distributed.collectives import world

LAST = 30  # collectives that are written for people to read
FOUND, POLL = "parted", 0.1  # where the processes part, beside their records; seconds
DUMPS = ("_dump_fr_trace_json", "_dump_nccl_trace_json")  # torch's, of gloo and, where there is one, of NCCL

_begun: deque[tuple[int, int]] = deque(maxlen=2000)  # when each step began, in nanoseconds, and its number


class RecordedCollective(NamedTuple):
    """A collective as one process has called it. All processes of a group call the same under the same number."""

    group: str
    number: int  # from 1
    call: str  # kind, types and sizes of what is sent
    step: int  # during which, from 1; 0: before the first
    ended: bool


def begin(step: int) -> None:
    _begun.append((time.time_ns(), step))


def recorded() -> list[RecordedCollective]:
    """The collectives of this process, in the order of their calls. CUDA may block it where a GPU hangs."""
    torch_c10d, begun, record = torch._C._distributed_c10d, tuple(_begun), []
    steps = (0, *(step for _, step in begun))
    dumps = [json.loads(getattr(torch_c10d, name)()) for name in DUMPS if hasattr(torch_c10d, name)]
    entries = [entry for dump in dumps for entry in dump.get("entries", ()) if not entry["is_p2p"]]
    for entry in sorted(entries, key=lambda entry: entry["time_created_ns"]):
        sent = zip(entry["input_dtypes"], entry["input_sizes"], strict=True)
        call = " ".join([entry["profiling_name"], *(f"{dtype}{size}" for dtype, size in sent)])
        ended = entry["retired"] or entry["state"] == "completed"
        step = steps[bisect(begun, (entry["time_created_ns"],))]
        # The number of operations: all that NCCL coalesces into one collective have the same of those.
        record.append(RecordedCollective(" ".join(entry["process_group"]), entry["op_id"], call, step, ended))
    return record


def exchange(stacks: Path, seconds: float, partly: bool = False) -> str:
    """Write this process's record, and say where all of them part, for which one process reads them: the lowest rank
    that has written one. The others wait for what it finds, so that no launcher ends it before.

    Args:
        stacks: ``rank-N.txt``, to which the last collectives are appended; ``rank-N.json`` beside it gets all.
        seconds: in which all should have written; what is found comes within twice as long.
        partly: compare those that have. Else nothing is said if one has not: the others wait for it, wherever they are.
    """
    if world() == 1:
        return ""
    record, unready, found = recorded(), stacks.with_suffix(".part"), stacks.with_name(FOUND)
    stacks.parent.mkdir(exist_ok=True)
    with stacks.open("a") as file:
        print(f"\nThe last {LAST} collectives of this process, the newest last; * has not ended:", file=file)
        for group, number, call, step, ended in record[-LAST:]:
            print(f"step {step}: {call}, number {number} of group {group}{'' if ended else ' *'}", file=file)
    unready.write_text(json.dumps(record))
    own, began = unready.replace(stacks.with_suffix(".json")), time.monotonic()
    first = own.stem == "rank-0" or (not _appears(found, seconds / 2) and own == min(_written(own.parent).items())[1])
    if not first:
        return found.read_text() if _appears(found, 1.5 * seconds) else ""
    while len(paths := _written(own.parent)) < world() and time.monotonic() < began + seconds:
        time.sleep(POLL)
    text = ""
    if partly or len(paths) == world():
        records = {number: json.loads(path.read_text()) for number, path in paths.items()}
        text = parting([[RecordedCollective(*row) for row in records.get(i, ())] for i in range(world())])
    if text and (lacking := [str(i) for i in range(world()) if i not in paths]):
        text += f"; rank {', '.join(lacking)} has written nothing"
    unready.write_text(text)
    unready.replace(found)
    return text


def _appears(path: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (there := path.exists()) and time.monotonic() < deadline:
        time.sleep(POLL)
    return there


def _written(folder: Path) -> dict[int, Path]:
    """The records so far, by rank."""
    return {int(path.stem.removeprefix("rank-")): path for path in folder.glob("rank-*.json")}


def parting(records: Sequence[Sequence[RecordedCollective]]) -> str:
    """One line with each group's first collective that not all processes have called, or not alike.

    ``records`` are by rank. Groups come in the order of steps; empty if the processes do not part. What one of them no
    longer has is not compared, nor a group of which only one has a record.
    """
    groups: dict[str, dict[int, dict[int, RecordedCollective]]] = {}  # collectives by group, rank and number
    for rank, record in enumerate(records):
        for collective in record:
            groups.setdefault(collective.group, {}).setdefault(rank, {})[collective.number] = collective
    parted = []
    for group, ranks in groups.items():
        for number in range(max(map(min, ranks.values())), max(map(max, ranks.values())) + 1):
            calls: dict[str, list[str]] = {}
            for rank, numbers in ranks.items():
                calls.setdefault(numbers[number].call if number in numbers else "nothing", []).append(str(rank))
            if len(calls) > 1:
                step = min(numbers[number].step for numbers in ranks.values() if number in numbers)
                callers = "; ".join(f"rank {', '.join(who)} called {call}" for call, who in calls.items())
                parted.append((step, f"in step {step} at collective {number} of group {group}: {callers}"))
                break
    return f"the processes part {', and '.join(text for _, text in sorted(parted))}" if parted else ""
