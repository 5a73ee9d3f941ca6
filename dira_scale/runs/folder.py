"""The run folder: what is written, by whom, and what a run's configuration fixes.

::

    config.yaml status.json metrics.jsonl log.txt environment.json leases/ checkpoints/ pictures/ tensorboard/
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from dira_scale import __version__
from dira_scale.config.logs import PACKAGE, Line
from dira_scale.errors import UserError
from dira_scale.places.atomic import write_atomic, write_json
from dira_scale.runs import checkpoint
from dira_scale.runs.lease import Lease, LeaseLostError

logger = logging.getLogger(__name__)

# May change between two calls on one run: how and where it is computed, not what. All else is the run's identity.
# (`data.shards` may move; `datasets`, their content and weights, may not.)
EXECUTION = ("run", "steps", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch", "data.loader",
             "data.shards",
             "validate.pictures", "validate.restored", "health", "watchdog")  # fmt: skip
# Keys that came into identity later, with the value that all runs before had: at that value they are left out, so that
# names stay and an older run's config.yaml, which lacks the key, counts as having it.
LATER = {"views_version": 1}
PACKAGES = ("torch", "accelerate", "timm", "segmentation_models_pytorch", "numpy", "imagecodecs", "pillow")

DONE, BAD_INPUT, INTERRUPTED, FAILED = 0, 2, 75, 1  # exit codes of a verb


class Run:
    """A run folder, held by this process for writing. Only the main process has one.

    A full disk does not end a run: a warning is given once, rows and lines of the log are written when there is room.

    Args:
        folder: made if absent.
        config: the resolved configuration, plus ``Inputs.identity()``: content and weights of the data, versions of
            order and views.

    Raises:
        UserError: the folder holds a run of another identity (the differing keys are named), another process is
            writing to it, or ``checkpoint.folder`` cannot be used.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        elsewhere = config.get("checkpoint", {}).get("folder")
        self.checkpoints = checkpoint.place(folder, elsewhere)
        with checkpoint.reachable(self.checkpoints):
            checkpoint.make(self.checkpoints)
            self._refuse_other(config)
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        self._late: dict[str, list[str]] = {}  # lines by file that the disk refused so far
        self._refused: set[str] = set()
        self._lock = threading.RLock()  # messages come from several threads
        self.lease = Lease(folder)
        content = yaml.safe_dump(config, sort_keys=False)
        write_atomic(folder / "config.yaml", content)
        if elsewhere is not None:  # where another run folder may look for it
            with checkpoint.reachable(self.checkpoints):
                write_atomic(self.checkpoints / "config.yaml", content)
        write_json(folder / "environment.json", {"run": name(config)} | environment())
        self._where = (0, "")
        self.status("running")
        self._log = _LogFile(self, self._lock)
        logging.getLogger(PACKAGE).addHandler(self._log)

    def release(self) -> None:
        """Let the next one in at once; what is logged from now on is not of this run."""
        logging.getLogger(PACKAGE).removeHandler(self._log)
        self.lease.release()

    def status(
        self,
        state: str,
        step: int | None = None,
        stage: str | None = None,
        exit_code: int | None = None,
        reason: str = "",
    ) -> None:
        """Write ``status.json``, which sweeps and people read, since launchers swallow exit codes.

        Where ``step`` or ``stage`` is left out, it stays what it was in the last call.
        """
        self.lease.check()
        self._where = (self._where[0] if step is None else step, self._where[1] if stage is None else stage)
        row = {"state": state, "step": self._where[0], "stage": self._where[1], "exit_code": exit_code}
        with self.spared("status.json"):
            row |= {"reason": reason, "lease": self.lease.number}
            write_json(self.folder / "status.json", row, self.lease.check)  # again: flushing may take long

    def log(self, line: str) -> None:
        """Append a line to ``log.txt``."""
        self._append("log.txt", line)

    def metrics(self, row: dict[str, Any]) -> None:
        """Append a row to ``metrics.jsonl``."""
        self._append("metrics.jsonl", json.dumps(row | {"lease": self.lease.number}))

    @contextmanager
    def spared(self, what: str) -> Iterator[None]:
        """Around a write that may fail without ending the run: an ``OSError`` becomes a warning, given once."""
        try:
            yield
        except OSError as error:
            if what not in self._refused:
                self._refused.add(what)  # first: the warning is to be written as well
                logger.warning("%s cannot be written (%s); training goes on", what, error)
        else:
            self._refused.discard(what)

    def _append(self, name: str, line: str) -> None:
        """Write a line, after those of all files that the disk refused before."""
        with self._lock:
            self.lease.check()
            self._late.setdefault(name, []).append(line + "\n")
            for file, late in list(self._late.items()):
                with self.spared(file):
                    append(self.folder / file, "".join(late))
                    late.clear()

    def forget_after(self, step: int) -> None:
        """Drop the metrics rows after ``step``: the run resumes from its checkpoint, and these steps come again."""
        self.lease.check()
        path = self.folder / "metrics.jsonl"
        if path.exists():
            rows = path.read_text().splitlines(keepends=True)
            kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= step]
            write_atomic(path, "".join(kept))

    def _refuse_other(self, config: dict[str, Any]) -> None:
        path, beside = self.folder / "config.yaml", self.checkpoints / "config.yaml"
        if not checkpoint.complete(self.checkpoints):
            if path.exists() and checkpoint.complete(before := checkpoint.place_of(self.folder)):
                raise UserError(
                    f"{self.folder} has its checkpoints in {before}, not in {self.checkpoints}: copy them there, or "
                    "use the checkpoint.folder=… that the run was started with"
                )
            return  # nothing has been trained yet, so the configuration may still be corrected
        path = beside if beside.exists() else path
        if not path.exists():
            return
        old, new = identity(yaml.safe_load(path.read_text())), identity(config)
        differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if differing:
            shown = "; ".join(f"{k}: {old.get(k, LATER.get(k))} -> {new.get(k, LATER.get(k))}" for k in differing[:6])
            raise UserError(
                f"{self.folder} holds a run with other settings: {shown}. Restore the old value, or choose a new run=…"
            )


class _LogFile(logging.Handler):
    """``log.txt``, to which whatever the package logs is appended."""

    def __init__(self, run: Run, lock: threading.RLock) -> None:
        super().__init__()
        self.run = run
        self.lock = lock  # the run's own: with two, two threads might wait for each other
        self.setFormatter(Line())

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(LeaseLostError):  # the run's next write raises it
            self.run.log(self.format(record))


def append(path: Path, text: str) -> None:
    """Append all of ``text`` or nothing."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a") as file:
            file.write(text)
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The flattened fields of a configuration that decide a run's result; its name is the hash of these."""
    flat = {key: value for key, value in _flatten(config).items() if (key, value) not in LATER.items()}
    return {k: v for k, v in flat.items() if not any(k == e or k.startswith(e + ".") for e in EXECUTION)}


def name(config: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that name a run's identity."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:12]


def environment() -> dict[str, Any]:
    """What the run was computed with."""
    found: dict[str, Any] = {
        "dira_scale": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "command": " ".join(sys.argv),
        "cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package.replace("_", "-"))
        except PackageNotFoundError:
            found[package] = None
    return found


def _commit() -> str | None:
    """The checkout's commit, with a + where files differ from it; None outside a checkout."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, child in value.items() for k, v in _flatten(child, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}
