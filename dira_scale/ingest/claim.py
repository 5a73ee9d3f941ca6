"""Who is at work on a dataset that is being made: locks, and that all are making the same."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dira_scale.errors import UserError
from dira_scale.ingest.output import PARTIAL, Slice, differences
from dira_scale.ingest.plan import ShardPlan
from dira_scale.places.atomic import write_json
from dira_scale.places.store import as_os_error, is_local, remove


@contextlib.contextmanager
def claimed(out: Path, identity: dict[str, Any], plan: ShardPlan, share: Slice) -> Iterator[Path]:
    """Hold ``out``, or a slice of its shards, for this process; what is unfinished there must be of the same recipe and
    the same inputs. Gives the folder of this machine for shards that are being written.

    Raises UserError when another process holds it, or recipe or inputs differ.
    """
    here = out / PARTIAL if is_local(out) else _folder_for(out)
    here.mkdir(parents=True, exist_ok=True)
    scratch = here if share.of == 1 else here / f"{share.number}-of-{share.of}"
    scratch.mkdir(exist_ok=True)
    with contextlib.ExitStack() as locks:
        if share.of > 1:
            locks.enter_context(_locked(here / "lock", fcntl.LOCK_SH, f"out={out}"))
            locks.enter_context(_locked(scratch / "lock", fcntl.LOCK_EX, f"slice {share} of out={out}"))
        else:
            locks.enter_context(_locked(here / "lock", fcntl.LOCK_EX, f"out={out} or a slice of it"))
        _agree(out, identity, plan)
        yield scratch


class _HeldError(UserError):
    """Another process holds a lock."""


@contextlib.contextmanager
def _locked(path: Path, how: int, what: str) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise BlockingIOError("its holder removed it, and a third process made another")
        except (BlockingIOError, FileNotFoundError) as error:
            raise _HeldError(f"another process is writing {what}: wait for it, or choose another out") from error
        yield


def _folder_for(out: Path) -> Path:
    """Of this machine and user, the same at every call, so that what a killed process left there is found again."""
    name = f"dira_scale-{os.getuid()}-{hashlib.sha256(str(out).encode()).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to somebody else: set TMPDIR to a folder of your own")
    return folder


def _agree(out: Path, identity: dict[str, Any], plan: ShardPlan) -> None:
    state = out / PARTIAL / "plan.json"
    with as_os_error(state):
        if not state.exists():
            write_json(state, {"recipe": identity, "plan": plan.hash})
        begun = json.loads(state.read_text())
    if different := differences(begun["recipe"], identity):
        raise UserError(f"out={out} holds an unfinished conversion of another recipe ({different}): "
                        "give the same one, or delete the folder")  # fmt: skip
    if begun["plan"] != plan.hash:
        raise UserError(f"the images, labels or splits have changed since out={out} was begun: delete the folder "
                        "and begin again")  # fmt: skip


def remove_leftovers(out: Path) -> None:
    """Remove the ``.partial`` of a finished dataset: of a kill between the manifest and the end, or of a late slice.

    Not while another process is at work there, nor where nothing may be written: it does no harm.
    """
    if not is_local(out):
        return remove(out / PARTIAL)
    with contextlib.suppress(OSError, _HeldError), _locked(out / PARTIAL / "lock", fcntl.LOCK_EX, f"out={out}"):
        remove(out / PARTIAL)
