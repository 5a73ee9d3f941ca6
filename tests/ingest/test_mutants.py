"""Damaged and hostile files among good ones, through the whole converter: all good ones come out, each bad one is
counted, nothing else on the disk is touched, and memory and time stay bounded."""

import contextlib
import ctypes
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from ingest import mutants
from ingest.mutants import NAME, Mutant

from dira_scale.data.manifest import ShardedDataset
from dira_scale.ingest.convert import hasher_of
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sources.base import Input
from dira_scale.ingest.verify import verify

MEMORY = {2: 3 * 2**30, 3: 6 * 2**30}  # address space of a process, 0.7 GiB of which are the libraries
SECONDS = 900
LIMITS = {"3", "8", "16", "32", "65536", str(2**26), str(2**28), str(2**31), str(2**32)}  # ours, in reasons
VALUES = (".raw", ".zraw")


def mutants_2d(seed: int, scratch: Path, outside: Path) -> list[Mutant]:
    rng, valid = random.Random(seed), mutants.images(seed)
    made = [*mutants.bombs(2), *mutants.places({"8.png": valid["8.png"]}, outside), *mutants.dicom_liars(seed),
            *mutants.raster_liars(seed), *mutants.array_liars(mutants.picture(seed))]  # fmt: skip
    for number in range(200):
        name, content = list(valid.items())[number % len(valid)]
        kind, spoilt = mutants.damaged(content, rng)
        made.append(mutants.file(kind, name, spoilt))
    return made


def mutants_3d(seed: int, scratch: Path, outside: Path) -> list[Mutant]:
    rng, valid = random.Random(seed), mutants.volumes(seed, scratch)
    made = [*mutants.bombs(3), *mutants.places(valid["x.nii"], outside), *mutants.array_liars(mutants.voxels(seed)),
            *mutants.nifti_liars(valid["x.nii"]["x.nii"]), *mutants.text_liars(valid["x.mha"], "x.mha", b" = "),
            *mutants.text_liars(valid["x.nrrd"], "x.nrrd", b": ")]  # fmt: skip
    header, values = valid["x.mhd"]["x.mhd"], valid["x.mhd"]["x.raw"]
    made += mutants.companions(header, values, b"ElementDataFile = ", outside)
    nrrd = valid["x.nrrd"]["x.nrrd"].partition(b"\n\n")[0]
    made += mutants.companions(nrrd + b"\ndata file: x.raw\n\n", values, b"data file: ", outside)
    for number in range(200):
        which = list(valid)[number % len(valid)]
        contents = dict(valid[which]) if which != "series" else mutants.series(seed + 1 + number)
        name = rng.choice(list(contents))
        kind, contents[name] = mutants.damaged(contents[name], rng)
        made.append(mutants.files(kind, contents))
    return made


def chosen(made: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """``count`` of them, as many of each kind as there are."""
    rng, kinds = random.Random(seed), defaultdict(list)
    for mutant in made:
        kinds[mutant.kind].append(mutant)
    for kind in kinds.values():
        rng.shuffle(kind)
    taken: list[Mutant] = []
    while len(taken) < min(count, len(made)):
        taken += [kind.pop() for kind in kinds.values() if kind][: count - len(taken)]
    return taken


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


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Path]:
    for name in ("home", "temporary", "cwd", "scratch", "elsewhere", "inputs"):
        (tmp_path / name).mkdir()
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if not path.is_symlink() and path.is_file():
            path.chmod(0o600)


