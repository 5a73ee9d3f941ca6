"""Stand-ins that look to a sweep like `shard`, `pretrain` and `probe`, without their work.

A file beside the sweep's folder tells what is to happen: ``fail TEXT`` ends each command with that text among its words
with exit code 1, ``wait TEXT`` lets it wait until the file is gone, or until SIGTERM, which ends it with 75.
"""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

from dira_scale.command import Command

SECONDS = 60  # bound on the wait
PACKAGE = Path(__file__).parents[3] / "dira_scale"


def row(name: str) -> Command:
    """The row of the command that is stood in for."""
    spec = importlib.util.spec_from_file_location(f"real_{name}", PACKAGE / name / "__init__.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command: Command = module.COMMAND
    return command


def stand_in(output: str) -> int:
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    folder = Path(words[output])
    orders = folder.parents[3] / "orders"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts").open("a") as file:
        given = [os.environ.get(name) for name in ("OMP_NUM_THREADS", "DIRA_SCALE_CPUS_PER_TASK")]
        file.write(" ".join(map(str, (time.time(), *given))) + "\n")
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    for key in ("data.shards", "run"):
        if key != output and not (Path(words.get(key, folder)) / "starts").exists():
            print(f"{key}={words[key]}: nothing there")
            return 2
    for order in orders.iterdir() if orders.exists() else ():
        what, _, text = order.name.partition(" ")
        if text in " ".join(sys.argv).replace("/", "-"):
            if what == "fail":
                print("as ordered")
                return 1
            deadline = time.monotonic() + SECONDS
            while order.exists() and time.monotonic() < deadline:
                if stopped:
                    return 75
                time.sleep(0.02)
    (folder / "status.json").write_text(json.dumps({"step": 1, "lease": 1}))
    (folder / "ended").write_text(str(time.time()))
    return 0
