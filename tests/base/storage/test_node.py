"""A node's files: made by one process for all, which wait as long as it goes on."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from dira_scale.base.storage import node

CONTENT = b"all of it"
MAKER = """
import os, sys, time
from dira_scale.base.storage.node import made_once

def make(file):
    file.write(b"all ")
    file.flush()
    print("begun", flush=True)
    for _ in range(int(sys.argv[1])):
        time.sleep(0.05)
        os.utime(file.fileno())
    time.sleep(float(sys.argv[2]))
    file.write(b"of it")

made_once("name", make)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setattr(node, "POLL", 0.01)
    return tmp_path / "cache" / "dira_scale" / "manifests"


def refuse(_: BinaryIO) -> None:
    raise AssertionError("another process makes it")


def write(file: BinaryIO) -> None:
    file.write(CONTENT)


def begun(signs: int, silence: float) -> "subprocess.Popen[bytes]":
    """A process that is making the file."""
    maker = subprocess.Popen([sys.executable, "-c", MAKER, str(signs), str(silence)], stdout=subprocess.PIPE)
    assert maker.stdout and maker.stdout.readline() == b"begun\n"
    return maker


def test_the_others_wait_as_long_as_it_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than they wait for a process that is silent."""
    monkeypatch.setattr(node, "PATIENCE", 0.5)
    maker = begun(signs=30, silence=0)  # 1.5 s
    assert node.made_once("name", refuse).read_bytes() == CONTENT
    assert maker.wait(30) == 0 and [path.name for path in place.iterdir()] == ["name"]


def test_one_that_is_silent_or_killed_is_told_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = begun(signs=0, silence=60)
    monkeypatch.setattr(node, "PATIENCE", 0.2)
    with pytest.raises(TimeoutError, match=r"another process makes .*name, and has not gone on for 0.2 s"):
        node.made_once("name", refuse)
    maker.send_signal(signal.SIGKILL)
    maker.wait(30)
    assert node.made_once("name", write).read_bytes() == CONTENT  # nothing of the killed one's is left in it


def test_what_is_finished_between_two_looks_is_not_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def late(file: BinaryIO, how: int) -> None:
        (place / "name").write_bytes(CONTENT)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert node.made_once("name", refuse).read_bytes() == CONTENT
    assert [path.name for path in place.iterdir()] == ["name"]


def test_a_place_that_cannot_keep_it_leaves_it_to_the_next(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full, or without locks, as Lustre may be."""
    full, unlocked = tmp_path / "full", tmp_path / "unlocked"
    monkeypatch.setattr(node, "_places", lambda: [(folder, False) for folder in (full, unlocked, tmp_path / "good")])
    flock = fcntl.flock

    def only_elsewhere(file: BinaryIO, how: int) -> None:
        if str(unlocked) in str(file.name):
            raise OSError(errno.ENOLCK, "No locks available")
        flock(file, how)

    def make(file: BinaryIO) -> None:
        if str(full) in str(file.name):
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(CONTENT)

    monkeypatch.setattr(fcntl, "flock", only_elsewhere)
    path = node.made_once("name", make)
    assert path.is_relative_to(tmp_path / "good") and path.read_bytes() == CONTENT
    assert not list(full.rglob("name*"))


def test_places_on_network_disks_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of mounts as in proc(5); a folder that is named is taken."""
    home, mounts = tmp_path / "my home", tmp_path / "mountinfo"
    mounts.write_text(
        "20 1 8:1 / / rw - ext4 /dev/sda rw\n"
        f"21 20 0:40 / {str(home).replace(' ', chr(92) + '040')} rw,relatime shared:3 - nfs4 server:/home rw\n"
    )
    monkeypatch.setattr(node, "MOUNTS", mounts)
    monkeypatch.setenv("HOME", str(home))
    assert node.on_network(home / "x") and not node.on_network(tmp_path)
    assert node.made_once("name", write).is_relative_to(tmp_path / "cache")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert node.made_once("name", write).is_relative_to(tmp_path / "tmp" / f"dira_scale-node-{os.getuid()}")
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "job"))
    assert node.made_once("name", write).is_relative_to(tmp_path / "job")


def test_a_folder_of_another_user_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_places", lambda: [(tmp_path, True), (tmp_path / "mine", False)])
    (tmp_path / "dira_scale-node-7").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 7)
    assert node.made_once("name", write).is_relative_to(tmp_path / "mine")


def test_what_nobody_opens_is_removed(place: Path) -> None:
    old, young = node.made_once("old", write), node.made_once("young", write)
    os.utime(old, (0, 0))
    node.made_once("old", refuse)  # opening counts as use
    assert time.time() - old.stat().st_mtime < 60
    os.utime(young, (0, 0))
    node.made_once("new", write)
    assert sorted(path.name for path in place.iterdir()) == ["new", "old"]
