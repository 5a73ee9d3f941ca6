"""Writing a dataset: locks, the check that all processes write the same one, and the shards that are missing."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.archive import as_data
from dira_scale.archive.output import LOCK, PARTIAL, PLAN_FILE, differences, finished
from dira_scale.archive.plan import PlannedShards
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.slices import Refused
from dira_scale.archive.writer import Conversion, WrittenShard, write_shards
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import publish, write_atomic, write_json
from dira_scale.base.storage.store import as_os_error, is_local, remove
from dira_scale.dataset.manifest import MANIFEST_FILE, ShardedDataset, schema_of
from dira_scale.dataset.manifest.foreground import FOREGROUND

T = TypeVar("T")
STATE = b"dira_scale"  # in the metadata of a state's schema: what it has beside the rows
VOXELS = pa.field("foreground", pa.list_(pa.struct(list(FOREGROUND))))  # a row of foreground.parquet for each class


class ShardSlice(NamedTuple):
    """The shards that one process writes, which are neighbours in the plan."""

    number: int = 1  # from 1
    total: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "ShardSlice":
        """Parse ``3/16``; null means all. Raises UserError."""
        number, slash, total = (text or "1/1").partition("/")
        if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
            raise UserError(f"slice={text}: give K/N with K from 1 to N, such as 3/16")
        return cls(int(number), int(total))

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def shards(self, plan: PlannedShards) -> list[str]:
        """The shards of this slice."""
        shards = list(plan.shards)
        return shards[len(shards) * (self.number - 1) // self.total : len(shards) * self.number // self.total]


ALL = ShardSlice()


def write_dataset(
    out: Path,
    plan: PlannedShards,
    identity: dict[str, Any],
    work: Conversion,
    workers: int,
    join: Callable[[Path], T],
    part: ShardSlice = ALL,
) -> ShardedDataset | T | None:
    """Write the shards of ``part`` that are missing; if that is all of them, ``join`` them from a scratch folder.

    Returns what ``join`` does; the dataset, if others finish it first; None after a slice. Raises UserError if another
    process is writing here, or another recipe or plan was begun.
    """
    with claimed(out, identity, plan, part) as scratch:
        if dataset := finished(out, identity):  # by another process, while this one planned
            return dataset
        mine = part.shards(plan)
        todo = unfinished(out, mine)
        before = sum(len(plan.shards[shard]) for shard in set(mine) - set(todo))
        done = partial(publish_shard, out, made_of(plan, identity), schema_of(plan.channels))
        write_shards(todo, plan, work, workers, scratch, done, before)
        if dataset := finished(out, identity):  # by another machine: stores have no locks
            return dataset
        return join(scratch) if part.total == 1 else None


def state_file(out: Path, shard: str) -> Path:
    """The state file of a finished shard."""
    return out / PARTIAL / f"{Path(shard).stem}.parquet"


def unfinished(out: Path, shards: Iterable[str]) -> list[str]:
    """The ``shards`` without a state file. Raises UserError if an older version has begun."""
    with as_os_error(out):
        there = {path.name for path in (out / PARTIAL).iterdir()} if (out / PARTIAL).exists() else set()
    if any(re.fullmatch(r".+-[0-9]{6}\.json", name) for name in there):
        raise UserError(f"out={out} was begun by an older version, with states of shards in JSON: finish it with that "
                        "version, or delete the folder")  # fmt: skip
    return [shard for shard in shards if state_file(out, shard).name not in there]


class ShardState(NamedTuple):
    """The state of a finished shard keeps this beside its manifest rows until all shards are joined."""

    made_of: str
    size: int
    xxh3: str
    rejected: tuple[Refused, ...]
    noted: tuple[str, ...]


def publish_shard(out: Path, made_of: str, schema: pa.Schema, name: str, part: Path, shard: WrittenShard) -> None:
    """Publish a written shard, then its state, which marks it as finished.

    Without locks, another machine may have finished the dataset in the meantime; then this shard is dropped.
    """
    with as_os_error(out):
        if not is_local(out) and (out / MANIFEST_FILE).exists():
            return
    publish(part, out / name)
    rejected = tuple(Refused(**entry) for entry in shard.rejected)
    state = ShardState(made_of, shard.size, shard.xxh3, rejected, tuple(shard.noted))
    rows = [row | {"attributes": list(row["attributes"].items())} for row in shard.rows]
    kept = schema.append(VOXELS).with_metadata({STATE: as_data.write(state, as_data.NO_PATHS)})
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, kept), file, compression="zstd", write_page_checksum=True)
    write_atomic(state_file(out, name), file.getvalue())


def read_state(out: Path, shard: str, schema: pa.Schema) -> tuple[ShardState, pa.Table, pa.Table]:
    """The state of a finished shard, its rows, and those of ``foreground.parquet``. Raises UserError for one that is
    damaged."""
    with as_data.opened(state_file(out, shard), "delete it, then run the same command again") as file:
        rows = file.read()
        state: ShardState = as_data.read(ShardState, rows.schema.metadata[STATE].decode(), as_data.NO_PATHS)
        voxels = pa.Table.from_struct_array(rows[VOXELS.name].combine_chunks().flatten()).cast(FOREGROUND)
        return state, rows.select(schema.names).replace_schema_metadata().cast(schema), voxels


def made_of(plan: PlannedShards, identity: dict[str, Any]) -> str:
    """Identifies the plan and recipe that a shard was made from."""
    return f"{plan.hash} {identity_hash(identity)}"


@contextlib.contextmanager
def claimed(out: Path, identity: dict[str, Any], plan: PlannedShards, part: ShardSlice) -> Iterator[Path]:
    """Lock ``out``, or a slice of its shards, for this process. An unfinished dataset there must have the same recipe
    and inputs. Yields this machine's folder for unfinished shards.

    Raises UserError if another process holds the lock, or recipe or inputs differ.
    """
    with held(out, part) as scratch:
        begun = read_begun(out)
        if begun is None:
            begun = {"recipe": identity, "plan": plan.hash}
            write_json(out / PARTIAL / PLAN_FILE, begun)
        check_begun(out, begun["recipe"], identity)
        if begun["plan"] != plan.hash:
            raise UserError(f"the images, labels or splits have changed since out={out} was started: delete the folder "
                            "and start again")  # fmt: skip
        yield scratch


def read_begun(out: Path) -> dict[str, Any] | None:
    """Recipe, plan and what is stored of it, of a conversion that was begun. Raises UserError if they are damaged."""
    state = out / PARTIAL / PLAN_FILE
    with as_os_error(state):
        if not state.exists():
            return None
        text = state.read_text()
    try:
        begun: dict[str, Any] = json.loads(text)
        if isinstance(begun["recipe"], dict) and isinstance(begun["plan"], str):
            return begun
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise UserError(f"{state} is damaged: delete it, then run the same command again")


def check_begun(out: Path, recipe: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raises UserError for another ``recipe`` than the one with which ``out`` was begun."""
    if different := differences(recipe, identity):
        raise UserError(f"out={out} holds an unfinished conversion of another recipe ({different}): "
                        "use the same recipe, or delete the folder")  # fmt: skip


