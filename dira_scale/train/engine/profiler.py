"""``profile.steps``: a trace of some steps, their parts by name, and on a GPU what memory they took."""

import logging
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from dira_scale.base.storage.atomic import write_atomic
from dira_scale.train.distributed.collectives import rank
from dira_scale.train.engine.config import Profile
from dira_scale.train.runs import lease

logger = logging.getLogger(__name__)

SPANS = DATA, VIEWS, FORWARD, BACKWARD, OPTIMIZER, LOGGING, CHECKPOINT, VALIDATION = (
    "data", "views", "forward", "backward", "optimizer", "logging", "checkpoint", "validation",
)  # fmt: skip
EVENTS = 1_000_000  # allocations and releases in a memory snapshot: the last ones, of the steps before too many


def span(name: str) -> AbstractContextManager[Any]:
    """Around a part of a step: its ``name`` in a trace. Costs nothing while there is none."""
    return record_function(name) if torch.autograd._profiler_enabled() else nullcontext()


class Profiler:
    """Traces the steps of ``profile.steps`` that this call of the command takes; use as a context manager.

    Every process writes its own to ``profile/`` of the run's ``folder``: a Chrome trace and, on a GPU, a snapshot of
    torch's allocator. A file that cannot be written is a warning.

    Args:
        number: of the run's lease.
        step: at which the run stands.
    """

    def __init__(self, config: Profile, folder: Path, number: int, step: int, device: torch.device) -> None:
        self.folder, self.number, self.device = folder, number, device
        self.first, self.last = config.span() or (step, step)
        self.first = max(self.first, step)
        self._warm = max(step, self.first - 1)  # a step before them is traced, too, and dropped: tracing starts slowly
        self._tracing: profile | None = None
        self._step = step

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception) if error[0] else nullcontext():  # nothing takes its place
            self._end()

    def at(self, step: int) -> None:
        self._step = step
        if self._tracing is not None:
            self._tracing.step()
        if step == self.last:
            self._end()
        elif step == self._warm and step < self.last:
            cuda, steps = self.device.type == "cuda", self.last - self.first
            traced = schedule(wait=0, warmup=self.first - step, active=steps, repeat=1)
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
            self._tracing = profile(activities=kinds, schedule=traced, on_trace_ready=self._write, record_shapes=True)
            if cuda:
                torch.cuda.memory._record_memory_history(max_entries=EVENTS, stacks="python")
            self._tracing.start()

    def _end(self) -> None:
        if self._tracing is None:
            return
        tracing, self._tracing = self._tracing, None
        tracing.stop()
        if self.device.type == "cuda":
            torch.cuda.memory._record_memory_history(enabled=None)

    def _write(self, tracing: profile) -> None:
        if self._step <= self.first:
            return
        folder = self.folder / "profile" / f"{self.first:09d}-{self._step:09d}"
        with tempfile.TemporaryDirectory() as beside:
            written = [Path(beside) / f"rank-{rank()}.json.gz"]
            tracing.export_chrome_trace(str(written[0]))
            if self.device.type == "cuda":
                written.append(Path(beside) / f"rank-{rank()}.memory.pickle")
                torch.cuda.memory._dump_snapshot(str(written[1]))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for file in written:
                    write_atomic(folder / file.name, file.read_bytes(), lambda: lease.check(self.folder, self.number))
            except OSError as error:
                logger.warning("%s cannot be written (%s); training continues", folder, error)
                return
        memory = "" if self.device.type == "cuda" else "; a memory snapshot is of a GPU only"
        logger.info("profile of the steps after %d, to %d: %s%s", self.first, self._step, folder, memory)
