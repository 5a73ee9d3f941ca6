"""The metrics of a run: rows of metrics.jsonl and of a tracker, the figures beside the progress bar, and warnings."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dira_scale.train.engine.config import NONE
from dira_scale.train.engine.means import Clock, HostCopy, Means
from dira_scale.train.engine.nan_guard import NaNGuard, NotFinite
from dira_scale.train.engine.progress import Bar
from dira_scale.train.engine.state import RunState
from dira_scale.train.engine.task import StagePlan, StagePosition, Task
from dira_scale.train.engine.tracker import Tracker
from dira_scale.train.runs.folder import RunFolder

SOON = 5.0  # seconds
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    """A row of training whose values are on their way to the host."""

    place: dict[str, Any]  # step, epoch, stage
    names: list[str]  # of the means
    beside: dict[str, Any]  # what the host knew
    position: StagePosition
    warnings: list[str]
    guard: NaNGuard
    copy: HostCopy  # of the means and the guard's record


class MetricsLog:
    """Every process fills ``means`` and ``clock`` and begins and finishes each row; only the main one has ``run`` and
    writes. ``state``, where the run stands, is only read.

    A row of training is begun at its step and finished after the next one, which the device computes meanwhile.
    """

    bar: Bar

    def __init__(self, task: Task, state: RunState, run: RunFolder | None, tracker: str) -> None:
        self.task, self.state, self.run = task, state, run
        self.means, self.clock = Means(), Clock()
        self.tracker = Tracker(tracker, run, state.step) if run and tracker != NONE else None
        self._row: _Row | None = None  # begun
        self._last = state.step  # step of the last row
        self._loading: Mapping[str, float] = {}  # the loader's seconds up to that row

    def begin(self, stage: StagePlan) -> None:
        """Rows belong to this stage from now on; its loader is new."""
        self.stage, self._loading = stage, {}

    def begin_row(self, lr: float, loading: Mapping[str, float], warnings: list[str], guard: NaNGuard) -> None:
        """Begin a row of the means since the last one, with ``warnings``, and of what ``guard`` has recorded; neither
        is waited for. Collective.

        ``loading``: seconds of the stage's loader so far, by part.
        """
        passed = {part: total - self._loading.get(part, 0.0) for part, total in loading.items()}
        self._loading = loading
        self.clock.add("data", passed.pop("wait"))
        names, means = self.means.shared()
        copy, seconds = HostCopy(means, guard.shared()), self.clock.take()
        self.means.reset()
        steps, self._last = self.state.step - self._last, self.state.step
        rate = steps * self.stage.batch / max(1e-9, seconds["step"] + seconds.get("data", 0.0))
        beside: dict[str, Any] = {f"time/{part}": value for part, value in seconds.items()}
        beside |= {f"loader/{part}": value for part, value in passed.items()}
        beside |= {"lr": lr, f"{self.task.unit}_per_second": rate, "split": "train"}
        position = StagePosition(self.stage.name, self.stage.steps, self._done)
        self._row = _Row(self._place(), names, beside, position, warnings, guard, copy)

    def finish_row(self, check: Callable[[int, NotFinite | None], None]) -> bool:
        """Write the row that was begun, with the warnings of the task's diagnosis; return whether there was one.

        ``check`` is called first, with its step and what the guard had found; the row is not written if it raises.
        """
        row, self._row = self._row, None
        if row is None:
            return False
        means, record = row.copy.read()
        check(row.place["step"], row.guard.finding(record))
        values = dict(zip(row.names, means.tolist(), strict=True)) | row.beside
        warnings = row.warnings + self.task.diagnose(values, row.position)
        self._write(row.place, values | ({"warnings": warnings} if warnings else {}))
        for text in warnings:
            logger.warning("step %d: %s", row.place["step"], text)
        rate = values[f"{self.task.unit}_per_second"]
        self.bar.note(f"loss {values['loss']:.3f}  {rate:.0f} {self.task.unit}/s")
        return True

    def rescue_row(self) -> None:
        """Write the row begun when an error ends the run, if it arrives soon and all of it was finite."""

        def check(step: int, finding: NotFinite | None) -> None:
            if finding is not None:
                raise ValueError

        with suppress(Exception):  # nothing takes the error's place
            if self._row is not None and self._row.copy.arrives(SOON):
                self.finish_row(check)

    def add(self, row: dict[str, Any]) -> None:
        """Write ``row`` of this step, which names its ``split``."""
        self._write(self._place(), row)

    def _place(self) -> dict[str, Any]:
        epoch = self.state.epochs + self._done / self.stage.per_epoch
        return {"step": self.state.step, "epoch": round(epoch, 4), "stage": self.stage.name}

    def _write(self, place: dict[str, Any], row: dict[str, Any]) -> None:
        if self.run is None:
            return
        self.run.metrics(place | row)
        self.run.status("running", place["step"], place["stage"])
        if self.tracker is not None:
            self.tracker.wake()

    def close(self) -> None:
        """Send the tracker what is left; nothing is written after this."""
        if self.tracker is not None:
            self.tracker.close()

    @property
    def _done(self) -> int:
        return self.state.step - self.state.stage_start
