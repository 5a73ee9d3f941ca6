"""What a process of a run costs until its end: connections, requests to the store, files, bytes, memory; as JSON."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from dira_scale.train.distributed import processes
from dira_scale.train.distributed.world import World

ALIVE: list[Any] = []


class CountedStore(dist.Store):
    """The store of a run's processes, which counts what this one asks of it."""

    def __init__(self, store: Any, asked: "Counter[str]") -> None:
        super().__init__()
        self.store, self.asked = store, asked
        ALIVE.append(self)  # torch keeps its own half of this object alone

    def clone(self) -> "CountedStore":
        return CountedStore(self.store.clone(), self.asked)


def _counted(name: str) -> Any:
    def ask(self: CountedStore, *of: Any) -> Any:
        self.asked["requests"] += 1
        return getattr(self.store, name)(*of)

    return ask


for _name in (
    "set",
    "get",
    "add",
    "wait",
    "check",
    "compare_set",
    "delete_key",
    "num_keys",
    "set_timeout",
    "append",
    "multi_get",
    "multi_set",
):
    setattr(CountedStore, _name, _counted(_name))  # torch calls only methods that the class has


def io(name: str) -> int:
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())[name])


def private() -> int:
    """kB that this process alone has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


def install(folder: str) -> None:
    """Count from now on; write to ``folder`` when the processes leave each other."""
    asked, began = Counter[str](), io("rchar")

    def audit(event: str, of: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(of[0], str | bytes):
            asked["files"] += 1
            asked["sources"] += str(of[0]).endswith(".py")

    meet, end = processes.meet, World.end

    def met(timeout: int) -> Any:
        store = meet(timeout)
        return store and CountedStore(store, asked)

    def left(world: World) -> None:
        count = len(psutil.Process().net_connections("tcp"))
        figures = dict(asked) | {"connections": count, "read": io("rchar") - began, "private": private()}
        Path(folder, f"{world.rank}.json").write_text(
            json.dumps(figures | {"threads": len([*Path("/proc/self/task").iterdir()])})
        )
        end(world)

    processes.meet, World.end = met, left
    sys.addaudithook(audit)
