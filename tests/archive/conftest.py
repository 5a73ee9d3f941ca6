"""The folders of a user, and what is patched for all."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from archive import ingest
from archive.sandbox import FOLDERS

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """By another process, as long as this lasts."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline()
        yield
    finally:
        holder.kill()
        holder.wait(30)


@pytest.fixture
def png_folder(tmp_path: Path) -> Path:
    return ingest.pngs(tmp_path / "source")


@pytest.fixture
def sandbox() -> Iterator[Path]:
    """Folders of a user who runs the converter (``ingest.sandbox``); their names are short, as sockets' must be."""
    with tempfile.TemporaryDirectory(prefix="s-") as name:
        home = Path(name)
        for folder in FOLDERS:
            (home / folder).mkdir()
        yield home
        for path in home.rglob("*"):
            if not path.is_symlink() and path.is_file():
                path.chmod(0o600)


@pytest.fixture(autouse=True)
def own_hash_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", ingest.HASH_KEY)
