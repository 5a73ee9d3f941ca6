"""The run folder: its files, and how they are written.

::

    config.yaml description.json status.json metrics.jsonl log.txt environment.json
    leases/ checkpoints/ pictures/ profile/ tensorboard/ tracker.json
"""

import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from dira_scale.base.config.logs import PACKAGE, LineFormatter
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import write_atomic, write_json
from dira_scale.base.storage.owned import check_own, is_inside, own
from dira_scale.base.storage.store import is_local
from dira_scale.train.runs import checkpoint, description
from dira_scale.train.runs.environment import environment
from dira_scale.train.runs.exit_codes import TRY
from dira_scale.train.runs.identity import differences, execution, run_name
from dira_scale.train.runs.lease import Lease, LeaseLostError

logger = logging.getLogger(__name__)


class RunFolder:
    """A run folder, held by this process for writing. Only the main process has one.

    A full disk does not end a run: there is one warning, and rows and log lines are written once there is space.

    Args:
        folder: created if absent.
        config: the resolved configuration, plus ``Inputs.identity()``: content and weights of the data, versions of
            order and views.
        described: what the task says of the run; None where nobody reads it, as in a measurement.

    Raises:
        UserError: the folder contains a run of another identity (names the differing keys), another process is
            writing to it, or ``checkpoint.folder`` cannot be used.
    """

    def __init__(self, folder: Path, config: dict[str, Any], described: description.Description | None = None) -> None:
        self.folder = folder
        self._execution = described.execution if described else execution("pretrain")
        elsewhere = config.get("checkpoint", {}).get("folder")
        self.checkpoints = checkpoint.locate_folder(folder, elsewhere)
        with _as_user_error(folder):
            check_own(folder, "run", "run")
        if elsewhere is not None:
            if is_local(self.checkpoints) and is_inside(folder, self.checkpoints):
                raise UserError(f"checkpoint.folder={elsewhere} is run={folder}, or has it inside: name another folder")
            with checkpoint.as_user_error(self.checkpoints):
                check_own(self.checkpoints, "checkpoints", "checkpoint.folder")
        with _as_user_error(folder):
            own(folder, "run", "run")
        if elsewhere is not None:
            with checkpoint.as_user_error(self.checkpoints):
                own(self.checkpoints, "checkpoints", "checkpoint.folder")
        with checkpoint.as_user_error(self.checkpoints):
            checkpoint.make_folder(self.checkpoints)
            self._refuse_other_run(config, described)
        self._pending: dict[str, list[str]] = {}  # lines by file that could not be written yet
        self._failing: set[str] = set()  # optional writes whose failure has been reported
        self._lock = threading.RLock()  # messages come from several threads
        with _as_user_error(folder):
            self.lease = Lease(folder)
            try:
                content = yaml.safe_dump(config, sort_keys=False)
                (folder / "pictures").mkdir(exist_ok=True)
                if described is not None:  # first: a folder with config.yaml is a run, which has one
                    write_atomic(folder / description.FILE, described.to_json())
                write_atomic(folder / "config.yaml", content)
                if self.checkpoints != folder / "checkpoints":  # another run folder may use these checkpoints
                    with checkpoint.as_user_error(self.checkpoints):
                        write_atomic(self.checkpoints / "config.yaml", content)
                write_json(folder / "environment.json", {"run": run_name(config, self._execution)} | environment())
            except BaseException:
                self.lease.release()
                raise
        self._position = (0, "")  # step and stage
        self.steps: int | None = None  # at which the run ends, once that is known
        self.status("running")
        self._log = _LogFile(self, self._lock)
        logging.getLogger(PACKAGE).addHandler(self._log)

    def release(self) -> None:
        """Write pending lines, stop logging to this run, and release the lease, so that another process can take it."""
        with suppress(LeaseLostError):  # another process has the run already
            self._write_pending()
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
        """Write ``status.json``, for sweeps and people, as launchers swallow exit codes.

        ``step`` and ``stage`` default to those of the last call. A sweep's try has its name there (``try``).
        """
        self._write_pending()  # a status never stands beside rows that lack their end
        self._position = (self._position[0] if step is None else step, self._position[1] if stage is None else stage)
        row = {"state": state, "step": self._position[0], "steps": self.steps, "stage": self._position[1]}
        with self.optional_write("status.json"):
            row |= {"exit_code": exit_code, "reason": reason, "lease": self.lease.number}
            row |= {"try": os.environ[TRY]} if TRY in os.environ else {}
            write_json(self.folder / "status.json", row, self.lease.check)  # again: flushing may take long

    def log(self, line: str) -> None:
        self._append("log.txt", line)

    def metrics(self, row: dict[str, Any]) -> None:
        self._append("metrics.jsonl", json.dumps(row | {"lease": self.lease.number}))

    @contextmanager
    def optional_write(self, what: str) -> Iterator[None]:
        """Around a write that may fail without ending the run: the first ``OSError`` becomes a warning."""
        try:
            yield
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)  # before the warning, whose own write may fail
                logger.warning("%s cannot be written (%s); training continues", what, error)
        else:
            self._failing.discard(what)

    def _append(self, name: str, line: str) -> None:
        """Write a line, together with all pending lines of all files."""
        with self._lock:
            self._pending.setdefault(name, []).append(line + "\n")
            self._write_pending()

    def _write_pending(self) -> None:
        with self._lock:
            self.lease.check()
            for file, lines in list(self._pending.items()):
                with self.optional_write(file):
                    append(self.folder / file, "".join(lines))
                    lines.clear()

    def drop_rows_after(self, step: int) -> None:
        """Drop the metrics rows after ``step``: the run resumes there and repeats these steps."""
        self.lease.check()
        path = self.folder / "metrics.jsonl"
        if path.exists():
            rows = path.read_text().splitlines(keepends=True)
            kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= step]
            write_atomic(path, "".join(kept))

    def _refuse_other_run(self, config: dict[str, Any], described: description.Description | None) -> None:
        path = self.folder / "config.yaml"
        if not checkpoint.complete(self.checkpoints):
            if path.exists() and checkpoint.complete(there := checkpoint.find_folder(self.folder)):
                raise UserError(
                    f"{self.folder} has its checkpoints in {there}, not in {self.checkpoints}: copy them there, or "
                    "use the checkpoint.folder=… that the run was started with"
                )
            return  # nothing has been trained yet, so the configuration may still change
        before = recorded_config(self.folder, self.checkpoints)
        try:
            refuse_other_settings(self.folder, before, config, self._execution)
        except UserError:
            if described and (self.folder / description.FILE).is_file():
                command = description.read_description(self.folder).command
                if command != described.command:
                    raise UserError(f"{self.folder} holds a run of {command}: choose a new run=…") from None
            raise


