"""Writing checkpoints while training continues."""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.store import as_os_error
from dira_scale.train.distributed.control import AgreedError, RunEndedError, gather_objects
from dira_scale.train.distributed.long_work import Gather, LongWork
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.runs.checkpoint.folder import folder_name, publish, remedy, remove, unfinished_path
from dira_scale.train.runs.checkpoint.pointers import best_checkpoints, update_pointers
from dira_scale.train.runs.checkpoint.reading import FORMAT_VERSION, sealed
from dira_scale.train.runs.checkpoint.slices import NAMES, CheckpointTensor, part_file, slices_of
from dira_scale.train.runs.checkpoint.stored import checksums
from dira_scale.train.runs.complete import complete
from dira_scale.train.runs.lease import LeaseLostError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class NotSavedError(RunEndedError):
    """A run ends but its newest checkpoint could not be written. Raised on all ranks alike."""


@dataclass(frozen=True)
class Refusal:
    """The reason why the disk or the store refused a checkpoint, and what to do."""

    why: str
    remedy: str


class Checkpointer:
    """Writes checkpoints of ``rank`` of ``world`` writers in a thread, one at a time.

    Every rank passes tensors of the same names, and writes its share of what it holds. If the disk or the store
    refuses a checkpoint, it is skipped and training continues: all ranks know (:attr:`failed`), the main one has the
    warning (:meth:`take_warnings`).

    Args:
        keep: how many of the newest checkpoints to keep, beside the best of each stage.
        lease: separates the unfinished checkpoints of two holders of the run.
        check_lease: called right before every write or removal that others see; raises ``LeaseLostError`` if another
            process has taken over the run.
        gather: returns a value from each writer, by rank; called on all of them.
        alive: called every second while training waits for writers that are all alive (for the watchdog).
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        rank: int,
        world: int,
        lease: int = 1,
        check_lease: Callable[[], None] = lambda: None,
        gather: Gather = gather_objects,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.keep, self.rank, self.world = folder, keep, rank, world
        self.lease, self.check_lease = lease, check_lease
        self.long_work, self.alive = LongWork(gather), alive
        self.failed = ""  # why the newest checkpoint was not written; empty where it was
        self._remedy = ""
        self._warnings: list[str] = []
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, pieces: dict[str, CheckpointTensor], state: dict[str, Any], best: dict[str, int]) -> None:
        """Copy this rank's share of ``pieces`` now, write it while training continues.

        ``state`` is JSON; ``best`` is the step of each stage's best checkpoint. An unexpected error of an earlier write
        (not a refusal of the disk) is raised here or in :meth:`wait`.
        """
        self.wait()
        content = part_file(pieces, slices_of(pieces, self.rank, self.world))
        about = {name: (NAMES[piece.held.dtype], list(piece.shape)) for name, piece in pieces.items()}
        index = {"format": FORMAT_VERSION, "step": step, "lease": self.lease, "tensors": about}
        index |= {"state": json.loads(json.dumps(state))}  # a copy: training changes it
        self._thread = threading.Thread(target=self._write, args=(step, content, index, dict(best)), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is written, or refused.

        Raises NotSavedError on all ranks if a disk or store hangs.
        """
        while self._thread is not None:
            signs = self.long_work.signs_of_life
            self._thread.join(TIMINGS.pulse)
            if not self._thread.is_alive():
                self._thread = None
            elif self.long_work.signs_of_life != signs:
                self.alive()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def finish_write(self, seconds: float = 60.0) -> None:
        """At the end of a run, give a write under way time to finish: it may be the newest checkpoint."""
        if self._thread is not None:
            self._thread.join(seconds)
        if self._failure is not None:  # no later wait() will raise it
            logger.warning("the newest checkpoint was not written: %r", self._failure)

    def raise_if_not_saved(self, first: bool = False) -> None:
        """Make sure that the newest checkpoint was written; ``first``: there is none before it to resume from.

        Raises NotSavedError on all ranks if it could not be written.
        """
        self.wait()
        if self.failed:
            follows = "starts again, as there is no other yet" if first else "resumes from the one before"
            raise NotSavedError(f"{self.failed}. {self._remedy}, then run the same command again: it {follows}")

    def read_on_all(self, read: Callable[[], T]) -> T:
        """Return what ``read`` returns here, once all processes have read. Waits for slow disks and stores as long as
        all processes are alive. All of them call this, while nothing is being written.

        Raises AgreedError on all of them if it fails or hangs on one.
        """
        return self.long_work.raise_on_all(read, "the checkpoint to resume from is not read", AgreedError)

    def take_warnings(self) -> list[str]:
        """The warnings since the last call; on the main process only."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def update_pointers(self, step: int, best: dict[str, int]) -> None:
        """Set LATEST to ``step`` and BEST to the steps in ``best``; remove pointers to checkpoints that are gone."""
        update_pointers(self.folder, step, best, self.check_lease)

    def _write(self, step: int, content: bytearray, index: dict[str, Any], best: dict[str, int]) -> None:
        what = f"the checkpoint of step {step}"
        failing = f"{what} is not written"
        try:
            parts = self.long_work.results_of_all(lambda: self._part(step, content), failing, NotSavedError)
            refused_part = next((part for part in parts if isinstance(part, Refusal)), None)
            (refused, *_) = self.long_work.results_of_all(
                lambda: self._conclude(step, index | {"parts": parts}, best, refused_part), failing, NotSavedError
            )
            self.failed = f"{what} could not be written ({refused.why})" if refused else ""
            self._remedy = refused.remedy if refused else ""
            if refused and self.rank == 0:
                self._warnings.append(f"{self.failed}; training continues")
        except BaseException as failure:
            self._failure = failure  # raised in the training thread by the next wait()

    def _part(self, step: int, content: bytearray) -> dict[str, Any] | Refusal:
        """Write this rank's part. Returns its row in the index, or why it could not be written."""
        self.check_lease()
        path = unfinished_path(self.folder, folder_name(step), self.lease)
        path = path / f"part-{self.lease}-{self.rank:05d}-of-{self.world:05d}.safetensors"
        try:
            with as_os_error(path):
                path.parent.mkdir(exist_ok=True)
                write_atomic(path, content)
        except OSError as error:
            return self._refusal(error)
        return {"file": path.name, "size": len(content), "xxh3": checksums(content)}

    def _conclude(
        self, step: int, index: dict[str, Any], best: dict[str, int], refused: Refusal | None
    ) -> Refusal | None:
        """On the main process: publish all parts as a checkpoint, or remove them. Returns the refusal, if any."""
        if self.rank:
            return None
        written = unfinished_path(self.folder, folder_name(step), self.lease)
        if refused is None:
            try:
                with as_os_error(self.folder, LeaseLostError):
                    publish(written, self.folder / folder_name(step), sealed(index), self.check_lease)
            except OSError as error:
                refused = self._refusal(error)
            else:
                self._remove_old(step, best)
                return None
        with suppress(OSError), as_os_error(self.folder, LeaseLostError):  # or else it is removed at the next start
            if written.exists() and written not in complete(self.folder):
                self.check_lease()
                remove(written)
        return refused

    def _remove_old(self, step: int, best: dict[str, int]) -> None:
        """Update the pointers, then remove all but the newest ``keep`` checkpoints and the best of each stage."""
        try:
            with as_os_error(self.folder, LeaseLostError):
                self.update_pointers(step, best)
                kept = best_checkpoints(self.folder) | {folder_name(step)}
                for old in complete(self.folder)[: -self.keep]:
                    if old.name not in kept:
                        self.check_lease()
                        remove(old)
        except OSError as error:
            self._warnings.append(
                f"the checkpoint of step {step} is written, but not its pointers, or old ones not removed ({error})"
            )

    def _refusal(self, error: OSError) -> Refusal:
        return Refusal(str(error), remedy(self.folder, error))
