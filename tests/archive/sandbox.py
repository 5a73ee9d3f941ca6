"""The converter among damaged and hostile inputs, by its real command: all good ones come out, each bad one is counted,
nothing else on the disk is touched, and memory and time stay bounded."""

import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from archive.mutants.damage import NAME, Mutant
from here import Here
from omegaconf import OmegaConf

from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.base.config.compose import compose
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.curate.verify import verify

MEMORY = {2: 3 * 2**30, 3: 6 * 2**30}  # address space of a process, 0.7 GiB of which are the libraries
SECONDS = 900
# Ours, in reasons; 1 is a mode of Pillow.
LIMITS = {"0", "1", "3", "8", "16", "32", "255", "65536", str(2**26), str(2**28), str(2**31), str(2**32)}
VALUES = (".raw", ".zraw")
FOLDERS = ("home", "temporary", "cwd", "scratch", "elsewhere", "inputs")


class Conversion(NamedTuple):
    """The manifest's rows and the quarantine's by key, and what the command printed."""

    rows: dict[str, dict[str, Any]]
    quarantine: dict[str, dict[str, Any]]
    printed: str

    @classmethod
    def of(cls, out: Path, printed: str = "") -> "Conversion":
        dataset, quarantine = ShardedDataset.open(out), pq.read_table(out / "quarantine.parquet").to_pylist()
        assert len(quarantine) == dataset.info.quarantined
        rows = {row["key"]: row for row in dataset.table.to_pylist()}
        return cls(rows, {row["source"]: row for row in quarantine}, printed)


def confined(memory: int) -> Callable[[], None]:
    """A child process of so much address space, to whom an unreadable file is unreadable even as root."""

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        with contextlib.suppress(OSError):
            libc = ctypes.CDLL(None)
            for capability in (1, 2):  # to override permissions
                libc.prctl(24, capability, 0, 0, 0)

    return confine


def run(words: list[str], sandbox: Path, memory: int) -> subprocess.CompletedProcess[str]:
    """The command of a user whose home, working and temporary folders are in ``sandbox``; killed with all its children
    when it takes too long."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # grandchildren whose parent is gone become children of this process
    folders = {"HOME": sandbox / "home", "TMPDIR": sandbox / "temporary", "XDG_CONFIG_HOME": sandbox / "home"}
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=sandbox / "cwd", start_new_session=True, preexec_fn=confined(memory),
        env=os.environ | {name: str(place) for name, place in folders.items()} | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, out, err)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        with contextlib.suppress(ChildProcessError):
            while True:  # whoever forks the workers, and they, so that their memory is known
                os.waitpid(-process.pid, 0)
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


def listing(folder: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything below ``folder`` but the conversions' own: type, size and times."""
    found = {}
    for place, folders, names in os.walk(os.fsencode(folder)):
        folders[:] = [name for name in folders if not (place == os.fsencode(folder) and name.startswith(b"out"))]
        for name in [*folders, *names]:
            path = place + b"/" + name
            if not path.endswith(b".rejected.csv"):
                status = os.lstat(path)
                changed = 0 if path == os.fsencode(folder / "temporary") else status.st_mtime_ns  # sockets of workers
                found[path] = (status.st_mode, status.st_size, changed, status.st_ino)
    return found


def convert(sandbox: Path, out: str, dims: int) -> Conversion:
    """Convert ``sandbox/inputs`` by the real command."""
    ended = run(["dira_scale.shard", *words(sandbox, out, dims)], sandbox, MEMORY[dims])
    assert ended.returncode == 0, (ended.stdout[-2000:], ended.stderr[-4000:])
    # Beside what `shard` itself says of a long or bad run, only libtiff may print: neither the file nor a value.
    expected = (
        r"shard: (warning: \d+ of the first|(listing|sharding): \d+ of)|tempfile\.tif: "
        r"|\w+(Decode|SetupState|FetchNormalTag): "
    )
    lines = [line for line in ended.stderr.splitlines() if not re.match(expected, line)]
    assert not lines, lines
    return Conversion.of(sandbox / out, ended.stdout + ended.stderr)


def convert_good(sandbox: Path, out: str, dims: int) -> Conversion:
    """Convert good inputs only: in this process, as it takes seconds to start one with workers."""
    with here():
        assert main(words(sandbox, out, dims)) == 0
    return Conversion.of(sandbox / out)


