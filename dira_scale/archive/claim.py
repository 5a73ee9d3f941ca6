"""Locks on an unfinished dataset, and the check that all processes write the same one."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dira_scale.archive.output import LOCK, PARTIAL, PLAN_FILE, Share, differences
from dira_scale.archive.plan import PlannedShards
from dira_scale.errors import UserError
from dira_scale.storage.atomic import write_json
from dira_scale.storage.store import as_os_error, is_local, remove


@contextlib.contextmanager
def claimed(out: Path, identity: dict[str, Any], plan: PlannedShards, share: Share) -> Iterator[Path]:
    """Lock ``out``, or a slice of its shards, for this process. An unfinished dataset there must have the same recipe
    and inputs. Yields this machine's folder for unfinished shards.

    Raises UserError if another process holds the lock, or recipe or inputs differ.
    """
    partial = out / PARTIAL if is_local(out) else _temporary_folder(out)
    partial.mkdir(parents=True, exist_ok=True)
    scratch = partial if share.of == 1 else partial / f"{share.number}-of-{share.of}"
    scratch.mkdir(exist_ok=True)
    with contextlib.ExitStack() as locks:
        if share.of > 1:
            locks.enter_context(_locked(partial / LOCK, fcntl.LOCK_SH, f"out={out}"))
            locks.enter_context(_locked(scratch / "lock", fcntl.LOCK_EX, f"slice {share} of out={out}"))
        else:
            locks.enter_context(_locked(partial / LOCK, fcntl.LOCK_EX, f"out={out} or a slice of it"))
        _check_same_plan(out, identity, plan)
        yield scratch


class _LockedError(UserError):
    """Another process holds a lock."""


@contextlib.contextmanager
def _locked(path: Path, how: int, what: str) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise BlockingIOError("the lock file was replaced by another process")
        except (BlockingIOError, FileNotFoundError) as error:
            raise _LockedError(f"another process is writing {what}: wait for it, or choose another out") from error
        yield


def _temporary_folder(out: Path) -> Path:
    """Return a path that is the same at every call for this machine and user, so that what a killed process left there
    is found again."""
    name = f"dira_scale-{os.getuid()}-{hashlib.sha256(str(out).encode()).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user: set TMPDIR to a folder of your own")
    return folder


def _check_same_plan(out: Path, identity: dict[str, Any], plan: PlannedShards) -> None:
    state = out / PARTIAL / PLAN_FILE
    with as_os_error(state):
        if not state.exists():
            write_json(state, {"recipe": identity, "plan": plan.hash})
        started = json.loads(state.read_text())
    if different := differences(started["recipe"], identity):
        raise UserError(f"out={out} holds an unfinished conversion of another recipe ({different}): "
                        "use the same recipe, or delete the folder")  # fmt: skip
    if started["plan"] != plan.hash:
        raise UserError(f"the images, labels or splits have changed since out={out} was started: delete the folder "
                        "and start again")  # fmt: skip


def remove_leftovers(out: Path) -> None:
    """Remove the ``.partial`` of a finished dataset, left by a kill after the manifest was written, or by a late slice.

    Keeps it, which is harmless, while another process uses it or if the folder is read-only.
    """
    if not is_local(out):
        return remove(out / PARTIAL)
    with contextlib.suppress(OSError, _LockedError), _locked(out / PARTIAL / LOCK, fcntl.LOCK_EX, f"out={out}"):
        remove(out / PARTIAL)
