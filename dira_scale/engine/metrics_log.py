"""The metrics of a run: rows of metrics.jsonl and of a tracker, the figures beside the progress bar, and warnings."""

import logging
from collections.abc import Mapping
from typing import Any

from dira_scale.engine.config import NONE
from dira_scale.engine.means import Clock, Means
from dira_scale.engine.progress import Bar
from dira_scale.engine.state import RunState
from dira_scale.engine.task import StagePlan, StagePosition, Task
from dira_scale.engine.tracker import Tracker
from dira_scale.runs.folder import RunFolder

logger = logging.getLogger(__name__)


class MetricsLog:
    """Every process fills ``means`` and ``clock`` and calls :meth:`add_training_row`; only the main one has ``run`` and
    writes. ``state``, where the run stands, is only read.
    """

    bar: Bar

    def __init__(self, task: Task, state: RunState, run: RunFolder | None, tracker: str) -> None:
        self.task, self.state, self.run = task, state, run
        self.means, self.clock = Means(), Clock()
        self.tracker = Tracker(tracker, run, state.step) if run and tracker != NONE else None
        self._last = state.step  # step of the last row
        self._loading: Mapping[str, float] = {}  # the loader's seconds up to that row

    def begin(self, stage: StagePlan) -> None:
        """Rows belong to this stage from now on; its loader is new."""
        self.stage, self._loading = stage, {}

    def add_training_row(self, lr: float, loading: Mapping[str, float], warnings: list[str]) -> None:
        """Write the means since the last row, with ``warnings`` and those of the task's diagnosis. Collective.

        ``loading``: seconds of the stage's loader so far, by part.
        """
        passed = {part: total - self._loading.get(part, 0.0) for part, total in loading.items()}
        self._loading = loading
        self.clock.add("data", passed.pop("wait"))
        values, seconds = self.means.take(), self.clock.take()
        steps, self._last = self.state.step - self._last, self.state.step
        rate = steps * self.stage.batch / max(1e-9, seconds["step"] + seconds.get("data", 0.0))
        row: dict[str, Any] = values | {f"time/{part}": value for part, value in seconds.items()}
        row |= {f"loader/{part}": value for part, value in passed.items()}
        row |= {"lr": lr, f"{self.task.unit}_per_second": rate, "split": "train"}
        position = StagePosition(self.stage.name, self.stage.steps, self._done)
        warnings = warnings + self.task.diagnose(row, position)
        self.add(row | ({"warnings": warnings} if warnings else {}))
        for text in warnings:
            logger.warning("step %d: %s", self.state.step, text)
        self.bar.note(f"loss {values['loss']:.3f}  {rate:.0f} {self.task.unit}/s")

    def add(self, row: dict[str, Any]) -> None:
        """Write ``row``, which names its ``split``."""
        if self.run is None:
            return
        epoch = self.state.epochs + self._done / self.stage.per_epoch
        self.run.metrics({"step": self.state.step, "epoch": round(epoch, 4), "stage": self.stage.name} | row)
        self.run.status("running", self.state.step, self.stage.name)
        if self.tracker is not None:
            self.tracker.wake()

    def close(self) -> None:
        """Send the tracker what is left; nothing is written after this."""
        if self.tracker is not None:
            self.tracker.close()

    @property
    def _done(self) -> int:
        """Steps of the stage so far."""
        return self.state.step - self.state.stage_start