@contextlib.contextmanager
def here() -> Iterator[None]:
    """Nothing is given to processes of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("archive.writer", "shard.curate.verify"):
            patch.setattr(f"dira_scale.{place}.worker_pool", Here)
        yield


def words(sandbox: Path, out: str, dims: int) -> list[str]:
    """The command line."""
    keys = {"images": str(sandbox / "inputs")} | ({} if dims == 2 else {"modality": "CT"})
    return [f"recipe={'folder' if dims == 2 else 'volumes'}", f"out={sandbox / out}", "workers=2",
            "recipe.splits={train: 1, val: 0, test: 0}", "recipe.shard_size=40",
            *(f"recipe.{key}={value}" for key, value in keys.items())]  # fmt: skip


def planned(sandbox: Path, dims: int) -> tuple[dict[str, SourceRecord], set[Path]]:
    """All records by their keys, and all files that they are made of."""
    composed = compose("shard", words(sandbox, "out", dims)).recipe
    recipe = Recipe.from_config(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    hasher, _ = recipe.hasher(None)
    listed = list(recipe.make_source().records(2))
    records = {hasher("key", record.name): record for record in listed}
    assert len(records) == len(listed)
    return records, {path for record in listed for path in paths_of(record)}


def paths_of(record: SourceRecord) -> tuple[Path, ...]:
    return record.image.paths if isinstance(record.image, SourceImage) else (record.image,)


def uncounted(sandbox: Path, listed: set[Path], dims: int) -> set[str]:
    """Files that are in no record, neither themselves, nor as slices or frames, nor as the values beside a header."""
    there = [Path(place, file) for place, _, files in os.walk(sandbox / "inputs", followlinks=False) for file in files]
    missing = {path for path in there if path not in listed and Path(os.path.realpath(path)) not in listed}
    return {str(path) for path in missing if dims == 2 or not path.name.endswith(VALUES)}


def place_all(mutants: Sequence[Mutant], folder: Path) -> Callable[[SourceRecord], str]:
    """Make each in a folder of its own, ``m0000`` …; returns the kind of a record, or the name of another folder."""
    for number, mutant in enumerate(mutants):
        (folder / f"m{number:04d}").mkdir(parents=True)
        mutant.place(folder / f"m{number:04d}")

    def kind(record: SourceRecord) -> str:
        inside = [path for path in paths_of(record) if path.is_relative_to(folder)]
        name = inside[0].relative_to(folder).parts[0] if inside else "through a link"
        return mutants[int(name[1:])].kind if re.fullmatch(r"m\d{4}", name) else name

    return kind


def survived(
    sandbox: Path, dims: int, alone: Conversion, kind: Callable[[SourceRecord], str]
) -> Counter[tuple[str, str]]:
    """Convert what is in ``inputs`` now, and assert all that must hold of any conversion.

    ``alone`` came of the good inputs when nothing else was there. Returns what became of the inputs, by their
    ``kind``.
    """
    before = listing(sandbox)
    made = convert(sandbox, "out", dims)
    after = listing(sandbox)
    touched = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert not touched, f"outside the output folder: {touched}"

    kept = ("xxh3", "patient", "study", "size", "low", "high", "spacing", "affine", "height", "width", "depth",
            "mask_size")  # fmt: skip
    for key, row in alone.rows.items():
        assert key in made.rows and {name: made.rows[key][name] for name in kept} == {name: row[name] for name in kept}
    records, listed = planned(sandbox, dims)
    assert not made.rows.keys() & made.quarantine.keys()
    assert made.rows.keys() | made.quarantine.keys() == records.keys(), "inputs that are counted nowhere"
    assert not uncounted(sandbox, listed, dims), "files that no record counts"
    with here():
        assert not verify(sandbox / "out", 1)
    check_privacy(sandbox, made)

    table: Counter[tuple[str, str]] = Counter()
    for key, record in records.items():
        refused = made.quarantine.get(key)
        table[kind(record), f"{refused['stage']}: {refused['reason']}" if refused else "became samples"] += 1
    for (what, outcome), number in sorted(table.items()):
        print(f"{number:5d}  {what:36s}  {outcome}")
    return table


def check_privacy(sandbox: Path, made: Conversion) -> None:
    """Assert that no reason quotes a value or a path, and that no name or path is in what goes out."""
    for reason in {row["reason"] for row in made.quarantine.values()}:
        plain = re.sub(r"\(Process \d+( and \d+)?\)", "", reason)  # in DICOM's own names of its codings
        assert not set(re.findall(r"\d+", plain)) - LIMITS, reason
        assert len(reason) < 150 and reason.isprintable() and not re.search(r"/|Quill|passwd|\bm\d{4}", reason), reason
    published = b"".join(path.read_bytes() for path in (sandbox / "out").iterdir() if path.suffix != ".tar")
    printed = made.printed.replace(str(sandbox / "out"), "")
    for secret in (NAME.encode(), b"passwd", os.fsencode(sandbox), b"\x1b[31mred"):
        assert secret not in published and secret.decode() not in printed