def refuse_other_settings(
    folder: Path, before: dict[str, Any], config: dict[str, Any], execution: Sequence[str]
) -> None:
    """Raise UserError if a run in ``folder``, recorded as ``before``, differs from ``config`` in its result."""
    if before and (differing := differences(before, config, execution)):
        raise UserError(
            f"{folder} holds a run with other settings: {'; '.join(differing[:6])}. Restore the old value, or choose a "
            "new run=… (docs/how-to/training.md: to train longer)"
        )


def recorded_config(folder: Path, checkpoints: Path) -> dict[str, Any]:
    """The configuration of the run in ``folder``; empty if it has no checkpoint yet, so that all may still change.

    Raises an ``OSError`` of the checkpoints' store.
    """
    if not checkpoint.complete(checkpoints):
        return {}
    for path in (checkpoints / "config.yaml", folder / "config.yaml"):
        if path.exists():
            return yaml.safe_load(path.read_text())
    return {}


def recorded_in(run: Path, folder: str | None) -> dict[str, Any]:
    """``recorded_config`` of the run in ``run``, whose ``checkpoint.folder`` is ``folder``. Raises UserError."""
    checkpoints = checkpoint.locate_folder(run, folder)
    with checkpoint.as_user_error(checkpoints):
        return recorded_config(run, checkpoints)


@contextmanager
def _as_user_error(folder: Path) -> Iterator[None]:
    """Turn a failing write before the first step, as on a full disk, into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"run={folder} cannot be written ({error.strerror or error}). {checkpoint.remedy(folder, error)}, then run "
            "the same command again; status.json stands as it was"
        ) from error


class _LogFile(logging.Handler):
    def __init__(self, run: RunFolder, lock: threading.RLock) -> None:
        super().__init__()
        self.run = run
        self.lock = lock  # shared with the run: two locks could deadlock
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(LeaseLostError):  # raised by the run's next write instead
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