def listing(folder: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything below ``folder`` but the conversions' own: type, size and times."""
    found = {}
    for place, folders, names in os.walk(os.fsencode(folder)):
        folders[:] = [name for name in folders if not (place == os.fsencode(folder) and name.startswith(b"out"))]
        for name in [*folders, *names]:
            path = place + b"/" + name
            if not path.endswith(b".rejected.csv"):
                status = os.lstat(path)
                found[path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def convert(sandbox: Path, out: str, ingest: SimpleNamespace, dims: int) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """By the real command: its manifest's rows and its quarantine by key; and its process."""
    recipe = "folder" if dims == 2 else "volumes"
    words = ["dira_scale.shard", f"recipe={recipe}", f"recipe.images={sandbox / 'inputs'}", f"out={sandbox / out}",
             "workers=2", "recipe.splits={train: 1, val: 0, test: 0}", "recipe.shard_size=40"]  # fmt: skip
    ended = run(words, sandbox, MEMORY[dims])
    assert ended.returncode == 0, (ended.stdout[-2000:], ended.stderr[-4000:])
    # libtiff has its own say, which names neither the file nor a value
    said = [
        line for line in ended.stderr.splitlines() if not re.match(r"tempfile\.tif: |\w+(Decode|SetupState): ", line)
    ]
    assert not said, said
    dataset = ShardedDataset.open(sandbox / out)
    quarantine = pq.read_table(sandbox / out / "quarantine.parquet").to_pylist()
    assert len(quarantine) == dataset.info.quarantined
    return {row["key"]: row for row in dataset.table.to_pylist()}, {row["source"]: row for row in quarantine}, ended


def good(dims: int, folder: Path, scratch: Path) -> None:
    """Valid inputs of every kind."""
    folder.mkdir()
    if dims == 2:
        for name, content in mutants.images(10**6).items():
            (folder / name).write_bytes(content)
        return
    for kind, contents in mutants.volumes(10**6, scratch).items():
        (folder / f"of {kind}").mkdir()
        for name, content in contents.items():
            (folder / f"of {kind}" / name).write_bytes(content)


def accounted(sandbox: Path, ingest: SimpleNamespace, dims: int) -> tuple[dict[str, str], set[str]]:
    """The folder below ``inputs`` that each key of the plan is of; and the folders of no input.

    Every file is in one record: itself, or as one of its slices or frames, or as the values beside a header.
    """
    name = "folder" if dims == 2 else "volumes"
    recipe = Recipe.from_config(ingest.recipe(name, images=str(sandbox / "inputs")))
    hasher, _ = hasher_of(recipe, None)
    owners: dict[str, str] = {}
    listed: set[Path] = set()
    for record in recipe.make_source().records(2):
        paths = record.image.paths if isinstance(record.image, Input) else (record.image,)
        key = hasher("key", record.name)
        assert key not in owners
        below = [path for path in paths if path.is_relative_to(sandbox / "inputs")]
        owners[key] = below[0].relative_to(sandbox / "inputs").parts[0] if below else "through a link"
        listed.update(paths)
    there = [Path(place, file) for place, _, files in os.walk(sandbox / "inputs", followlinks=False) for file in files]
    missing = {path for path in there if path not in listed and Path(os.path.realpath(path)) not in listed}
    if dims == 3:
        missing = {path for path in missing if not path.name.endswith(VALUES)}
    return owners, {str(path) for path in missing}


@pytest.mark.parametrize(
    "dims, count",
    [
        (2, 60),
        (3, 50),
        pytest.param(2, 600, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
        pytest.param(3, 600, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
    ],
)
def test_mutants_among_good_files(sandbox: Path, ingest: SimpleNamespace, dims: int, count: int) -> None:
    inputs, outside = sandbox / "inputs", sandbox / "elsewhere" / "outside"
    outside.write_bytes(b"Quillfeather's letter")
    good(dims, inputs / "good", sandbox / "scratch")
    alone, refused, _ = convert(sandbox, "out-alone", ingest, dims)
    assert alone and not refused, refused
    made = chosen((mutants_2d if dims == 2 else mutants_3d)(7, sandbox / "scratch", outside), count, seed=count)
    for number, mutant in enumerate(made):
        (inputs / f"m{number:04d}").mkdir()
        mutant.place(inputs / f"m{number:04d}")
    before, started = listing(sandbox), time.monotonic()
    rows, quarantine, ended = convert(sandbox, "out", ingest, dims)
    seconds = time.monotonic() - started
    after = listing(sandbox)
    assert {path: after.get(path) for path in before} == before, "something outside the output folder was touched"
    assert after.keys() == before.keys(), after.keys() - before.keys()

    kept = ("xxh3", "patient", "study", "size", "low", "high", "spacing", "affine", "height", "width", "depth")
    for key, row in alone.items():
        assert key in rows and {name: rows[key][name] for name in kept} == {name: row[name] for name in kept}
    owners, missing = accounted(sandbox, ingest, dims)
    assert not missing, "files that no record counts"
    assert not rows.keys() & quarantine.keys() and rows.keys() | quarantine.keys() == owners.keys()
    assert not verify(sandbox / "out", 1)

    table: Counter[tuple[str, str]] = Counter()
    for key, owner in owners.items():
        kind = made[int(owner[1:])].kind if re.fullmatch(r"m\d{4}", owner) else owner
        table[
            kind, "became samples" if key in rows else f"{quarantine[key]['stage']}: {quarantine[key]['reason']}"
        ] += 1
    for reason in {row["reason"] for row in quarantine.values()}:
        assert not set(re.findall(r"\d+", reason)) - LIMITS, reason
        assert len(reason) < 120 and reason.isprintable() and not re.search(r"/|Quill|passwd|\bm\d{4}", reason), reason
    published = b"".join(path.read_bytes() for path in (sandbox / "out").iterdir() if path.suffix != ".tar")
    for secret in (NAME.encode(), b"passwd", os.fsencode(sandbox), b"\x1b[31mred"):
        assert secret not in published and secret.decode() not in ended.stdout.replace(str(sandbox / "out"), "")
    for kind in {"good, with an odd name"} & {mutant.kind for mutant in made}:
        assert {outcome for name, outcome in table if name == kind} == {"became samples"}, table
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\n{dims}D: {len(made)} mutants, {len(owners)} inputs, {seconds:.0f} s, {peak:.2f} GiB at most in a process")
    for (kind, outcome), number in sorted(table.items()):
        print(f"{number:5d}  {kind:36s}  {outcome}")
