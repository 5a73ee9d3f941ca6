"""Sends the rows of ``metrics.jsonl`` to a tracker, through Accelerate's, from a thread of the main process.

Accelerate hands a tracker's errors on to who logs, who waits as long as the tracker waits for its server. So training
never calls it: the thread reads the file, tries again what has failed, and remembers in ``tracker.json`` what was sent.
"""

import json
import logging
import os
import re
import threading
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil
import yaml
from omegaconf import OmegaConf

from dira_scale.base.config.keys import leaves, typed
from dira_scale.base.errors import require
from dira_scale.base.storage.atomic import write_json
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.engine.config import MLFLOW, NONE, TENSORBOARD, WANDB
from dira_scale.train.runs.exit_codes import TRY
from dira_scale.train.runs.folder import RunFolder
from dira_scale.train.runs.lease import LeaseLostError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "dira_scale"
FILE = "tracker.json"
NO_CURVE = ("step", "lease")  # numbers of a row
PATH = re.compile(r"(?<![\w.])~?/?(?:[^\s/:,\[{]+/)+(?=[^\s/])")  # all of a path but its last part
logger = logging.getLogger(__name__)


def require_tracker(name: str) -> None:
    """Raise UserError, one line, if its package is missing; the package is not imported."""
    if name != NONE:
        require(f"tracker={name} needs", "trackers", name)


class Tracker:
    """The thread, which begins at once, of a run that goes on from ``step``. ``name`` is not ``none``."""

    def __init__(self, name: str, run: RunFolder, step: int) -> None:
        self.name, self.run, self._step = name, run, step
        self._id = {WANDB: uuid.uuid4().hex[:12]}.get(name)  # of the run in the tracker; MLflow says it when it begins
        self._sent = dict[str, int]()  # the last step of each split
        self._configured, self._offset = False, 0
        path = run.folder / FILE
        content = json.loads(path.read_text()) if path.is_file() else {}
        if step and content.get("tracker") == name:  # goes on with what an earlier call has sent; else it begins anew
            self._id, self._sent, self._configured = content["id"], content["sent"], True
        if name == TENSORBOARD:  # what a killed run has written of later steps is purged
            self._sent = {split: min(sent, step) for split, sent in self._sent.items()}
        self._tracker: GeneralTracker | None = None
        self._rows, self._closed, self._failure = threading.Event(), threading.Event(), ""
        self._thread: threading.Thread | None = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._rows.set()

    def close(self) -> None:
        """Send what is left, for a bounded time."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._closed.set()
        self._rows.set()
        thread.join(TIMINGS.tracker)
        if thread.is_alive():
            self._failure = "no answer"
            for child in psutil.Process().children():  # the process would wait for it without end
                if child.name().startswith("wandb-core"):
                    child.kill()
        if self._failure:
            logger.warning("tracker=%s lacks rows (%s); the same command sends them", self.name, self._failure)

    def _work(self) -> None:
        while True:
            self._rows.clear()
            closing = self._closed.is_set()  # no row follows
            try:
                self._send()
                if closing and self._tracker is not None:
                    self._tracker.finish()
                self._failure = ""
            except LeaseLostError:
                return
            except Exception as error:  # whatever a tracker's library raises
                text = f"{type(error).__name__}: {error}".partition("\n")[0]
                if not self._failure and not self._closed.is_set():
                    again = "training continues, and the rows are sent again later"
                    logger.warning("tracker=%s: %s; %s", self.name, text, again)
                self._failure = text
                if self.name == TENSORBOARD:  # its writer does not recover from a full disk
                    self._tracker = None
            if closing:
                return
            if self._failure:
                self._closed.wait(TIMINGS.tracker)
            else:
                self._rows.wait()

    def _send(self) -> None:
        """All rows that are not sent yet."""
        path, before = self.run.folder / "metrics.jsonl", dict(self._sent)
        if not path.is_file():
            return
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):  # it is being written
                        break
                    self._send_row(json.loads(line))
                    self._offset += len(line)
        finally:
            if self._sent != before:
                content = {"tracker": self.name, "id": self._id, "sent": self._sent}
                write_json(self.run.folder / FILE, content, self.run.lease.check)

    def _send_row(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of ``row``; before the first of them the configuration, as hyperparameters."""
        split, step = row["split"], row["step"]
        if step <= self._sent.get(split, -1):
            return
        if self._tracker is None:
            tracker = self._made()
            tracker.start()
            self._tracker = tracker
            if self.name == MLFLOW:
                self._id = tracker.tracker.info.run_id
        if not self._configured:
            config = OmegaConf.create(dict(yaml.safe_load((self.run.folder / "config.yaml").read_text())))
            values: dict[str, Any] = {}
            for key, value in leaves(config):
                plain = value if type(value) in (bool, int, float, str) else typed(value)
                # The last part of paths: a tracker's server may be elsewhere, and a path may name a person.
                values[self._key(key)] = PATH.sub("", plain) if isinstance(plain, str) else plain
            if self.name == TENSORBOARD:  # Accelerate would write them as a run of their own
                from torch.utils.tensorboard.summary import hparams

                for summary in hparams(values, {}):
                    self._tracker.tracker.file_writer.add_summary(summary)
            else:
                self._tracker.store_init_configuration(values)
            self._configured = True
        numbers = {key: value for key, value in row.items() if type(value) in (int, float) and key not in NO_CURVE}
        self._tracker.log({self._key(f"{split}/{key}"): value for key, value in numbers.items()}, step=step)
        self._sent[split] = step

    def _made(self) -> "GeneralTracker":
        """Runs of a sweep, whose folders are SWEEP/PHASE/RUN/output, are a group."""
        from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

        folder, started = self.run.folder.resolve(), os.environ.get(TRY)
        group, name = (folder.parents[2].name, started.rpartition("/")[0]) if started else (None, folder.name)
        if self.name == TENSORBOARD:
            purge = max(self._sent.values(), default=self._step) + 1
            return TensorBoardTracker(TENSORBOARD, self.run.folder, purge_step=purge)
        if self.name == MLFLOW:
            tags = {"sweep": group} if group else None
            return MLflowTracker(group or PROJECT, run_id=self._id, run_name=name, tags=tags)
        return WandBTracker(
            os.environ.get("WANDB_PROJECT", PROJECT), id=self._id, name=name, group=group, resume="allow",
            dir=str(folder), settings={"console": "off"},
        )  # fmt: skip

    def _key(self, name: str) -> str:
        """``name`` in characters that the tracker takes: labels may have any."""
        return re.sub(r"[^\w./: -]", "_", name, flags=re.ASCII) if self.name == MLFLOW else name
