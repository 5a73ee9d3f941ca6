"""A server's redirects, against a second server that must not be asked."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from shard_server import serve
from yarl import URL

from dira_scale.base.storage.store import _is_same, locate, open_file, read_ranges
from dira_scale.base.storage.streams import fetch, stream
from dira_scale.dataset.manifest import DatasetError, DatasetInfo


def read_all(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read()


def streamed(path: Path) -> bytes:
    with stream(path, 0, 5, threading.Event()) as (_, blocks):
        return b"".join(blocks)


WAYS: list[Callable[[Path], bytes]] = [
    lambda path: fetch(path, 5),
    read_all,
    streamed,
    lambda path: read_ranges(path, [(0, 5)])[0],
]


@pytest.fixture(autouse=True)
def content(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(name.encode())


@pytest.mark.parametrize("way", WAYS, ids=["fetch", "open", "stream", "ranges"])
@pytest.mark.parametrize(
    "to", ["http://localhost:{port}/b.bin", "http://127.0.0.1:{other}/b.bin", "file:///etc/passwd"]
)
def test_nothing_is_asked_elsewhere(tmp_path: Path, way: Callable[[Path], bytes], to: str) -> None:
    with serve(tmp_path) as near, serve(tmp_path) as far:
        ports = {"port": near.url.rpartition(":")[2], "other": far.url.rpartition(":")[2]}
        near.faults["a.bin"], near.forever = [("to", to.format(**ports))], True
        with pytest.raises(OSError, match=r"redirects to .* not on its host"):
            way(locate(f"{near.url}/a.bin", "data.shards"))
        assert near.requested["a.bin"] == 1  # not tried again
        assert not far.requested and not near.requested["b.bin"]


@pytest.mark.parametrize("way", WAYS, ids=["fetch", "open", "stream", "ranges"])
@pytest.mark.parametrize("to", ["/b.bin", "b.bin", "{url}/b.bin"])
def test_its_own_host_is_followed(tmp_path: Path, way: Callable[[Path], bytes], to: str) -> None:
    with serve(tmp_path) as near:
        near.faults["a.bin"], near.forever = [("to", to.format(url=near.url))], True
        assert way(locate(f"{near.url}/a.bin", "data.shards")) == b"b.bin"


def test_a_dataset_says_where_it_was_sent(tmp_path: Path) -> None:
    with serve(tmp_path) as near:
        near.faults["dataset.json"] = [("to", "http://169.254.169.254/latest/meta-data")]
        with pytest.raises(
            DatasetError, match=r"redirects to http://169\.254\.169\.254/latest/meta-data, .* name that"
        ):
            DatasetInfo.read(locate(near.url, "data.shards") / "dataset.json")


@pytest.mark.parametrize(
    ("url", "to", "same"),
    [
        ("http://a/x", "https://a/y", True),
        ("https://a/x", "http://a/x", False),
        ("http://a:8080/x", "https://a/x", False),
        ("http://a/x", "https://b/x", False),
        ("https://a/x", "https://a.evil/x", False),
        ("https://a/x", "https://a@b/x", False),
        ("https://a/x", "https://A/x", True),
    ],
)
def test_which_server_is_the_same(url: str, to: str, same: bool) -> None:
    assert _is_same(URL(url), URL(to)) == same