@contextlib.contextmanager
def held(out: Path, part: ShardSlice) -> Iterator[Path]:
    """Lock ``out``, or a slice of it, for this process. Yields this machine's folder for what is unfinished.

    Raises UserError if another process holds the lock.
    """
    partial = out / PARTIAL if is_local(out) else _temporary_folder(out)
    partial.mkdir(parents=True, exist_ok=True)
    scratch = partial if part.total == 1 else partial / f"{part.number}-of-{part.total}"
    scratch.mkdir(exist_ok=True)
    with contextlib.ExitStack() as locks:
        if part.total > 1:
            locks.enter_context(_locked(partial / LOCK, fcntl.LOCK_SH, f"out={out}"))
            locks.enter_context(_locked(scratch / "lock", fcntl.LOCK_EX, f"slice {part} of out={out}"))
        else:
            locks.enter_context(_locked(partial / LOCK, fcntl.LOCK_EX, f"out={out} or a slice of it"))
        yield scratch


@contextlib.contextmanager
def _locked(path: Path, how: int, what: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(path.open("w"))
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise BlockingIOError("the lock file was replaced by another process")
        except (BlockingIOError, FileNotFoundError) as error:
            raise UserError(f"another process is writing {what}: wait for it, or choose another out") from error
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


def remove_leftovers(out: Path) -> None:
    """Remove the ``.partial`` of a finished dataset, left by a kill after the manifest was written, or by a late slice.

    Keeps it, which is harmless, while another process uses it or if the folder is read-only.
    """
    if not is_local(out):
        return remove(out / PARTIAL)
    with contextlib.suppress(OSError, UserError), _locked(out / PARTIAL / LOCK, fcntl.LOCK_EX, f"out={out}"):
        remove(out / PARTIAL)
