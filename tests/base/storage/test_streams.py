"""A store may send so much at most."""

from pathlib import Path

import pytest
from shard_server import serve

from dira_scale.base.storage.store import locate
from dira_scale.base.storage.streams import fetch


def test_no_more_is_fetched_than_a_file_may_have(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(3_000_000))
    with serve(tmp_path) as server:
        for location in (tmp_path / "a.bin", locate(f"{server.url}/a.bin", "data.shards")):
            assert len(fetch(location, 3_000_000)) == 3_000_000
            with pytest.raises(OSError, match="more than 2999999 bytes"):
                fetch(location, 2_999_999)
